"""Writes checkpoints straight to disk, and never over the only good one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Streams to a file beside the final one and renames it when it is complete and on disk.

    Lightning builds the whole file in memory first, which for VGG-16 with Adam is another 1.6 GB and twice the time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        assert storage_options is None
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # torch goes on to say that the file is not complete
                raise KeyboardInterrupt from error
            raise
        finally:
            unfinished.unlink(missing_ok=True)
