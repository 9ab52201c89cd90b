"""Names the class of images: files, folders and patterns."""

import glob
from collections.abc import Sequence
from pathlib import Path

from imgbench.cli import guarded_main, run_parser
from imgbench.data.walk import images_below
from imgbench.errors import UserError

EXAMPLES = """examples:
  python -m imgbench.predict outputs/potato/vgg16/2026-01-31_12-00-00 "leaf 1 (108).jpg"
  python -m imgbench.predict RUN photos/ more/*.png --top-k 3
  python -m imgbench.predict RUN photos/ --output predictions.csv --save-images predictions/
  python -m imgbench.predict RUN photos/ --max-error 0.02
"""


def find_images(words: list[str]) -> list[Path]:
    """The files that the words name: files as they are, all images below folders, and patterns.

    Raises:
        UserError: a word names nothing.
    """
    paths: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = images_below(path)
            if not found:
                raise UserError(f"{path} is a folder without images.")
            paths += found
        elif path.exists():  # before patterns are tried: a name such as "1 [2].jpg" is one too
            paths.append(path)
        elif matches := sorted(glob.glob(word, recursive=True)):  # noqa: PTH207 Path.glob takes no absolute pattern
            paths += [Path(match) for match in matches if Path(match).is_file()]
        else:
            raise UserError(f"{word} does not exist, and matches nothing as a pattern.")
    return paths


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    top_k: int = 1,
    output: Path | None = None,
    save_images: Path | None = None,
    max_error: float | None = None,
) -> int:
    """Prints the class of each image; returns how many could not be read.

    Args:
        run: a run directory, a checkpoint or an ONNX file.
        images: files, folders (searched with sub-folders) and patterns.
        top_k: how many of the most probable classes to print.
        output: a .csv or .json file for all probabilities.
        save_images: a directory for the images, each under its prediction.
        max_error: calls predictions unsure, so that with 95 % confidence at most this share of the others is wrong.

    Raises:
        UserError: no such model or images, the results cannot be written, or the run cannot promise `max_error`.
    """
    if max_error is not None and not 0 < max_error < 1:
        never = "; that nothing is ever wrong is more than any number of images can show" if max_error == 0 else ""
        raise UserError(
            f"--max-error {max_error:g}, but it is a share above 0 and below 1, such as 0.02 for 2 %{never}."
        )
    if output and output.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"--output {output} should end in .csv or .json.")
    paths = find_images([str(image) for image in images])
    from imgbench.experiment.classify import classify  # takes seconds, and --help needs no torch

    return classify(run, paths, top_k, output, save_images, max_error)


def main() -> int:
    parser = run_parser("predict", __doc__, EXAMPLES)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, folders (searched with sub-folders), patterns"
    )
    parser.add_argument(
        "--top-k", type=int, default=1, metavar="N", help="show the N most probable classes (default: 1)"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write all probabilities to FILE.csv or FILE.json")
    parser.add_argument("--save-images", metavar="DIR", type=Path, help="write each image under its prediction")
    parser.add_argument(
        "--max-error", metavar="SHARE", type=float,
        help="call predictions unsure, so that of the others at most this share, such as 0.02, is wrong, "
        "with 95 %% confidence",
    )  # fmt: skip
    args = parser.parse_args()
    if args.top_k < 1:
        parser.error(f"--top-k {args.top_k}, but it should be 1 or more")
    return 1 if predict(**vars(args)) else 0


if __name__ == "__main__":
    guarded_main(main)
