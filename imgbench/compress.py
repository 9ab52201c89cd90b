"""Makes a smaller run from a run: reuse, distill, prune, quantize, or several of them in the order given.

Each result is a run directory like any other, trained and tested on the same images as its parent. The result of the
last method lies in PATH, those of earlier methods in PATH/intermediate/1_distill and so on. Repeated, an interrupted
command continues there.
"""

import argparse
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from imgbench.cli import add_options, guarded_main, output_directory, run_parser
from imgbench.compression.lifecycle import INTERMEDIATE, fingerprint, weights_file
from imgbench.compression.options import METHODS, Distill, Method, Quantize, Reuse, name_of
from imgbench.errors import UserError
from imgbench.progress import FACTS, loading, quiet
from imgbench.run import Run

EXAMPLES = """key=value words override the configuration that RUN was trained with; a choice such as augment=light
replaces RUN's. Of several methods, they are for reuse or distill, else for the first; the next derive
their own from its result.

examples:
  python -m imgbench.compress RUN reuse model=vgg16 head=gap
  python -m imgbench.compress RUN distill model=compact data.image_size=112
  python -m imgbench.compress RUN prune --amount 0.5 trainer.max_epochs=5
  python -m imgbench.compress RUN prune --target "size<=2MB,drop<=1pt"
  python -m imgbench.compress RUN distill prune quantize model=compact --output outputs/light
"""


def compress(run: Run, methods: Sequence[Method], words: Sequence[str] = (), output: Path | None = None) -> Run:
    """Applies the methods one after the other, each to the result of the one before; the last run.

    Prints a table of what the runs cost and how accurate they are.

    Args:
        words: `key=value` words that override the run's configuration, for the first method that trains a model of
            another kind (Reuse or Distill), else for the first.
        output: the directory of the last run: new, empty, or where the same was begun and cut off; otherwise
            RUN_METHOD... beside RUN.

    Raises:
        UserError: the methods cannot be applied in this order or to this run, or `output` cannot be used.
    """
    names = [name_of(method) for method in methods]
    if any(isinstance(method, Quantize) for method in methods[:-1]):
        raise UserError(f"{' '.join(names)}: a quantised model cannot be compressed further. Name quantize last.")
    weights_file(run)
    receiver = next((i for i, method in enumerate(methods) if isinstance(method, Reuse | Distill)), 0)
    words_of = [words if i == receiver else [] for i in range(len(methods))]

    def place(output: Path, number: int) -> Run:
        last = number == len(methods) - 1
        return Run(output if last else output / INTERMEDIATE / f"{number + 1}_{names[number]}")

    def is_cut_off(output: Path) -> bool:
        steps = [place(output, number) for number in range(len(methods))]
        return (
            steps[0].holds(fingerprint(methods[0], run, words_of[0]))
            and Run(output).status != "finished"
            and not any(step.is_busy for step in steps)
        )

    output = directory(run, names, output, is_cut_off)
    with loading():  # take seconds, and errors and --help need no torch
        from imgbench.compression import apply, measure

    runs = [run]
    for i, method in enumerate(methods):
        parent, made = runs[-1], place(output, i)
        if made.status == "finished" and made.holds(fingerprint(method, parent, words_of[i])):
            print(f"{made.shown}: finished earlier")
        else:
            with quiet(*FACTS) if i else nullcontext():
                apply.make_run(method, parent, made, words_of[i])
        runs.append(made)
    measure.print_costs(runs)
    return runs[-1]


def directory(run: Run, names: Sequence[str], output: Path | None, is_cut_off: Callable[[Path], bool]) -> Path:
    """Where the result goes: `output`, or a name beside the run; it can be written to.

    It is new, or one in which the same work was cut off.

    Raises:
        UserError: `output` holds something else, or cannot be written to.
    """
    if output is not None:
        taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
        if taken and not is_cut_off(output):
            raise UserError(f"--output {output} exists. Nothing is overwritten: name a new directory.")
        return output_directory(output)
    name, number = f"{run.path.resolve()}_{'_'.join(names)}", 1
    path = Path(name)
    while path.exists() and not is_cut_off(path):
        number += 1
        path = Path(f"{name}_{number}")
    return output_directory(path)


def command_line() -> argparse.ArgumentParser:
    """RUN, the methods and `key=value` words, and each method's options; options that are not given are left out."""
    parser = run_parser("compress", __doc__, EXAMPLES)
    parser.add_argument("words", metavar="METHOD or key=value", nargs="+", help=f"{', '.join(METHODS)}; overrides")
    add_options(parser, compress, leave_out=["words"])
    for name, method in METHODS.items():
        text = inspect.getdoc(method) or ""
        group = parser.add_argument_group(name, text.partition("\n\nArgs:")[0], argument_default=argparse.SUPPRESS)
        add_options(group, method)
    return parser


def build_methods(names: Sequence[str], options: dict[str, Any]) -> list[Method]:
    """The methods of these names, with those of the options that are theirs.

    Raises:
        UserError: there is no such method, or an option is of none of them or out of range.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise UserError(f"METHOD {' '.join(unknown) or 'is missing'}: expected one or more of {', '.join(METHODS)}.")
    owner = {field.name: name for name, method in METHODS.items() for field in fields(method)}
    for option in options:
        if owner[option] not in names:
            raise UserError(
                f"--{option.replace('_', '-')} is an option of {owner[option]}. Name that method too, or leave it out."
            )
    return [
        METHODS[name](**{option: value for option, value in options.items() if owner[option] == name}) for name in names
    ]


def main() -> None:
    args = vars(command_line().parse_intermixed_args())
    run, words, output = args.pop("run"), args.pop("words"), args.pop("output")
    methods = build_methods([word for word in words if "=" not in word], args)
    compress(Run.open(run), methods, [word for word in words if "=" in word], output)


if __name__ == "__main__":
    guarded_main(main)
