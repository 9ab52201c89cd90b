"""Ends those runs of a search that are behind most others after as many epochs."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from imgbench.run import Run

log = logging.getLogger(__name__)


def metric_by_epoch(run: Path, metric: str) -> list[float]:
    """A column of a run's `metrics.csv`; of a file that is none, or has none, nothing."""
    try:
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return [float(row[metric]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, TypeError, csv.Error):
        return []


def median_of_averages(others: Sequence[Sequence[float]], epochs: int) -> float:
    """The median of what the runs that came as far had on average over their first epochs."""
    return median(fmean(values[:epochs]) for values in others if len(values) >= epochs)


class MedianStopping(Callback):
    """Ends a run whose best epoch so far is worse than the median of the other runs' averages over as many epochs.

    This is the median stopping rule of Golovin et al. 2017, Google Vizier, sec. 3.2.2. The other runs are those beside
    the run in the directory of a sweep. A run that is ended has a checkpoint and a report as any other, and in
    its `run.json` an entry `pruned`.

    Args:
        monitor: the metric that is compared.
        mode: `max` or `min`.
        startup_runs: so many others must have come as far.
        warmup: share of its epochs that every run may train, since some schedules begin slowly.
    """

    def __init__(self, monitor: str, mode: str, startup_runs: int = 5, warmup: float = 0.25) -> None:
        self.monitor, self.mode, self.startup_runs, self.warmup = monitor, mode, startup_runs, warmup
        self._pruned: dict[str, Any] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._pruned:  # by an earlier process, which was killed before it was done
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Processes must not disagree, and so the first decides.
        self._pruned = trainer.strategy.broadcast(self._judge(trainer) if trainer.is_global_zero else None)
        if self._pruned:
            log.info(
                "Ended after epoch %(epoch)d: %(best)g at best, where half of the other runs had %(median)g on average",
                self._pruned,
            )
            self._end(trainer)

    def _judge(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """What is noted of a run that is to end."""
        run, epochs = Path(trainer.default_root_dir), trainer.current_epoch + 1
        assert trainer.max_epochs is not None
        in_sweep = (run.parent / "multirun.yaml").is_file()  # also a candidate of model=auto has runs beside it
        if not in_sweep or epochs <= self.warmup * trainer.max_epochs or epochs >= trainer.max_epochs:
            return None
        others = [
            metric_by_epoch(file.parent, self.monitor)
            for file in run.parent.glob("*/metrics.csv")
            if file.parent.name != run.name
        ]
        others = [values for values in others if len(values) >= epochs]
        if len(others) < self.startup_runs or self.monitor not in trainer.callback_metrics:
            return None
        # The row of this epoch may not be written yet.
        own = [*metric_by_epoch(run, self.monitor)[: epochs - 1], float(trainer.callback_metrics[self.monitor])]
        better = max if self.mode == "max" else min
        best, middle = better(own), median_of_averages(others, epochs)
        if better(best, middle) == best:
            return None
        return {"epoch": epochs, "best": round(best, 6), "median": round(middle, 6)}

    def _end(self, trainer: L.Trainer) -> None:
        trainer.should_stop = True
        if trainer.is_global_zero:
            Run(Path(trainer.default_root_dir)).note(pruned=self._pruned)

    def state_dict(self) -> dict[str, Any]:
        return {"pruned": self._pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._pruned = state_dict["pruned"]
