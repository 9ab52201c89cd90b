"""An ONNX file of a run, put in place only if it answers as the run does."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.data.shard_index import photographs
from imgbench.data.shards import Photograph
from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.files import put_in_place, write_atomically
from imgbench.inference.inputs import decode_batches
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.progress import Step
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

BATCH = 16


def export_onnx(path: Path, output: Path | None = None, images: int = 500, tolerance: float = 1e-3) -> dict[str, Any]:
    """Writes the file beside its place and compares it there; returns what was found, as `export.json` keeps it.

    Raises:
        UserError: there is no checkpoint, its test images are gone, the place cannot be written, or the file disagrees;
            what was there before is still there.
    """
    run = Run.open(path)
    checkpoint = path if path.suffix == ".ckpt" else run.best
    if not checkpoint.is_file():
        found = "its model is an ONNX file already" if run.model else "no epoch of its training was finished"
        raise UserError(f"{run.shown} has no checkpoints/best.ckpt to export: {found}.")
    output = output or run.path / "model.onnx"
    if output.suffix != ".onnx":
        raise UserError(f"--output {output} should end in .onnx, .xml for OpenVINO, or .tflite for LiteRT.")
    compared = images_to_compare(run, images) if images else []
    classifier = load_classifier(checkpoint)
    unfinished = output.with_name(f".{os.getpid()}-{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(classifier, unfinished, run)
        facts: dict[str, Any] = {"file": str(output), "tolerance": tolerance}
        if compared:
            facts |= compare(OnnxModel(unfinished), checkpoint, compared)
            if not facts["largest_difference"] <= tolerance:  # so that NaN fails too
                raise UserError(
                    f"{describe(facts)}\nThe exported file differs from the run by more than --tolerance "
                    f"{tolerance:g}. It was deleted, and {output} is unchanged."
                )
        facts["bytes"] = unfinished.stat().st_size
        put_in_place(unfinished, output)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written: {error.strerror}. Name another file: --output FILE.onnx"
        ) from error
    finally:
        with suppress(OSError):  # of a disk that cannot be written, where there is none
            unfinished.unlink(missing_ok=True)
    with suppress(OSError):  # of another's run, which cannot be written
        write_atomically(run.path / "export.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts


def images_to_compare(run: Run, number: int) -> list[Photograph]:
    """At most `number` images of the run's test split, evenly from the whole list, so of all classes.

    Raises:
        UserError: they are no longer there.
    """
    root = Path(run.config["data"]["root"])
    rows = run.split_rows("val" if run.folds else "test")  # by cross-validation, no test images are left
    chosen = [rows[i * len(rows) // min(number, len(rows))] for i in range(min(number, len(rows)))]
    there = photographs(root, [row["path"] for row in chosen])
    missing = [row["path"] for row in chosen if row["path"] not in there]
    if missing:
        raise UserError(
            f"{len(missing)} images of {run.shown} are no longer in {root}, for example {missing[0]}.\n"
            "Put them back, or export without comparing: --images 0"
        )
    return list(there.values())


def compare(exported: OnnxModel, checkpoint: Path, images: Sequence[Photograph]) -> dict[str, Any]:
    """How far the exported file is from the checkpoint on these images.

    The file gets the first images as a deployment would give them, one by one and whole, then all in batches, resized
    before.
    """
    with Step("Comparing the file with the run"):
        return _compared(exported, Predictor.load(checkpoint), images)


def _compared(exported: OnnxModel, predictor: Predictor, images: Sequence[Photograph]) -> dict[str, Any]:
    expected, errors = predictor.probabilities(images)
    _require(images, errors)
    batches = list(decode_batches(images, predictor.preprocessing))
    for _, _, failed in batches:  # which could be read a moment ago
        _require(images, failed)
    pixels = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for _, batch, _ in batches])
    batched = np.concatenate([exported.run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
    differences = [np.abs(batched - expected).max()]
    for image in images[:BATCH]:
        # Decoded in full for both: an earlier run would decode a large JPEG at a reduced size.
        whole = open_image(image.read_bytes(), predictor.preprocessing.intensity)
        (known,), _ = predictor.probabilities([whole])
        differences.append(np.abs(exported.photograph(np.asarray(whole))[:-1] - known).max())
    return {
        "images": len(images),
        "top1_agreement": float((batched.argmax(1) == expected.argmax(1)).mean()),
        "largest_difference": float(np.max(differences)),
    }


def _require(images: Sequence[Photograph], errors: Mapping[int, str]) -> None:
    if errors:
        index, reason = next(iter(errors.items()))
        raise UserError(f"{images[index]} cannot be decoded ({reason}), and the comparison needs it.")


def describe(facts: dict[str, Any]) -> str:
    """What the comparison found, in a line."""
    return (
        f"Compared on {facts['images']} images: top-1 agreement {100 * facts['top1_agreement']:.2f} %, "
        f"largest probability difference {facts['largest_difference']:.2g}"
    )
