"""Where a method starts and what it leaves: whether a directory holds its work; torch is not needed."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imgbench.compression.options import Method, name_of
from imgbench.errors import UserError
from imgbench.files import sha256
from imgbench.fingerprint import fingerprint_of_method
from imgbench.run import Run

INTERMEDIATE = "intermediate"  # where the runs of the methods before the last lie, in the directory of the last


def weights_file(run: Run) -> Path:
    """The checkpoint that a method starts from.

    Raises:
        UserError: the run has none, is quantised, or was cross-validated.
    """
    if run.folds:
        raise UserError(
            f"{run.shown} was cross-validated (data.split.folds={run.folds}): it has learnt from all images, and "
            "none is left to test a smaller model on. Train again without data.split.folds, and compress that run."
        )
    if run.best.is_file():
        return run.best
    if (run.path / "model.onnx").is_file():
        raise UserError(
            f"{run.shown} is quantised: it has a model.onnx, but no checkpoint to compress further. "
            f"Start from the run that it was made from: {run.info.get('compressed_from', {}).get('path', '?')}"
        )
    raise UserError(
        f"{run.shown} has no checkpoints/best.ckpt; its status is {run.info.get('status')!r}. "
        "Train it to the end of an epoch."
    )


def source_checkpoint(run: Run) -> Path:
    """The checkpoint that a run's model was made of: its own, or that of the run it was quantised from.

    That run lies where it lay, or under the same name beside this one, where both have been moved.

    Raises:
        UserError: it is in neither place.
    """
    if run.best.is_file():
        return run.best
    source = run.info.get("compressed_from", {})
    stored = Path(str(source.get("path", "?")))
    for parent in (Run(stored), Run(run.path.resolve().parent / stored.name)):
        if parent.best.is_file() and sha256(parent.best) == source.get("sha256"):
            return parent.best
    raise UserError(
        f"{run.shown} was quantised from {stored}, which is missing or has changed. Put it back there, or beside "
        f"{run.shown}."
    )


def fingerprint(method: Method, parent: Run, words: Sequence[str]) -> str:
    """Of a method with its options and words, applied to the parent as it is now."""
    return fingerprint_of_method(name_of(method), asked(method, words), sha256(weights_file(parent)))


def asked(method: Method, words: Sequence[str]) -> dict[str, Any]:
    """The options and words of a method as `run.json` keeps them."""
    return json.loads(json.dumps({"options": asdict(method), "words": list(words)}, default=str))


def effective(words: Sequence[str]) -> list[str]:
    """Those of the words that set something: the last of each key, and none that leaves its value open."""
    last = {key: value for key, _, value in (word.partition("=") for word in words)}
    return [f"{key}={value}" for key, value in last.items() if value != "null"]
