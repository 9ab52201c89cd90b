"""Ends a training whose numbers have become infinite or undefined, before a checkpoint is made of them."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from imgbench.errors import UserError

EVERY = 50  # steps, where to look would make the device, or the other processes, wait


class FiniteLoss(Callback):
    """Looks at the loss of each training step, and at that of each validation.

    Raises:
        UserError: one is not finite; it says where that was, what to lower, and what is kept.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._rate = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._losses:
            self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        at_once = pl_module.device.type == "cpu" and trainer.world_size == 1
        if at_once or len(self._losses) == EVERY or trainer.is_last_batch:
            finite = torch.stack(self._losses).isfinite()
            if not trainer.strategy.reduce_boolean_decision(bool(finite.all())):
                first = int((~finite).nonzero()[0]) if not finite.all() else len(finite) - 1
                steps = batch_idx + 1 - len(finite) + first + 1
                value = float(self._losses[first])
                raise UserError(self._message(trainer, f"train/loss is {value:g} in step {steps} of epoch"))
            self._losses = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not loss.isfinite():
            raise UserError(self._message(trainer, f"val/loss is {float(loss):g} after epoch"))

    def _message(self, trainer: L.Trainer, where: str) -> str:
        precision = trainer.precision
        lines = [
            f"{where} {trainer.current_epoch + 1}, at a learning rate of {self._rate:.3g}: the training has diverged.",
            f"Lower it, optimizer.lr={self._rate / 10:.1g}, or limit each step, trainer.gradient_clip_val=1.",
        ]
        if precision != "32-true":
            lines.append(
                f"It computed in {precision}, whose numbers have less room or fewer digits: fast.precision=32-true "
                "tells whether that is the reason."
            )
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        kept = last if last.is_file() else last.with_name("best.ckpt")
        lines.append(f"Kept: {kept}, from before." if kept.is_file() else "No epoch was finished before.")
        return "\n".join(lines)
