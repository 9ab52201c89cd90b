"""A picture of the images that a network is trained on."""

import numpy as np
import torch

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.evaluation.plots import draw_grid
from imgbench.run import Run


def write_grid(data: ImageFolderDataModule, run: Run, number: int = 20, augmented: bool = True) -> None:
    """`samples.png`: training images as the network sees them, augmented if it does, but before normalisation."""
    train = data.dataset("train")
    order = np.random.default_rng(data.seed).permutation(len(train))[:number]
    with torch.random.fork_rng():  # drawing a picture must not change what is trained
        images, targets = train.__getitems__(order.tolist())
        if augmented:
            images, targets = data.augment_batch(images, targets)
        else:
            images = data.preprocessing.center_crop(images).float() / 255
    if targets.dim() == 2:  # mixed images have several classes
        names = [" + ".join(data.class_names[i] for i in row.nonzero().flatten()) for row in targets]
    else:
        names = [data.class_names[i] for i in targets]
    size = data.preprocessing.image_size
    title = f"{len(names)} training images as the network sees them ({size} x {size})"
    draw_grid(images.permute(0, 2, 3, 1).numpy(), names, run.path / "samples.png", title)
