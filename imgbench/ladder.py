"""Makes ever lighter classifiers of a run, and measures all of them on the same images in the same runtime.

The rungs are listed in conf/ladder.yaml: other networks, pruned, quantised and distilled ones, and stacks of these.
Each lies in a run directory below DIR; a finished one is not made again, so that an interrupted ladder goes on.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from imgbench.cli import guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.run import CONF, Run, sha256, write_atomically

if TYPE_CHECKING:
    from imgbench.compression.ladder import Rung

EXAMPLES = """examples:
  python -m imgbench.ladder outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.ladder RUN --rungs distilled,distilled_int8 trainer.max_epochs=20
  python -m imgbench.ladder RUN --reference RUN_AT_224_PIXELS --target "size<=2MB,drop<=1pt"

key=value words override RUN's configuration in the rungs that are trained. They count when a rung is made.
"""


def load_plan(names: str | None) -> dict[str, dict[str, Any]]:
    """The rungs to make, each after its parent: all, or those of a comma-separated list and what they need.

    Raises:
        UserError: there is no such rung.
    """
    known: dict[str, dict[str, Any]] = yaml.safe_load((CONF / "ladder.yaml").read_text("utf-8"))
    wanted = set(known) if names is None else set(names.split(","))
    if unknown := wanted - set(known):
        raise UserError(f"--rungs {','.join(sorted(unknown))}: there are {', '.join(known)}.")
    for name in reversed(known):
        if name in wanted and "parent" in known[name]:
            wanted.add(known[name]["parent"])
    return {name: known[name] for name in known if name in wanted}


def make(plan: dict[str, dict[str, Any]], teacher: Run, folder: Path, words: list[str]) -> dict[str, Run]:
    """The runs of all rungs, made where they are not finished yet; several processes may work on one ladder."""
    from imgbench.compression.methods import Options, compress

    runs: dict[str, Run] = {}
    for number, (name, spec) in enumerate(plan.items(), 1):
        run = Run(folder / name)
        own = [*spec.get("words", []), *(words if spec["method"] != "quantize" else [])]
        parent = runs[spec["parent"]] if "parent" in spec else teacher
        step = f"[{number}/{len(plan)}] {name}:"
        with _alone_at(run, step):
            if (run.path / "run.json").is_file() and run.info.get("status") == "finished":
                _check_origin(run, parent)
                print(step, "is there already")
            else:
                print(step, spec["method"], *own, flush=True)
                _clear(run)
                compress(spec["method"], parent, run, Options(**spec.get("options", {})), own)
        runs[name] = run
    return runs


@contextmanager
def _alone_at(run: Run, step: str) -> Iterator[None]:
    """Waits while another process makes the same rung, which would be cleared away as unfinished otherwise."""
    lock = FileLock(run.path.with_name(f".{run.path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(step, "another process makes it; waiting", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_origin(run: Run, parent: Run) -> None:
    """Whether a finished rung was made of the parent as it is now, wherever both have been moved to."""
    if run.info.get("compressed_from", {}).get("sha256") != sha256(parent.best):
        raise UserError(
            f"{run.shown} was not made of {parent.shown} as it is now. Name another directory for its ladder, "
            f"--output DIR, or remove {run.shown} to have it made again."
        )


def _clear(run: Run) -> None:
    """Removes what an interruption has left of a rung: no finished work, and nothing but a run."""
    if not run.path.exists():
        return
    if not (run.path / "run.json").is_file() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UserError(f"{run.path} is no run, and is not overwritten. Name another directory: --output DIR")
    shutil.rmtree(run.path)


def best_rung(rungs: "list[Rung]", target: str) -> "Rung":
    """The rung that is most accurate on the validation images among those that meet the target; of equals the smallest.

    Raises:
        UserError: none does.
    """
    from imgbench.compression.target import Target

    bounds = Target.parse(target)
    reasons = {rung.name: bounds.unmet(rung.size_mb, rung.latency_ms, rung.val_drop) for rung in rungs}
    meeting = [rung for rung in rungs if not reasons[rung.name]]
    if not meeting:
        lines = "\n".join(f"  {name}: {'; '.join(unmet)}" for name, unmet in reasons.items())
        raise UserError(f'--target "{bounds}": no rung meets it.\n{lines}')
    return min(meeting, key=lambda rung: (rung.val_drop, rung.size_mb))


def main() -> int:
    parser = run_parser("ladder", __doc__, EXAMPLES)
    parser.add_argument("words", metavar="key=value", nargs="*", help="override RUN's configuration")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where the rungs lie (default: RUN_ladder)")
    parser.add_argument("--rungs", metavar="NAME,...", help="only these and what they are made of (default: all)")
    parser.add_argument(
        "--reference", metavar="RUN", help="a run on the same images that stands first: sizes and times are against it"
    )
    parser.add_argument(
        "--target", help='"size<=2MB", "latency<=10ms", "drop<=1pt" (of validation accuracy), or several'
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of the runtime in which latency is measured (default: 1)"
    )
    args = parser.parse_intermixed_args()
    return climb(args)


def climb(args: argparse.Namespace) -> int:
    plan = load_plan(args.rungs)
    if wrong := [word for word in args.words if "=" not in word]:
        raise UserError(f"{' '.join(wrong)}: expected key=value. Rungs are chosen by --rungs.")
    teacher = Run.open(args.run)
    reference = Run.open(args.reference) if args.reference else None
    from imgbench.compression.ladder import TEACHER, draw_ladder, measure_rungs, table_lines
    from imgbench.compression.methods import weights_file
    from imgbench.compression.target import Target

    if args.target:
        Target.parse(args.target)
    weights_file(teacher)
    folder = args.output or Path(f"{teacher.path.resolve()}_ladder")
    folder.mkdir(parents=True, exist_ok=True)
    runs = make(plan, teacher, folder, args.words)
    first = {"reference": reference} if reference else {}
    rungs = measure_rungs({**first, TEACHER: teacher, **runs}, args.threads)
    write_atomically(folder / "ladder.json", json.dumps([asdict(rung) for rung in rungs], indent=2) + "\n")
    lines = table_lines(rungs, args.threads)
    write_atomically(folder / "ladder.md", "\n".join(lines) + "\n")
    draw_ladder(rungs, folder / "ladder.png")
    print("\n".join(lines))
    print(f"\nWritten to {Run(folder).shown}: ladder.md, ladder.json, ladder.png, and a run for each rung")
    if args.target:
        chosen = best_rung([rung for rung in rungs if rung.name in runs], args.target)
        print(f"Best rung with {args.target}: {chosen.name}  {Run(folder / chosen.name).shown}")
    return 0


if __name__ == "__main__":
    guarded_main(main)
