"""Compares runs: configurations with their seeds or folds, whether they differ, and what they cost.

Runs that differ only in the seed or the fold are one configuration. Each pair of configurations is tested on the same
test images, with p values corrected for the number of pairs. Differences that chance may explain are called "not
distinguishable". With --output DIR there are tables in CSV, Markdown and LaTeX, figures for a paper, a page, and the
photographs on which they differ.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from imgbench.cli import add_options, argument_texts, guarded_main, output_directory, run_parser
from imgbench.errors import UserError
from imgbench.language import language_of_locale
from imgbench.progress import loading
from imgbench.run import Run
from imgbench.sweep.comparison import Comparison, compare_runs, find_runs
from imgbench.sweep.comparison_tables import COST, FILES, print_comparison, require_free, write_comparison, write_table
from imgbench.sweep.configurations import Metric

EXAMPLES = """examples:
  python -m imgbench.compare outputs/digits/cnn/2026-01-31_12-00-00 outputs/digits/compact/2026-01-31_13-00-00
  python -m imgbench.train -m model=cnn,compact seed=1,2,3       a sweep, whose directory is compared as a whole:
  python -m imgbench.compare outputs/digits/compact/2026-01-31_12-00-00 --output comparison
  python -m imgbench.compare 'outputs/digits/*/*' --metric macro_f1
  python -m imgbench.compare RUN RUN --output comparison --names "small CNN" VGG-16
"""


def compare(
    runs: Sequence[str | Path],
    output: str | Path | None = None,
    any_images: bool = False,
    metric: Metric = "acc",
    names: Sequence[str] | None = None,
    language: Literal["en", "zh"] | None = None,
) -> Comparison:
    """Groups runs by their configuration and tests whether the configurations differ.

    What a model costs is measured once and kept in its run.json.

    Args:
        runs: run directories, directories of them such as a sweep's, and globs.
        output: write the tables, figures and the page into this directory, or only the table of configurations into a
            file that ends in .csv. What is there of the same runs is written anew, and of others it stays.
        any_images: show runs that were tested on different images side by side, without a test of their difference.
        metric: what is tested, and decides which is the best; all are shown.
        names: what to call the configurations, in the order in which their first runs are named.
        language: of the page; otherwise that of the locale.

    Raises:
        UserError: fewer than two runs, one that is not finished, different test images, `output` cannot be written or
            holds something else, or other names than configurations.
    """
    place = None if output is None else Path(output)
    as_file = place is not None and place.suffix.lower() == ".csv" and not place.is_dir()
    compared = find_runs(runs)
    if place is not None:
        require_free(place, compared)
        output_directory(place.parent if as_file else place)
    comparison = compare_runs(compared, any_images, cost_of, metric=metric, names=names)
    if place is not None and as_file:
        write_table(comparison, place)
    elif place is not None:
        write_comparison(comparison, place, language or language_of_locale())
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
    add_options(parser, compare, leave_out=["names"])
    parser.add_argument("--names", nargs="+", metavar="NAME", help=argument_texts(compare)["names"].rstrip("."))
    args = parser.parse_args()
    output = args.output
    print_comparison(compare(args.run, output, args.any_images, args.metric, args.names, args.language))
    if output:
        files = sorted(file for file in FILES.split(", ") if (Path(output) / file).is_file())
        print(f"Written to {output}: {', '.join(files)}" if files else f"Written to {output}")


if __name__ == "__main__":
    guarded_main(main)
