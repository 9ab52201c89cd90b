"""Images per second that reach the model: imgbench's pipeline, cold and warm, against ImageFolder and DataLoader."""

import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from imgbench.benchmark.rounds import Timing, alternate, serve
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.experiment.build import build_data
from imgbench.files import cores
from imgbench.preprocessing import STATISTICS

Pixels = torch.Tensor


def measure_data(config: dict[str, Any], rounds: int) -> dict[str, Timing]:
    """Seconds per training image, from files on disk to normalised float batches; the first round fills the page cache.

    `cold` starts without a decoded image, hashes and decodes every image of the folder, and counts all of them; `warm`
    finds them decoded; `ImageFolder` decodes in one worker process, as the posts' scripts do.
    """
    variants = {"imgbench, warm": _warm, "imgbench, cold": _cold, "ImageFolder + DataLoader": _image_folder}
    return alternate(variants, {"config": config}, rounds)


def measure_photographs(config: dict[str, Any], rounds: int) -> dict[str, Timing]:
    """Seconds per photograph of 12 megapixels, from files on disk to normalised float batches.

    `cold` starts without a decoded image; `ImageFolder` has as many worker processes as there are cores.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder), config["photographs"])
        data = {**config["data"], "root": folder, "num_classes": None, "split": {}, "cache": "memory"}
        variants = {"imgbench, cold": _cold, "ImageFolder + DataLoader": _image_folder}
        arguments = {"config": {**config, "data": data}, "workers": cores()}
        return alternate(variants, arguments, rounds)


def make_photographs(folder: Path, number: int) -> None:
    """Writes JPEGs of 4000 x 3000 pixels, with detail of all sizes as photographs have it, in two classes."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((3000, 4000, 3), np.float32)
    for step in (1, 4, 16, 64, 256, 1024):
        coarse = rng.integers(0, 256, (3000 // step + 1, 4000 // step + 1, 3), dtype=np.uint8)
        enlarged = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
        pixels += step * np.asarray(enlarged, np.float32)
    pixels = (pixels - pixels.mean()) / pixels.std() * 50 + 128
    pixels += 4 * rng.standard_normal((3000, 4000, 1), np.float32)  # a sensor's noise, which makes files of 3 MB
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    for index in range(number):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        photo = Image.fromarray(np.roll(pixels, 61 * index, 1))  # no two are the same file
        photo.save(folder / "ab"[index % 2] / f"{index}.jpg", quality=92)


def _epoch(loader: DataLoader, mean: Pixels, std: Pixels) -> int:
    number = 0
    for images, _ in loader:
        batch = (images.float() / 255 - mean) / std
        number += len(batch)
    return number


def _statistics() -> tuple[Pixels, Pixels]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in STATISTICS["imagenet"])
    return mean, std


def _warm(connection: Connection, config: dict[str, Any]) -> None:
    loader = build_data(OmegaConf.create(config)).train_dataloader()

    def work() -> float:
        start = time.perf_counter()
        number = _epoch(loader, *_statistics())
        return (time.perf_counter() - start) / number

    serve(connection, work)


def _cold(connection: Connection, config: dict[str, Any], workers: int = 1) -> None:
    def work() -> float:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["IMGBENCH_CACHE"] = cache
            start = time.perf_counter()
            data = build_data(OmegaConf.create(config))
            _epoch(data.train_dataloader(), *_statistics())
            return (time.perf_counter() - start) / len(data.table.paths)

    serve(connection, work)


def _image_folder(connection: Connection, config: dict[str, Any], workers: int = 1) -> None:
    loader = image_folder_loader(build_data(OmegaConf.create(config)), "train", workers)

    def work() -> float:
        start = time.perf_counter()
        number = sum(len(images) for images, _ in loader)
        return (time.perf_counter() - start) / number

    serve(connection, work)


def image_folder_loader(data: ImageFolderDataModule, split: str, workers: int = 1) -> DataLoader[Any]:
    """The images of a split as the posts' scripts load them: normalised floats, decoded anew in every epoch."""
    size = data.preprocessing.image_size
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(*STATISTICS["imagenet"])]
    root = data.table.root
    folder = ImageFolder(str(root / split if (root / split).is_dir() else root), transforms.Compose(steps))
    wanted = {Path(root / data.table.paths[i]) for i in data.rows(split)}
    rows = [i for i, (path, _) in enumerate(folder.samples) if Path(path) in wanted]
    return DataLoader(Subset(folder, rows), data.batch_size, shuffle=split == "train", num_workers=workers)
