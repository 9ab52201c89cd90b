"""Says whether photographs are still like those that a run was validated on: day after day, by one table."""

from collections.abc import Sequence
from pathlib import Path

from imgbench.cli import add_options, add_photographs, guarded_main, run_parser
from imgbench.data.collection import Collection

EXAMPLES = """examples:
  python -m imgbench.drift outputs/potato/vgg16/2026-01-31_12-00-00 photos/
  python -m imgbench.drift RUN incoming/ --output drift.csv        every day; new photographs are added to the table

Photographs are compared one after the other: by the date that cameras wrote into them if all have one, or else in the
order of their names if these differ in numbers alone, or else at random. If nothing has changed, an alarm comes with a
probability of at most 5 %, however long one table is continued; a new table is a new chance. No alarm does not show
that nothing has changed.

A photograph counts once, by its content. Those that the run has learnt from are left out. Exit status 1 says that the
alarm was raised, or that something, named at the end, was left out.
"""


def drift(run: str | Path, photographs: Sequence[str | Path], output: Path | None = None) -> int:
    """Compares photographs with the validation images of a run; returns 1 where somebody has to look, and else 0.

    Args:
        run: a run directory, or the checkpoint or ONNX file in it.
        photographs: files, folders (searched with sub-folders), patterns and shards.
        output: keep a row for each photograph in this table, which ends in .csv, and continue it if it is there; a
            page of the same name lies beside it.

    Raises:
        UserError: no such model or photographs, the run has kept no validation images to compare with, or the table
            cannot be continued.
    """
    collection = Collection([str(photograph) for photograph in photographs])
    from imgbench.report.drift import drift as compare  # takes seconds, and --help needs no torch

    return compare(run, collection, output)


def main() -> int:
    parser = run_parser("drift", __doc__, EXAMPLES)
    add_photographs(parser, "photographs", "PHOTOGRAPHS")
    add_options(parser, drift)
    return drift(**vars(parser.parse_args()))


if __name__ == "__main__":
    guarded_main(main)
