"""Evaluates a run on its own split, or on another folder of labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imgbench.cells import visible
from imgbench.cli import add_options, guarded_main, output_directory, run_parser
from imgbench.errors import UserError
from imgbench.progress import loading
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.report.evaluate import Evaluation

EXAMPLES = """examples:
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --split val
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --sensitivity 0.95
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --data "/photos from the field"
"""


def evaluate(
    run: str | Path,
    split: Literal["test", "val", "train"] = "test",
    data: str | Path | None = None,
    output: str | Path | None = None,
    sensitivity: float | None = None,
    allow_seen: bool = False,
) -> "Evaluation":
    """Measures a run directory, a checkpoint or an exported file on its split `train`, `val` or `test`.

    Args:
        split: which images of the run to measure it on; with --data, all images are used.
        data: another folder, with class folders or a table of labels; classes are matched by name.
        output: a new directory for predictions, metrics and pictures, or that of the same evaluation.
        sensitivity: for two classes: a share such as 0.95; for each class, choose on the validation images the
            threshold of its probability that finds this share of the class.
        allow_seen: measure the images of --data even where the model was trained on some of them.

    Raises:
        UserError: no model or no images, a class that the model does not know, or images that it was trained on;
            `output` is a run, or holds another evaluation.
    """
    if not Path(run).is_file():
        Run.open(run)
    if output is not None and (Path(output) / "config.yaml").is_file():
        raise UserError(f"--output {output} is a run, whose own results would be overwritten. Name a new directory.")
    with loading():  # takes seconds, and errors and --help need no torch
        from imgbench.report.evaluate import evaluate as evaluate_model

    folder = None if data is None else Path(data)
    place = None if output is None else output_directory(Path(output))
    return evaluate_model(Path(run), split, folder, place, sensitivity, allow_seen)


def main() -> int:
    parser = run_parser("evaluate", __doc__, EXAMPLES)
    add_options(parser, evaluate)
    args = parser.parse_args()
    found = evaluate(**vars(args))
    print(visible(found.table()))
    if args.output:
        print(f"Written to {args.output}")
    return 1 if found.left_out else 0


if __name__ == "__main__":
    guarded_main(main)
