"""Makes a smaller run of a run: reuse, distill, prune, quantize, or several of them in the order given.

Each result is a run directory like any other, trained and tested on exactly its parent's images. The last method's
lies in DIR, those of the methods before it in DIR/stages/1_distill and so on.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from imgbench.cli import guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.run import Run

if TYPE_CHECKING:
    import argparse

METHODS = ("reuse", "distill", "prune", "quantize")
METHOD_OF = {"amount": "prune", "target": "prune", "steps": "prune", "unstructured": "prune", "max_drop": "quantize",
             "calibration": "quantize", "temperature": "distill", "alpha": "distill"}  # fmt: skip
EXAMPLES = """methods:
  reuse     puts another head, such as head=gap, on the body that RUN trained, and trains both on: a fifth of
            RUN's epochs, at its learning rate.
  distill   trains another model, the student, to answer as RUN does: choose it with model=compact. Its epochs
            and its learning rate are RUN's.
  prune     removes channels in steps and fine-tunes after each: a fifth of RUN's epochs, a tenth of its learning rate,
            falling to zero. --unstructured sets single weights to zero instead, which makes nothing faster.
  quantize  int8 for onnxruntime: model.onnx. It comes last.

key=value words override the configuration that RUN was trained with; a choice such as augment=light replaces RUN's.
Of several methods, they are for reuse or distill, else for the first; the next derive their own from its result.

examples:
  python -m imgbench.compress RUN reuse head=gap
  python -m imgbench.compress RUN distill model=compact data.image_size=112
  python -m imgbench.compress RUN prune --amount 0.5 trainer.max_epochs=5
  python -m imgbench.compress RUN prune --target "size<=2MB,drop<=1pt"
  python -m imgbench.compress RUN distill prune quantize model=compact --output outputs/light
"""


def command_line() -> "argparse.ArgumentParser":
    parser = run_parser("compress", __doc__, EXAMPLES)
    parser.add_argument(
        "words", metavar="METHOD or key=value", nargs="+", help="reuse, distill, prune, quantize; overrides"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="the new run directory (default: RUN_METHOD... )")
    group = parser.add_argument_group("prune")
    group.add_argument("--amount", type=float, help="share of each layer's channels to remove (default: 0.5), or with "
                       "--unstructured of its weights (default: 0.3)")  # fmt: skip
    group.add_argument("--target", help='"size<=2MB", "latency<=10ms" (one image on this machine), "drop<=1pt" '
                       "(points of validation accuracy), or several joined by commas")  # fmt: skip
    group.add_argument(
        "--steps", type=int, help="removals, each with fine-tuning (default: 2, with a target 3 or more)"
    )
    group.add_argument("--unstructured", action="store_true", default=None, help="single weights instead of channels")
    group = parser.add_argument_group("distill")
    group.add_argument("--temperature", type=float, help="softens teacher and student (default: 4)")
    group.add_argument("--alpha", type=float, help="weight of the teacher, the labels have the rest (default: 0.9)")
    group = parser.add_argument_group("quantize")
    group.add_argument("--max-drop", type=float, help="points of validation accuracy that may be lost; layers that "
                       "lose more stay in float (default: no bound)")  # fmt: skip
    group.add_argument("--calibration", type=int, metavar="N", help="training images to calibrate on (default: 200)")
    return parser


def check(args: "argparse.Namespace") -> tuple[list[str], list[str]]:
    """The methods and the `key=value` words of a command line.

    Raises:
        UserError: they make no sense together.
    """
    methods = [word for word in args.words if "=" not in word]
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UserError(f"METHOD {' '.join(unknown) or 'is missing'}: it is any of {', '.join(METHODS)}.")
    if "quantize" in methods[:-1]:
        raise UserError(f"{' '.join(methods)}: what is quantised cannot be compressed further. quantize comes last.")
    for option, method in METHOD_OF.items():
        if getattr(args, option) is not None and method not in methods:
            raise UserError(f"--{option.replace('_', '-')} is an option of {method}, which is not asked for.")
    if args.unstructured and (args.target or args.steps):
        raise UserError("--unstructured takes --amount; --target and --steps are for channels.")
    if args.target and args.amount is not None:
        raise UserError("--target finds the amount by itself: leave out --amount or --target.")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps {args.steps}, but it is 1 or more.")
    return methods, [word for word in args.words if "=" in word]


def new_directory(run: Run, methods: list[str], output: Path | None) -> Path:
    """Where the result goes: `output`, or a new name beside the run.

    Raises:
        UserError: `output` holds something.
    """
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output {output} exists. Nothing is overwritten: name a new directory.")
        return output
    name, number = f"{run.path.resolve()}_{'_'.join(methods)}", 1
    path = Path(name)
    while path.exists():
        number += 1
        path = Path(f"{name}_{number}")
    return path


def main() -> int:
    args = command_line().parse_intermixed_args()
    methods, words = check(args)
    parent = Run.open(args.run)
    if args.target:
        from imgbench.compression.target import Target

        Target.parse(args.target)
    from imgbench.compression.methods import Options, compress, weights_file

    weights_file(parent)
    output = new_directory(parent, methods, args.output)
    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    options = Options(**{name: value for name, value in given.items() if value is not None})
    receiver = next((number for number, method in enumerate(methods, 1) if method in ("reuse", "distill")), 1)
    runs = [parent]
    for number, method in enumerate(methods, 1):
        run = Run(output if number == len(methods) else output / "stages" / f"{number}_{method}")
        compress(method, runs[-1], run, options, words if number == receiver else [])
        runs.append(run)
    print_table(runs)
    return 0


def print_table(runs: list[Run]) -> None:
    """The costs and accuracies of the runs, each stored in its `run.json` as well."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from imgbench.compression.methods import cost_of
    from imgbench.evaluation.metrics import describe

    costs = [cost_of(run) for run in runs]
    table = Table(title=f"One image at a time, on {costs[0].threads} thread(s) of the CPU")
    table.add_column("run", overflow="fold")
    for name in ("parameters", "multiply-adds", "MB", "runtime", "ms", "test accuracy"):
        table.add_column(name, justify="right")
    for run, cost in zip(runs, costs, strict=True):
        if run is not runs[0]:
            run.note(cost=asdict(cost), parent_cost=asdict(costs[0]))
        accuracy = json.loads((run.path / "metrics.json").read_text("utf-8"))["test/acc"]
        millions = f"{cost.multiply_adds / 1e6:,.1f} million"
        runtime = "PyTorch" if run.best.is_file() else "onnxruntime"
        numbers = f"{cost.parameters:,}", millions, f"{cost.size_mb:.3g}", runtime, f"{cost.latency_ms:.3g}"
        table.add_row(str(run.shown), *numbers, describe(accuracy))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a log file has no width of its own
    console.print(table)
    facts = runs[-1].info.get("facts", {})
    if "gzip_mb" in facts:
        print(
            f"{facts['zero_share']:.0%} of the weights are zero. They are stored and multiplied all the same: nothing "
            f"is faster. Compressed by gzip, the checkpoint has {facts['gzip_mb']:.3g} MB; "
            f"the parent's {facts['parent_gzip_mb']:.3g} MB."
        )


if __name__ == "__main__":
    guarded_main(main)
