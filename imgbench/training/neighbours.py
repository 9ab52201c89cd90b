"""Other programs on the same cores: how many threads train fastest beside them."""

import logging
import os
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import lightning as L
import psutil
import torch
from lightning.pytorch.callbacks import Callback

from imgbench.language import counted

log = logging.getLogger(__name__)

EVERY, AGAIN = 5.0, 60.0  # seconds between two looks at what others use, and until the same is measured again
USED, UNUSED = 0.5, 0.2  # cores that others use: from where on fewer threads are tried, and all are taken again
STEPS = 4  # that each number of threads is tried for; the first does not count
BETTER = 1.1  # times as fast as with all threads, or it is not worth other digits in the sums


@dataclass(frozen=True)
class Used:
    """Seconds at a moment, and those that all programs, and this one with its workers, have used of cores."""

    now: float
    all: float
    own: float

    @classmethod
    def so_far(cls) -> "Used":
        times, own, process = psutil.cpu_times(), 0.0, psutil.Process()
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it has ended since
                used = each.cpu_times()
                own += used.user + used.system
        return cls(time.monotonic(), sum(times) - times.idle - getattr(times, "iowait", 0.0), own)

    def cores_of_others(self, before: "Used") -> float:
        """On average since a moment before."""
        return (self.all - before.all - self.own + before.own) / max(self.now - before.now, 1e-9)


class Neighbours(Callback):
    """Trains on the CPU with as many threads as are fastest beside the other programs that work on this machine.

    Threads share the work of each small operation, and the slowest of them is waited for. Beside a program that keeps a
    core busy, fewer threads may be faster. Where the machine is idle nothing is tried: another number of threads adds
    in another order. A number that the user has set stays: `fast.threads`, `OMP_NUM_THREADS`.
    """

    def __init__(self) -> None:
        self._all = self._taken = 1
        self._begun = self._decided = self._others = 0.0
        self._looked = Used.so_far()
        self._waiting: list[int] = []
        self._seconds: dict[int, list[float]] = {}  # of steps, by the number of threads

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        free = "OMP_NUM_THREADS" not in os.environ and trainer.strategy.root_device.type == "cpu"
        self._all = self._taken = torch.get_num_threads() if free and trainer.world_size == 1 else 1
        self._looked = Used.so_far()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._all > 1:
            torch.set_num_threads(self._all)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._begun = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._all == 1:
            return
        now = time.monotonic()
        if self._waiting:
            self._seconds[self._waiting[-1]].append(now - self._begun)
            if len(self._seconds[self._waiting[-1]]) == STEPS:
                self._waiting.pop()
                self._try_next()
        elif now - self._looked.now > EVERY:
            self._look()

    def _look(self) -> None:
        now = Used.so_far()
        others, self._looked = now.cores_of_others(self._looked), now
        if others < UNUSED:
            self._others = 0.0
            self._take(self._all, "The other programs have ended")
        elif others > USED and (abs(others - self._others) > USED or now.now - self._decided > AGAIN):
            self._others = others
            self._waiting = sorted({self._all, self._all - 1, self._all // 2, 1} - {0})
            self._seconds = {threads: [] for threads in self._waiting}
            self._try_next()

    def _try_next(self) -> None:
        if self._waiting:
            torch.set_num_threads(self._waiting[-1])
            return
        self._decided = time.monotonic()
        steps = {threads: statistics.fmean(seconds[1:]) for threads, seconds in self._seconds.items()}
        best = min(steps, key=lambda threads: steps[threads])
        if steps[self._all] < BETTER * steps[best]:
            best = self._all
        others = f"Other programs use {self._others:.1f} cores"
        faster = f", and steps with {self._all} threads took {steps[self._all] / steps[best]:.1f} times as long"
        self._take(best, others + (faster if best < self._all else ""))

    def _take(self, threads: int, why: str) -> None:
        torch.set_num_threads(threads)
        if threads != self._taken:
            log.info("%s: training goes on with %s.", why, counted(threads, "thread"))
        self._taken = threads
