"""What happens around training: the table of epochs, the progress shown, and checkpoints that survive a resume."""

import csv
import io
import logging
import math
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor, nn

from imgbench.errors import UserError
from imgbench.files import copy_atomically, write_atomically
from imgbench.progress import Step

log = logging.getLogger(__name__)

COLUMNS = ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "epoch_seconds", "images_per_second"]


def epoch_row(epoch: int, values: Mapping[str, float]) -> dict[str, Any]:
    """A row of `metrics.csv`, of the epoch counted from 1."""
    return {"epoch": epoch, **{name: f"{value:.6g}" for name, value in values.items()}}


def write_epochs(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """`metrics.csv`: a row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


class EpochTable(Callback):
    """Appends one row per epoch to `metrics.csv` in the run directory, and logs it as a line.

    On a resume the rows of the earlier run, found beside the checkpoint, come first. `lr` is the learning rate that the
    epoch began with; `epoch_seconds` covers training and validation; `images_per_second` is that of training alone.
    """

    def __init__(self) -> None:
        self.path = Path()
        self._rows: list[dict[str, Any]] = []
        self._start = self._trained = self._lr = 0.0
        self._images = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.path = Path(trainer.default_root_dir) / "metrics.csv"
        if not trainer.is_global_zero:
            return
        self._rows = []
        if trainer.ckpt_path and (earlier := run_of_checkpoint(trainer.ckpt_path) / self.path.name).exists():
            with earlier.open(newline="") as file:
                try:
                    self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]
                except (ValueError, KeyError, TypeError, csv.Error) as error:
                    raise UserError(f"{earlier} is damaged. Remove it, and the resumed run begins its own.") from error
        write_epochs(self.path, self._rows)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._trained, self._images = time.perf_counter(), 0.0, 0
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        self._trained = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("lr", self._lr)  # for trackers such as TensorBoard
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values = {name: metrics[name] for name in COLUMNS if name in metrics}
        values["lr"] = self._lr
        values["epoch_seconds"] = time.perf_counter() - self._start
        values["images_per_second"] = self._images / max(self._trained, 1e-9)
        row = epoch_row(trainer.current_epoch + 1, values)
        self._rows.append(row)
        write_epochs(self.path, self._rows)
        shown = "  ".join(f"{name} {row[name]}" for name in COLUMNS[1:5] if name in row)
        seconds, speed = values["epoch_seconds"], values["images_per_second"]
        log.info("%s  %s  %.1f s, %.0f images/s", _name_of_epoch(trainer), shown, seconds, speed)


class EpochProgress(Callback):
    """How far the epoch has come, its validation included."""

    def __init__(self) -> None:
        self._step: Step | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            batches = trainer.num_training_batches + sum(trainer.num_val_batches)
            self._step = Step(_name_of_epoch(trainer), int(batches) if math.isfinite(batches) else None)
            self._step.__enter__()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._step:
            self._step.advance()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._step:
            self._step.advance()

    def on_train_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        if self._step:  # gone before the line of `EpochTable`, which is a later callback
            self._step.__exit__(None, None, None)
        self._step = None

    on_exception = teardown = on_train_epoch_end


def _name_of_epoch(trainer: L.Trainer) -> str:
    of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1}{of}"


def run_of_checkpoint(ckpt_path: str | Path) -> Path:
    """The run directory in whose `checkpoints/` a file lies."""
    return Path(ckpt_path).resolve().parent.parent


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best epoch as `best.ckpt`; a resume in a new run directory carries it over.

    The best by chance is not the best: of many epochs on few validation images, one has luck. So of all epochs whose
    accuracy these images cannot tell from the highest, the last is kept, whose learning rate has come down furthest:
    the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, sec. 3.4.3) with the latest
    epoch in the place of the simplest tree. Lightning forgets the best score when the directory changes, so that a
    worse epoch would pass for the best.

    Args:
        standard_errors: of the highest validation accuracy, by which a later epoch may miss it, but at least as many
            images; 0 keeps the highest. Images of one group count once. Other metrics have no known error, and of
            equals the last is kept.
    """

    def __init__(self, monitor: str, mode: str, standard_errors: float = 1.0) -> None:
        super().__init__(None, "best", monitor, mode=mode, save_weights_only=True, enable_version_counter=False)
        self.standard_errors = standard_errors
        self._peak: float | None = None
        self._resumed_from: Path | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        if current is None or math.isnan(value := float(current)):
            return super().check_monitor_top_k(trainer, current)
        better = max if self.mode == "max" else min
        self._peak = value if self._peak is None else better(value, self._peak)
        miss = abs(value - self._peak)
        return trainer.strategy.reduce_boolean_decision(miss <= self._tolerance(trainer, self._peak))

    def _tolerance(self, trainer: L.Trainer, accuracy: float) -> float:
        if self.monitor != "val/acc":
            return 0.0
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        number = data.num_independent_val
        error = math.sqrt(number * accuracy * (1 - accuracy))  # in images
        return self.standard_errors * max(1.0, error) / number + 1e-6  # accuracies come in float32

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "peak": self._peak}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        assert trainer.ckpt_path is not None  # it was None in `setup`
        self._resumed_from = Path(trainer.ckpt_path).resolve().parent

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        old = self._resumed_from / "best.ckpt" if self._resumed_from else None
        if old is None or not old.exists() or state_dict.get("best_model_score") is None:
            return
        assert self.dirpath is not None
        new = Path(self.dirpath) / "best.ckpt"
        if old != new.resolve():
            new.parent.mkdir(parents=True, exist_ok=True)
            copy_atomically(old, new)
        score = state_dict["best_model_score"]
        self._peak = state_dict.get("peak", float(score))
        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": str(new),
                "kth_best_model_path": str(new),
                "best_k_models": {str(new): score},
                "kth_value": score,
                "last_model_path": "",
            }
        )


class EpochSeeds(Callback):
    """Draws what is random in an epoch from the seed, the number of the epoch and that of the process alone.

    So a run that was killed and resumed, which begins that epoch again, ends as one that was not.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._processes = 1
        self._earlier: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._processes = trainer.world_size
        if self._earlier not in (None, self._processes):
            log.warning(
                "The run was trained by %d processes, and goes on with %d: each step sees another number of images, "
                "and the run will not end as it would have. data.batch_size is that of one process.",
                self._earlier,
                self._processes,
            )
        # Early stopping that has ended the run already would end it again only after another epoch.
        reasons = {callback.stopping_reason for callback in trainer.early_stopping_callbacks}
        if reasons - {EarlyStoppingReason.NOT_STOPPED}:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"processes": self._processes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["processes"]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch
        if views := getattr(pl_module, "views", None):  # a student's epochs return, and its teacher's answers with them
            epoch %= views
            sampler: Any = getattr(trainer.train_dataloader, "batch_sampler", None)
            sampler.sampler.set_epoch(epoch)
        numbers = np.random.SeedSequence((self.seed, epoch, trainer.global_rank)).generate_state(3)
        torch.manual_seed(int(numbers[0]))  # of all devices
        np.random.seed(int(numbers[1]))  # noqa: NPY002 libraries draw from it
        random.seed(int(numbers[2]))


class LastCheckpoint(ModelCheckpoint):
    """Keeps everything a resume needs as `last.ckpt`: of recent epochs, and of the last.

    Never from within an epoch: begun again, that ends as if it had not been interrupted.

    Args:
        share: of the time that may be spent on writing. After an epoch it is written only if that is kept to, so that
            a crash costs at most `1 / share` times as long as a write takes.
    """

    def __init__(self, share: float = 0.03) -> None:
        super().__init__(None, "last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.share = share
        self._due = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ends = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        start = time.monotonic()
        # Processes must not disagree, and so the first decides.
        if trainer.strategy.broadcast(ends or trainer.should_stop or start >= self._due):
            super().on_train_epoch_end(trainer, pl_module)
            end = time.monotonic()
            self._due = end + (end - start) / self.share

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass  # the next epoch writes it anew


class AveragedWeights(WeightAveraging):
    """Validates and keeps an exponential moving average of the weights.

    After n steps the average so far counts `(1 + n) / (10 + n)`, until that reaches `decay`, as in TensorFlow's
    ExponentialMovingAverage with `num_updates`: in a short run, the random weights it began with would outweigh all
    else.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(avg_fn=self._average)
        self.decay = decay

    def _average(self, average: Tensor, current: Tensor, steps: Tensor) -> Tensor:
        kept = ((1 + steps) / (10 + steps)).clamp(max=self.decay)  # on the device, which need not be waited for
        return kept * average + (1 - kept) * current


class KeepZeros(Callback):
    """Keeps every weight at zero that is zero when training starts."""

    def __init__(self) -> None:
        self._masks: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        layers = [layer for layer in pl_module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        self._masks = [(layer.weight, layer.weight.detach() != 0) for layer in layers]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for weight, mask in self._masks:
            weight.mul_(mask)
