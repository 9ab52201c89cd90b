"""Classifies the images of files, and keeps what was found as a table and as pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.plots import draw_prediction
from imgbench.inference.predictor import Predictor
from imgbench.preprocessing import open_image


def classify(run: str | Path, paths: list[Path], top_k: int, output: Path | None, save_images: Path | None) -> int:
    """Prints the most probable classes of each image; returns how many could not be read.

    Raises:
        UserError: there is no model, or the results cannot be written.
    """
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


def save_image(path: Path, folder: Path, index: int, text: str) -> None:
    """Draws the image under its prediction; the index keeps images of the same name apart."""

    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_prediction(np.asarray(open_image(path)), text, folder / f"{index + 1:04d}_{path.stem}.png")
    except OSError as error:
        raise UserError(f"--save-images {folder} cannot be written: {error.strerror}.") from error
