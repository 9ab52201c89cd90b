"""Writing checkpoints."""

import io
import signal
from pathlib import Path

import pytest
import torch

from imgbench.training.checkpoint import AtomicCheckpointIO


class Unwritable:
    def __reduce__(self):
        raise RuntimeError("the disk is full")


def test_written_checkpoint_is_read_back(tmp_path):
    weights = torch.randn(3, 4)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": weights}}, tmp_path / "new" / "last.ckpt")
    read = torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)
    assert torch.equal(read["state_dict"]["weight"], weights)


def test_failed_write_leaves_the_earlier_checkpoint(tmp_path):
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="disk is full"):
        writer.save_checkpoint({"big": torch.zeros(1000), "epoch": Unwritable()}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class InterruptedFile(io.FileIO):
    """What a user's Ctrl-C does to a write that takes long."""

    def write(self, data, /):
        signal.raise_signal(signal.SIGINT)
        return super().write(data)


def test_interruption_waits_until_the_file_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode: InterruptedFile(path, mode))
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"big": torch.zeros(1000)}, tmp_path / "last.ckpt")
    monkeypatch.undo()
    [written] = tmp_path.iterdir()
    assert torch.load(written, weights_only=True)["big"].shape == (1000,)
