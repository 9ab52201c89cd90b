"""Classifies the images of files, and keeps what was found as a table and as pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.inference.predictor import Predictor
from imgbench.preprocessing import open_image
from imgbench.run import replacing


def classify(
    run: str | Path,
    paths: list[Path],
    top_k: int,
    output: Path | None,
    save_images: Path | None,
    max_error: float | None,
) -> int:
    """Prints the most probable classes of each image; returns how many could not be read.

    Raises:
        UserError: there is no model, or the results cannot be written, or the run cannot promise `max_error`.
    """
    predictor = Predictor.load(run)
    number = len(predictor.class_names)
    acceptance = None
    if max_error is not None:
        from imgbench.inference.acceptance import Acceptance

        acceptance = Acceptance.open(run, predictor.model, max_error)
    values, errors = predictor.apply(acceptance or predictor.model, number + (acceptance is not None), paths)
    rows = []
    for i, path in enumerate(paths):
        if i in errors:
            print(f"{path}  skipped: {errors[i]}")
            continue
        prediction = predictor.prediction(values[i, :number])
        ranked = [f"{name} {100 * p:.1f} %" for name, p in list(prediction.probabilities.items())[:top_k]]
        doubt = acceptance.doubt(values[i]) if acceptance else None
        print(f"{path}  unsure: {doubt} ({'  '.join(ranked)})" if doubt else f"{path}  {'  '.join(ranked)}")
        rows.append(
            {
                "path": str(path),
                "predicted": prediction.label,
                "probability": prediction.probability,
                **({"unsure": doubt} if acceptance else {}),
                "probabilities": prediction.probabilities,
            }
        )
        if save_images:
            save_image(path, save_images, i, ("unsure: " if doubt else "") + " / ".join(ranked))
    if output:
        write_table(output, rows, predictor.class_names)
    if errors:
        print(f"{len(errors)} of {len(paths)} files skipped")
    if acceptance:
        print(acceptance.promise(sum(row["unsure"] is None for row in rows), len(rows)))
    return len(errors)


def write_table(path: Path, rows: list[dict[str, Any]], class_names: list[str]) -> None:
    """JSON if the file ends so, else CSV.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            if path.suffix.lower() == ".json":
                json.dump(rows, file, indent=2, ensure_ascii=False)
            else:
                writer = csv.writer(file, lineterminator="\n")
                unsure = ["unsure"] if rows and "unsure" in rows[0] else []
                writer.writerow(["path", "predicted", "probability", *unsure, *class_names])
                for row in rows:
                    values = [row["probabilities"][name] for name in class_names]
                    facts = [
                        row["path"],
                        row["predicted"],
                        f"{row['probability']:.6g}",
                        *(row[name] for name in unsure),
                    ]
                    writer.writerow([*facts, *(f"{value:.6g}" for value in values)])
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror}.") from error


def save_image(path: Path, folder: Path, index: int, text: str) -> None:
    """Draws the image under its prediction; the index keeps images of the same name apart."""
    from imgbench.evaluation.plots import draw_prediction  # needs matplotlib, a second

    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_prediction(np.asarray(open_image(path)), text, folder / f"{index + 1:04d}_{path.stem}.png")
    except OSError as error:
        raise UserError(f"--save-images {folder} cannot be written: {error.strerror}.") from error
