"""Writing checkpoints."""

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
    io = AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="disk is full"):
        io.save_checkpoint({"big": torch.zeros(1000), "epoch": Unwritable()}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
