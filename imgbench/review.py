"""Serves a page on which people look at photographs of a run or a folder, label them, and put labels right."""

from pathlib import Path
from typing import Literal

from imgbench.cli import add_options, guarded_main, run_parser
from imgbench.progress import loading
from imgbench.sweep.comparison import change_between

EXAMPLES = """examples:
  python -m imgbench.review outputs/potato/pretrained/2026-01-31_12-00-00
  python -m imgbench.review photos                    before anything was trained, or to label them from nothing
  python -m imgbench.review RUN --unlabelled more     which of these are worth a label

Decisions lie in corrections.csv beside the photographs, of which none is moved, changed or deleted.
"""
PORT = 7861


def review(
    run: str | Path,
    port: int = PORT,
    language: Literal["en", "zh"] | None = None,
    corrections: Path | None = None,
    unlabelled: Path | None = None,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        run: a run directory, or a folder of photographs.
        port: serve the page at this port of this machine; 0 takes any that is free.
        language: of the page; otherwise that of the browser.
        corrections: the table of decisions, where it cannot lie beside the photographs; then name it in training too,
            by data.corrections.
        unlabelled: a folder of photographs without labels, of which those that help most are asked first. They stay
            where they are, and are trained on from then on.

    Raises:
        UserError: the run or the photographs cannot be used, the port is taken, or the packages of the page are
            missing.
    """
    with loading():  # takes seconds, and --help needs no torch
        from imgbench.publish import page_with_server, review_images, review_learning, review_server, review_training

    review_server.require_starlette()
    port = page_with_server.free_port(port)  # before anything is computed
    images = review_images.ReviewedImages(run, corrections, unlabelled)
    learning = review_learning.Learning(images)
    training = review_training.Training(images, change_between)
    review_server.serve(images, learning, training, port, language)


def main() -> None:
    parser = run_parser("review", __doc__, EXAMPLES, help="a run directory, or a folder of photographs")
    add_options(parser, review)
    args = parser.parse_args()
    if not 0 <= args.port < 2**16:
        parser.error(f"--port {args.port}, but it should be 1 to 65535, or 0 for any that is free")
    review(**vars(args))


if __name__ == "__main__":
    guarded_main(main)
