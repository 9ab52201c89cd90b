"""Names the class of images: files, folders and patterns."""

import csv
import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgbench.cli import guarded_main, run_parser
from imgbench.errors import UserError

EXAMPLES = """examples:
  python -m imgbench.predict outputs/potato/vgg16/2026-01-31_12-00-00 "leaf 1 (108).jpg"
  python -m imgbench.predict RUN photos/ more/*.png --top-k 3
  python -m imgbench.predict RUN photos/ --output predictions.csv --save-images predictions/
"""


def find_images(words: list[str]) -> list[Path]:
    """The files that the words name: files as they are, all images below folders, and patterns.

    Raises:
        UserError: a word names nothing.
    """
    from imgbench.data.walk import images_below

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


def write_table(path: Path, rows: list[dict[str, Any]], class_names: list[str]) -> None:
    """JSON if the file ends so, else CSV.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            if path.suffix.lower() == ".json":
                json.dump(rows, file, indent=2, ensure_ascii=False)
            else:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["path", "predicted", "probability", *class_names])
                for row in rows:
                    values = [row["probability"], *(row["probabilities"][name] for name in class_names)]
                    writer.writerow([row["path"], row["predicted"], *(f"{value:.6g}" for value in values)])
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror}.") from error


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    top_k: int = 1,
    output: Path | None = None,
    save_images: Path | None = None,
) -> int:
    """Prints the class of each image; returns how many could not be read.

    Args:
        run: a run directory, a checkpoint or an ONNX file.
        images: files, folders (searched with sub-folders) and patterns.
        top_k: how many of the most probable classes to print.
        output: a .csv or .json file for all probabilities.
        save_images: a directory for the images, each under its prediction.

    Raises:
        UserError: no such model or images, or the results cannot be written.
    """
    if output and output.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"--output {output} should end in .csv or .json.")
    paths = find_images([str(image) for image in images])
    from imgbench.inference.predictor import Predictor  # takes seconds, and --help needs no torch

    predictor = Predictor.load(run)
    probabilities, errors = predictor.probabilities(paths)
    rows = []
    for i, path in enumerate(paths):
        if i in errors:
            print(f"{path}  skipped: {errors[i]}")
            continue
        prediction = predictor.prediction(probabilities[i])
        ranked = list(prediction.probabilities.items())[:top_k]
        print(f"{path}  " + "  ".join(f"{name} {100 * p:.1f} %" for name, p in ranked))
        rows.append(
            {
                "path": str(path),
                "predicted": prediction.label,
                "probability": prediction.probability,
                "probabilities": prediction.probabilities,
            }
        )
        if save_images:
            save_image(path, save_images, i, " / ".join(f"{name} {100 * p:.1f} %" for name, p in ranked))
    if output:
        write_table(output, rows, predictor.class_names)
    if errors:
        print(f"{len(errors)} of {len(paths)} files skipped")
    return len(errors)


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
    args = parser.parse_args()
    if args.top_k < 1:
        parser.error(f"--top-k {args.top_k}, but it should be 1 or more")
    return 1 if predict(**vars(args)) else 0


def save_image(path: Path, folder: Path, index: int, text: str) -> None:
    """Draws the image under its prediction; the index keeps images of the same name apart."""
    import numpy as np

    from imgbench.evaluation.plots import draw_prediction
    from imgbench.preprocessing import open_image

    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_prediction(np.asarray(open_image(path)), text, folder / f"{index + 1:04d}_{path.stem}.png")
    except OSError as error:
        raise UserError(f"--save-images {folder} cannot be written: {error.strerror}.") from error


if __name__ == "__main__":
    guarded_main(main)
