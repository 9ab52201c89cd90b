"""A whole epoch with validation on real images: through imgbench, and as a plain PyTorch script."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import cross_entropy

from imgbench.benchmark.data import image_folder_loader
from imgbench.benchmark.rounds import Timing, alternate, serve
from imgbench.benchmark.step import plain_model, plain_step
from imgbench.experiment.build import apply_defaults, build_classifier, build_data, build_trainer, with_facts
from imgbench.experiment.train import quiet_libraries
from imgbench.training import fast
from imgbench.training.neighbours import Neighbours

Beside = Callable[[], contextlib.AbstractContextManager[object]]


def measure_epoch(config: dict[str, Any], rounds: int) -> dict[str, Timing]:
    """Seconds of an epoch: training, validation and, in imgbench, the checkpoints."""
    return alternate({"imgbench": train_epochs, "plain PyTorch script": _plain}, {"config": config}, rounds)


class _Gate(Callback):
    """Waits for a word before each epoch, and reports its time when the next would begin."""

    def __init__(self, connection: Connection, beside: Beside) -> None:
        self.connection, self.beside = connection, beside
        self.work: contextlib.ExitStack | None = None
        self.start = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.work is not None:
            seconds = time.perf_counter() - self.start
            self.work.close()
            self.connection.send(seconds)
        if self.connection.recv() is None:
            raise SystemExit
        self.work = contextlib.ExitStack()
        self.work.enter_context(self.beside())
        self.start = time.perf_counter()


def train_epochs(
    connection: Connection, config: dict[str, Any] | DictConfig, beside: Beside = contextlib.nullcontext
) -> None:
    """One epoch for each word on the connection, each within a context of `beside`."""
    composed = OmegaConf.create(config)
    composed.callbacks.early_stopping = None
    settings, _ = fast.apply(fast.FastSettings(**config["fast"]), config["trainer"]["accelerator"])
    data = build_data(composed)
    composed = with_facts(composed, data)
    apply_defaults(composed, len(data.rows("train")))
    composed.trainer.max_epochs = 1000  # a schedule needs an end; the gate comes before it
    classifier = build_classifier(composed, data.class_names, data.preprocessing, settings, class_weights=None)
    fast.prepare(classifier, settings)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SystemExit), quiet_libraries():
        trainer = build_trainer(composed, settings, Path(folder), [_Gate(connection, beside), Neighbours()])
        trainer.fit(classifier, datamodule=data)


def _plain(connection: Connection, config: dict[str, Any]) -> None:
    data = build_data(OmegaConf.create(config))
    loaders = [image_folder_loader(data, split) for split in ("train", "val")]
    model, device = plain_model(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def epoch() -> float:
        start = time.perf_counter()
        model.train()
        for images, targets in loaders[0]:
            plain_step(model, images.to(device), targets.to(device), optimizer)
        model.eval()
        with torch.no_grad():
            for images, targets in loaders[1]:
                cross_entropy(model(images.to(device)), targets.to(device)).item()
        return time.perf_counter() - start

    serve(connection, epoch)
