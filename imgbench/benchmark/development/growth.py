"""How time and memory grow with the number of images: to scan, check, split and start, without training."""

import logging
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from imgbench.benchmark.rounds import ENDED_EARLY, Variant, peak_memory, start
from imgbench.experiment.build import build_data
from imgbench.experiment.compose import compose

CLASSES, FILES = 10, 200


def measure_growth(sizes: list[int]) -> dict[str, dict[str, float]]:
    """For each number of images: seconds, and microseconds and bytes per image.

    The images are `FILES` small PNG files under many names. The bytes are those by which the peak of a new process'
    resident memory exceeds what it held when everything was imported.
    """
    rows = {}
    for number in sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder), number)
            seconds, memory = in_new_process(_start, folder)
        rows[f"{number:,} images"] = {
            "value": seconds,
            "microseconds per image": 1e6 * seconds / number,
            "bytes per image": memory / number,
        }
    return rows


def make_images(root: Path, number: int) -> None:
    """`number` names for `FILES` different 16x16 images, in `CLASSES` class folders."""
    rng = np.random.default_rng(0)
    sources = []
    for i in range(min(FILES, number)):
        source = root / f".{i}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(source)
        sources.append(source)
    for label in range(CLASSES):
        (root / f"class_{label}").mkdir()
    for i in range(number):
        os.link(sources[i % len(sources)], f"{root}/class_{i % CLASSES}/photograph_{i}.png")


def in_new_process(variant: Variant, folder: str) -> tuple[Any, float]:
    """What the variant sends: its time, and the bytes that it needed."""
    process, connection = start(variant, folder=folder)
    try:
        return connection.recv()
    except EOFError as error:
        raise RuntimeError(ENDED_EARLY) from error
    finally:
        process.join()


def _start(connection: Connection, folder: str) -> None:
    logging.disable(logging.WARNING)  # of the copies, which are meant
    config: Any = compose(["data=folder", f"data.root={folder}", "data.image_size=16", "data.cache=off"])
    OmegaConf.resolve(config)
    before, began = peak_memory(), time.perf_counter()
    data = build_data(config)
    assert data.table.hash
    next(iter(data.train_dataloader()))
    connection.send((time.perf_counter() - began, peak_memory() - before))
