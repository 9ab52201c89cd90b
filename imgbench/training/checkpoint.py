"""Checkpoints: written straight to disk and never over the only good one; see `reading` for how they are read."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from imgbench.files import put_in_place
from imgbench.training.classifier import ImageClassifier
from imgbench.training.network import without_fetching
from imgbench.training.reading import load, upgrade


def load_classifier(path: Path) -> ImageClassifier:
    """The classifier in a checkpoint of unknown origin, on the CPU, to be trained or changed.

    Raises:
        UserError: as of `load`.
    """
    return load(path, ImageClassifier)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Streams to a file beside the final one and renames it when it is complete and on disk.

    Lightning builds the whole file in memory first, which for VGG-16 with Adam is another 1.6 GB and twice the time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises OSError, with `path` as its file name, where it cannot be written: what was there before still is."""
        assert storage_options is None
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        with _interruption_waits():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                put_in_place(unfinished, path)
            except (OSError, RuntimeError) as error:
                # PyTorch's writer, closed after a failed write, raises an error of its own over the disk's.
                reason = error if isinstance(error, OSError) else error.__context__
                if not isinstance(reason, OSError):
                    raise
                raise type(reason)(reason.errno, reason.strerror, str(path)) from error
            finally:
                unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """To resume from, in today's format."""
        assert weights_only
        return upgrade(super().load_checkpoint(path, map_location, weights_only))


def save_weights(classifier: ImageClassifier, path: Path, **facts: Any) -> None:
    """Writes a checkpoint that needs no Trainer, with further entries: weights and what they are of."""
    hparams = {name: classifier.hparams[name] for name in ImageClassifier.argument_names()}
    hparams["model"] = without_fetching(hparams["model"])
    content = {**facts, "hyper_parameters": hparams, "state_dict": classifier.state_dict()}
    AtomicCheckpointIO().save_checkpoint(content, path)


@contextmanager
def _interruption_waits() -> Iterator[None]:
    """Lets Ctrl-C wait for the end of a write: torch calls back into Python from C++, where exceptions get lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple] = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: caught.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(*caught[0])
