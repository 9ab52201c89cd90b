"""Training that ends by the clock: its learning rate has come down by then, however fast the steps turn out to be."""

import math
import time
from collections import deque
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

FEWEST = 3  # steps, from which it is told how long one takes; the first of all is slower and does not count


class Deadline(Callback):
    """Ends training at a moment of `time.monotonic()`, or after its epochs, whichever comes first.

    At each step it is asked anew how many more there is time for. Where these are fewer than the epochs have, a
    schedule by steps runs as much faster as is needed to come to its end with the last of them, and slower again once
    there is time. Where all epochs fit, each step is the same as without a deadline. The last epoch may be a part of
    one. It is validated like any other.
    """

    def __init__(self, end: float) -> None:
        self.end = end
        self.cut_short = False
        self._place = self._step = self._validation = self._validation_start = 0.0
        self._times: deque[float] = deque()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._place = float(trainer.global_step)
        # An epoch's validation lies between two of its steps.
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self._times = deque(maxlen=max(FEWEST, steps) + 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.global_step > 0:
            self._times.append(now)
        total = float(trainer.estimated_stepping_batches)
        usual = total - trainer.global_step
        if len(self._times) > FEWEST:
            self._step = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
            if not self._validation:  # without gradients it takes a third of the time
                batches = sum(trainer.num_val_batches) / trainer.accumulate_grad_batches
                self._validation = self._step * batches / 3
            usual = min(usual, max((self.end - now - self._validation) // self._step, 1.0))
        self._place = min(self._place + (total - self._place) / max(usual, 1.0), total)
        for config in trainer.lr_scheduler_configs:
            if config.interval == "step":  # it is stepped, to this place, after the weights are
                config.scheduler.last_epoch = round(self._place) - 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        fits = time.monotonic() + self._step + self._validation <= self.end
        if not fits and trainer.global_step < trainer.estimated_stepping_batches:
            self.cut_short = trainer.should_stop = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation = time.monotonic() - self._validation_start
