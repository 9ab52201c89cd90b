"""What a run shows before it is trained, the images it sees, and after it: how good its model is."""

import shlex

import numpy as np
import torch
from omegaconf import OmegaConf

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.plots import draw_curves, draw_grid
from imgbench.evaluation.results import SELECTED_ON_TEST, write_report, write_results
from imgbench.experiment.build import build_data
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.run import Run


def write_grid(data: ImageFolderDataModule, run: Run, number: int = 20) -> None:
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


def conclude(run: Run, data: ImageFolderDataModule | None = None, announce: bool = True) -> None:
    """Evaluates the run's model, draws, reports and prints; nothing where no epoch has ended.

    It needs the run directory only, and can be done again: for a run that was killed after its last epoch.

    Args:
        data: what `build_data` made of the run's configuration, where it is known already.
    """
    config = run.config
    title = f"{config['model_name']} on {config['data_name']}"
    best_epoch = None
    if run.best.exists():
        best_epoch = torch.load(run.best, mmap=True, weights_only=True)["epoch"] + 1
        run.note(best_epoch=best_epoch)
    if (run.path / "metrics.csv").exists():
        draw_curves(run.path / "metrics.csv", run.path / "curves.png", title, best_epoch)
    if run.model is None:
        return
    data = data or build_data(OmegaConf.create(config))
    model = Predictor.load(run.model).model
    selected_on_test = data.plan.selects_on_test
    splits = ("test",) if selected_on_test else ("test", "val")
    results = {split: predict_split(model, data, split) for split in splits}
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
