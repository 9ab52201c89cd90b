"""Where the images of a table lie: in files, or in WebDataset shards, plain tars of thousands of images each.

An index beside the shards says in which of them, and where, the bytes of each image lie. `webdataset.WebDataset` reads
tars from end to end instead: it can tell neither which images belong to a split, nor how many there are, nor give each
of several processes its share of every batch, nor a resumed run the order of one that was not. So the library writes
the shards, and any program that uses it can read them; imgbench reads them by the index.
"""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np

from imgbench.data.columns import Labels
from imgbench.data.layout import setting, shards_in
from imgbench.errors import UserError

NEEDS = 'pip install "imgbench[shards]"'


@dataclass(frozen=True)
class ShardImage:
    """A photograph in a shard, or in any other tar."""

    shard: Path
    name: str
    offset: int  # bytes from the beginning of the tar
    size: int  # bytes

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read_bytes(self) -> bytes:
        """Raises OSError: the shard is gone, cannot be read, or has become too short."""
        with self.shard.open("rb", buffering=0) as file:  # of its own, so that threads and processes share no position
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(errno.EIO, "the shard is too short", str(self.shard))
        return data


Photograph: TypeAlias = Path | ShardImage


@dataclass(frozen=True)
class Folder:
    """Where images lie that are files of a folder."""

    root: Path
    labels: Labels | None = None  # what says their classes; None where folders do
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # path -> the file of an image that lies outside

    def photograph(self, row: int, path: str) -> Photograph:
        return self.elsewhere.get(path, self.root / path)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Folder":
        return self

    def shards_of(self, rows: np.ndarray) -> np.ndarray:
        """(N,) the number of the shard in which each of these images lies; files are as those of a single one."""
        return np.zeros(len(rows), np.int32)

    def written(self, stamps: np.ndarray) -> np.ndarray:
        """(N,) when each image was written, in seconds."""
        return stamps[:, 1] / 1e9


@dataclass(frozen=True)
class Shards:
    """Where N images lie in tars; row i of each array is one image."""

    folder: Path
    names: list[str]  # of the tars
    numbers: np.ndarray  # (N,) int32, indices into names
    offsets: np.ndarray  # (N,) int64, bytes from the beginning of the tar
    sizes: np.ndarray  # (N,) int64, bytes
    labels: ClassVar[Labels | None] = None  # their index has all that a table of labels says

    def photograph(self, row: int, path: str) -> Photograph:
        place = self.folder / self.names[self.numbers[row]]
        return ShardImage(place, path, int(self.offsets[row]), int(self.sizes[row]))

    def take(self, rows: Sequence[int] | np.ndarray) -> "Shards":
        """Some of the images, in another order."""
        return replace(self, numbers=self.numbers[rows], offsets=self.offsets[rows], sizes=self.sizes[rows])

    def shards_of(self, rows: np.ndarray) -> np.ndarray:
        return self.numbers[rows]

    def written(self, stamps: np.ndarray) -> np.ndarray:
        return np.zeros(len(stamps))  # a shard has one time for all


def is_shards(root: str | Path) -> bool:
    """Whether a place is meant as shards: `photos-{000000..000999}.tar`, or a single one."""
    return str(root).endswith(".tar")


def shard_paths(root: str | Path, option: str) -> list[Path]:
    """The tars that `photos-{000000..000999}.tar` names, as WebDataset writes them.

    Args:
        option: how the root was given; empty where it needs no option.

    Raises:
        UserError: one is missing, or a package is.
    """
    try:
        from braceexpand import braceexpand  # which comes with webdataset, and needs no torch
    except ImportError as error:
        raise UserError(
            f"{setting(option, Path(root))} is read with the help of a package that is not installed: {NEEDS}"
        ) from error
    paths = [Path(name).expanduser() for name in braceexpand(str(root))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        there = shards_in(missing[0].parent)
        mend = f", or name all that are there: {setting(option, there)}" if there else ""
        raise UserError(
            f"{setting(option, Path(root))}: {len(missing)} of {len(paths)} shards are missing, for example "
            f"{missing[0]}.\nCopy what is missing from where the others came{mend}"
        )
    return paths


def index_path(root: str | Path) -> Path:
    """`photos-index.csv` of `photos-{000000..000999}.tar` and of `photos-000000.tar`."""
    path = Path(root).expanduser()
    return path.with_name(re.sub(r"[-_.]?(\{.*|\d*)\.tar$", "", path.name) + "-index.csv")


def require_whole(path: Path, end: int) -> None:
    """Raises UserError: a shard is shorter than its index says, `end` bytes."""
    if (size := path.stat().st_size) < end:
        raise UserError(
            f"{path} is cut short: it has {size:,} bytes, and the index knows of an image that ends at {end:,}. "
            "Copy it again from where it came."
        )
