"""How time and memory grow with the number of images in shards: to make an index, to divide, and to read all once."""

import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from imgbench.benchmark.development.growth import CLASSES, FILES, in_new_process
from imgbench.benchmark.rounds import peak_memory
from imgbench.data.shard_index import index_shards
from imgbench.experiment.build import build_data
from imgbench.experiment.compose import compose

IMAGES_PER_SHARD = 10_000


def measure_shards(sizes: list[int]) -> dict[str, dict[str, float]]:
    """For each number of images: microseconds of the processor, of all threads together, and bytes, per image.

    `index` decodes and hashes every image; `start` reads the index, divides the images and gives the first batch;
    `read` is a shuffled pass over those of training, decoded anew. The bytes are those by which the peak of a new
    process' resident memory exceeds what it held when everything was imported: those of start and read together.
    """
    rows = {}
    for number in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = make_shards(Path(folder), number)
            index, _ = in_new_process(_index, root)
            began, memory = in_new_process(_read, root)
            start, read = began
        rows[f"{number:,} images"] = {
            "value": 1e6 * (index[0] + start + read) / number,
            "index": 1e6 * index[0] / number,
            "start": 1e6 * start / number,
            "read": 1e6 * read / number,
            "bytes per image": memory / number,
            "peak MB": memory / 1e6,
        }
    return rows


def make_shards(folder: Path, number: int) -> str:
    """`number` images under many names, which are `FILES` different ones of 16x16 pixels; returns their `data.root`."""
    from webdataset.writer import ShardWriter  # an extra

    rng = np.random.default_rng(0)
    source = folder / "source.png"
    contents = []
    for _ in range(min(FILES, number)):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(source)
        contents.append(source.read_bytes())
    source.unlink()
    options = {"maxcount": IMAGES_PER_SHARD, "encoder": False, "mtime": 0, "verbose": 0}
    with ShardWriter(f"{folder}/photos-%06d.tar", **options) as writer:
        for i in range(number):
            key = f"class_{i % CLASSES}/photograph_{i}"
            writer.write({"__key__": key, "png": contents[i % len(contents)]})
    return f"{folder}/photos-{{000000..{(number - 1) // IMAGES_PER_SHARD:06d}}}.tar"


def _timed(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _index(connection: Connection, folder: str) -> None:
    before = peak_memory()
    seconds = _timed(lambda: index_shards(folder))
    connection.send(((seconds,), peak_memory() - before))


def _read(connection: Connection, folder: str) -> None:
    words = ["data.image_size=16", "data.cache=off", "data.split.group=null"]
    config: Any = compose(["data=shards", f'data.root="{folder}"', *words])
    OmegaConf.resolve(config)
    before = peak_memory()
    loaders = []

    def begin() -> None:
        data = build_data(config)
        assert data.table.hash
        loaders.append(data.train_dataloader())
        next(iter(loaders[0]))

    def read() -> None:
        for _ in loaders[0]:
            pass

    connection.send(((_timed(begin), _timed(read)), peak_memory() - before))
