"""Evaluates a run on its own split, or on another folder of labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING

from imgbench.cli import guarded_main, output_directory, run_parser
from imgbench.errors import UserError
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.report.conclude import Evaluation

EXAMPLES = """examples:
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --split val
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --sensitivity 0.95
  python -m imgbench.evaluate outputs/digits/compact/2026-01-31_12-00-00 --data "/photos from the field"
"""


def evaluate(
    run: str | Path,
    split: str = "test",
    data: str | Path | None = None,
    output: str | Path | None = None,
    sensitivity: float | None = None,
    allow_seen: bool = False,
) -> "Evaluation":
    """Measures a run directory, a checkpoint or an ONNX file on its split `train`, `val` or `test`.

    Args:
        data: another folder with a folder for each class, or for each split with class folders.
        output: a directory for predictions, metrics and pictures.
        sensitivity: of two classes, the share of a class that is to be found: for each, the threshold on its
            probability is chosen on the run's validation images.
        allow_seen: go on where images of `data` are, byte for byte, among those that the run was trained on.

    Raises:
        UserError: no model or no images, a class that the model does not know, or images that it was trained on;
            `output` is a run.
    """
    if not Path(run).is_file():
        Run.open(run)
    if output is not None and (Path(output) / "config.yaml").is_file():
        raise UserError(f"--output {output} is a run, whose own results would be overwritten. Name a new directory.")
    from imgbench.report import conclude  # takes seconds, and errors and --help need no torch

    folder = None if data is None else Path(data)
    place = None if output is None else output_directory(Path(output))
    return conclude.evaluate(Path(run), split, folder, place, sensitivity, allow_seen)


def main() -> int:
    parser = run_parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "--split", default="test", choices=["test", "val", "train"], help="which images (default: test)"
    )
    parser.add_argument("--data", metavar="DIR", help="another folder with a folder for each class, matched by name")
    parser.add_argument("--output", metavar="DIR", help="write predictions, metrics and pictures there")
    parser.add_argument(
        "--sensitivity", metavar="SHARE", type=float,
        help="of two classes: choose on validation the threshold that finds this share of a class, such as 0.95",
    )  # fmt: skip
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="measure --data even where the model was trained on some of its images",
    )
    args = parser.parse_args()
    found = evaluate(**vars(args))
    print(found.table())
    if args.output:
        print(f"Written to {args.output}")
    return 1 if found.left_out else 0


if __name__ == "__main__":
    guarded_main(main)
