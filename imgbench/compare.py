"""Compares runs: configurations with their seeds or folds, whether they differ, and what they cost.

Runs that differ only in the seed or the fold are one configuration. Each pair of configurations is tested on the same
test images, with p values corrected for the number of pairs. Differences that chance may explain are called "not
distinguishable".
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imgbench.cli import add_options, guarded_main, output_directory, run_parser
from imgbench.errors import UserError
from imgbench.progress import loading
from imgbench.run import Run
from imgbench.sweep.comparison import Comparison, compare_runs, find_runs
from imgbench.sweep.comparison_tables import COST, FILES, print_comparison, write_comparison

EXAMPLES = """examples:
  python -m imgbench.compare outputs/digits/cnn/2026-01-31_12-00-00 outputs/digits/compact/2026-01-31_13-00-00
  python -m imgbench.train -m model=cnn,compact seed=1,2,3       a sweep, whose directory is compared as a whole:
  python -m imgbench.compare outputs/digits/cnn,compact/2026-01-31_12-00-00 --output comparison
  python -m imgbench.compare 'outputs/digits/*/*'
"""


def compare(runs: Sequence[str | Path], output: str | Path | None = None, any_images: bool = False) -> Comparison:
    """Groups runs by their configuration and tests whether the configurations differ.

    What a model costs is measured once and kept in its run.json.

    Args:
        runs: run directories, directories of them such as a sweep's, and globs.
        output: write the tables and the picture into this directory.
        any_images: show runs that were tested on different images side by side, without a test of their difference.

    Raises:
        UserError: fewer than two runs, one that is not finished, different test images, or `output` cannot be written.
    """
    folder = None if output is None else output_directory(Path(output))
    comparison = compare_runs(find_runs(runs), any_images, cost_of)
    if folder is not None:
        write_comparison(comparison, folder)
    return comparison


def cost_of(run: Run) -> dict[str, Any] | None:
    """Parameters, multiply-adds, megabytes and milliseconds of a run's model; None where it or its parent is gone."""
    known = run.info.get("cost")
    if isinstance(known, dict) and known.keys() >= set(COST):
        return known
    if run.model is None:
        return None
    with loading():  # takes seconds, and --help needs no torch
        from imgbench.compression import measure

    try:
        cost = asdict(measure.cost_of(run))
    except UserError as error:  # of a quantised run whose parent is gone: what it costs is not known, how good it is is
        print(f"Note: {error}")
        return None
    with suppress(OSError):  # of another's run, which cannot be written
        run.note(cost=cost)
    return cost


def main() -> None:
    parser = run_parser("compare", __doc__, EXAMPLES, nargs="+", help="run directories, directories of runs, globs")
    add_options(parser, compare)
    args = parser.parse_args()
    print_comparison(compare(args.run, args.output, args.any_images))
    if args.output:
        print(f"Written to {args.output}: {FILES}")


if __name__ == "__main__":
    guarded_main(main)
