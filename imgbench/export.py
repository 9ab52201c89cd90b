"""Writes the classifier of a run as an ONNX file for use elsewhere, and compares it with the run on real images."""

from pathlib import Path
from typing import Any

from imgbench.cli import guarded_main, run_parser

EXAMPLES = """examples:
  python -m imgbench.export outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.export RUN --output classifier.onnx --images 50
  python -m imgbench.export RUN --card
  python -m imgbench.export RUN --push-to-hub my-classifier

--card writes README.md beside the file: numbers with intervals, data, leaks and limits, the licence of the weights.
What the model is meant for is left to its author, and a card that is there stays as it is. --push-to-hub uploads these
two files, to a new private repository or to one that is yours already, and never a photograph.
"""


def export(
    run: str | Path,
    output: str | Path | None = None,
    images: int = 500,
    tolerance: float = 1e-3,
    card: bool = False,
    push_to_hub: str | None = None,
) -> dict[str, Any]:
    """Writes the ONNX file of a run directory or a checkpoint; returns and prints what the comparison found.

    Args:
        output: where to; None is `model.onnx` in the run directory.
        images: on how many test images at most the file is compared with the run; 0 compares nothing.
        tolerance: largest difference of a probability that is taken for rounding.
        card: also writes README.md beside the file, with what Hugging Face reads.
        push_to_hub: uploads both to this repository of the Hugging Face Hub.

    Raises:
        UserError: there is nothing to export or to compare on, the file disagrees with the run, or the Hub refuses.
    """
    from imgbench.publish.hub import share  # takes seconds, and --help needs no torch

    return share(Path(run), None if output is None else Path(output), images, tolerance, card, push_to_hub)


def main() -> None:
    parser = run_parser("export", __doc__, EXAMPLES)
    parser.add_argument("--output", metavar="FILE", help="where to (default: RUN/model.onnx)")
    parser.add_argument(
        "--images", type=int, default=500, metavar="N", help="compare on at most N test images (default: 500; 0: none)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, metavar="P",
        help="largest difference of a probability that is taken for rounding (default: 0.001)",
    )  # fmt: skip
    parser.add_argument("--card", action="store_true", help="write a model card, README.md, beside the file")
    parser.add_argument(
        "--push-to-hub", metavar="NAME", help="upload file and card, never photographs, to the Hugging Face Hub"
    )
    args = parser.parse_args()
    if args.images < 0:
        parser.error(f"--images {args.images}, but it should be 0 or more")
    if not args.tolerance > 0:
        parser.error(f"--tolerance {args.tolerance}, but it should be above 0")
    export(**vars(args))


if __name__ == "__main__":
    guarded_main(main)
