"""Writes the classifier of a run as an ONNX file for use elsewhere, and compares it with the run on real images."""

from pathlib import Path
from typing import Any

from imgbench.cli import add_options, guarded_main, run_parser
from imgbench.progress import loading

EXAMPLES = """examples:
  python -m imgbench.export outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.export RUN --output classifier.onnx --images 50
  python -m imgbench.export RUN --output model.xml
  python -m imgbench.export RUN --output model.tflite
  python -m imgbench.export RUN --card
  python -m imgbench.export RUN --conformance DIR
  python -m imgbench.export RUN --paper DIR
  python -m imgbench.export RUN --push-to-hub my-classifier

--card writes README.md beside the file: numbers with intervals, data, leaks and limits, the licence of the weights.
You add what the model is meant for. An existing card is not changed. --push-to-hub uploads these two files, to a new
private repository or to one that you own, and never a photograph.

--paper writes what a paper needs: methods and results as Markdown and LaTeX, figures as PDF and SVG, CITATION.bib, and
the checklists CLAIM, TRIPOD+AI and REFORMS, filled from what the run has recorded. RUN may be a sweep over seeds. No
model file is written then, unless --output, --card, --conformance or --push-to-hub ask for it.
"""


def export(
    run: str | Path,
    output: str | Path | None = None,
    images: int = 500,
    tolerance: float = 1e-3,
    card: bool = False,
    push_to_hub: str | None = None,
    conformance: Path | None = None,
    paper: Path | None = None,
) -> dict[str, Any]:
    """Writes the ONNX file of a run directory or a checkpoint; returns and prints what the comparison found.

    Args:
        output: the file to write; otherwise model.onnx in the run directory. A .xml for OpenVINO or a .tflite for
            LiteRT is converted from that one, and compared with it in its own runtime.
        images: compare file and run on at most this many test images; 0 compares nothing.
        tolerance: the largest difference of a probability that counts as rounding.
        card: write a model card, README.md, beside the file.
        push_to_hub: upload file and card, never photographs, to this repository of the Hugging Face Hub.
        conformance: write files of every kind with the answers to this directory, by which a program is tested that
            uses the ONNX file.
        paper: write methods, results, figures and checklists to this directory, a new or an empty one.

    Raises:
        UserError: there is nothing to export or to compare on, the file disagrees with the run, or the Hub refuses; or
            of a paper: the run is not finished, or the directory holds files.
    """
    with loading():  # takes seconds, and --help needs no torch
        from imgbench.publish.hub import share

    file = None if output is None else Path(output)
    return share(Path(run), file, images, tolerance, card, push_to_hub, conformance, paper)


def main() -> None:
    parser = run_parser("export", __doc__, EXAMPLES)
    add_options(parser, export)
    args = parser.parse_args()
    if args.images < 0:
        parser.error(f"--images {args.images}, but it should be 0 or more")
    if not args.tolerance > 0:
        parser.error(f"--tolerance {args.tolerance}, but it should be above 0")
    export(**vars(args))


if __name__ == "__main__":
    guarded_main(main)
