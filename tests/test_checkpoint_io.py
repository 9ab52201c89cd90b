"""Writing checkpoints."""

import io
from pathlib import Path

import pytest
import torch

from imgbench.training.checkpoint_io import AtomicCheckpointIO


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
        if len(data) > 1000:
            raise KeyboardInterrupt
        return super().write(data)


def test_interruption_in_a_write_stays_one_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: InterruptedFile(path, mode))
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"big": torch.zeros(1000)}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
