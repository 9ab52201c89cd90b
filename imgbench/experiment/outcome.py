"""What a trained run shows: the images it saw, and how good its model is."""

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.plots import draw_curves, draw_grid
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.results import SELECTED_ON_TEST, write_report, write_results
from imgbench.inference.predictor import Predictor
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.training.classifier import ImageClassifier


T = TypeVar("T")


def write_grid(data: ImageFolderDataModule, classifier: "ImageClassifier", run: Run, number: int = 20) -> None:
    """`samples.png`: training images as the network sees them, augmented, but before normalisation."""
    train = data.dataset("train")
    order = np.random.default_rng(data.seed).permutation(len(train))[:number]
    with torch.random.fork_rng():  # drawing a picture must not change what is trained
        images, targets = data.augment_batch(*train.__getitems__(order.tolist()))
    if targets.dim() == 2:  # mixed images have several classes
        names = [" + ".join(data.class_names[i] for i in row.nonzero().flatten()) for row in targets]
    else:
        names = [data.class_names[i] for i in targets]
    size = data.preprocessing.image_size
    title = f"{len(names)} training images as the network sees them ({size} x {size})"
    draw_grid(images.permute(0, 2, 3, 1).numpy(), names, run.path / "samples.png", title)


def write_outcome(run: Run, data: ImageFolderDataModule, config: DictConfig, announce: bool = True) -> None:
    """Draws the curves; writes how good the run's model is, and prints it. Before the first epoch's end, nothing."""
    title = f"{config.model_name} on {config.data_name}"
    best_epoch = None
    if run.best.exists():
        best_epoch = torch.load(run.best, mmap=True, weights_only=True)["epoch"] + 1
        run.note(best_epoch=best_epoch)
    if (run.path / "metrics.csv").exists():
        draw_curves(run.path / "metrics.csv", run.path / "curves.png", title, best_epoch)
    if run.model is None:
        return
    predictor = Predictor.load(run.model)
    selected_on_test = data.plan.selects_on_test
    results = {}
    for split in ("test",) if selected_on_test else ("test", "val"):
        results[split] = predict_split(predictor, data, split)
    metrics = write_results(run.path, title, results, selected_on_test)
    write_report(run.path, title, metrics, selected_on_test)
    if not announce:
        return
    print(f"\nRun directory  {run.shown}\nTest accuracy  {describe(metrics['test/acc'])}")
    if selected_on_test:
        print(f"Note           {SELECTED_ON_TEST}")
    place = shlex.quote(str(run.shown))
    print(f"Next           python -m imgbench.evaluate {place}")
    print(f"               python -m imgbench.predict {place} IMAGE...")


def predict_split(predictor: Predictor, data: ImageFolderDataModule, split: str) -> Predictions:
    """The predictor's probabilities for the images of a split."""
    batches = (data.preprocessing.center_crop(images) for images, _ in _progress(data.loader(split), split))
    probabilities = np.concatenate([predictor.model(images) for images in batches])
    rows = data.rows(split)
    paths = [data.table.paths[i] for i in rows]
    return Predictions(paths, data.table.labels[rows].astype(np.int64), probabilities, data.class_names)


def _progress(batches: Iterable[T], split: str) -> Iterable[T]:
    return track(batches, f"Evaluating {split}", transient=True) if Console().is_terminal else batches
