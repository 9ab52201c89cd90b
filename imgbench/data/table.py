"""The table of images: what is there, whether it can be decoded, its group and its split."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgbench.data.look import Looks, keep_looks, kept_looks
from imgbench.data.shards import Folder, Photograph, Shards
from imgbench.data.split import NO_SPLIT, TRAIN, SplitPlan
from imgbench.data.walk import LeftOut
from imgbench.files import cores
from imgbench.intensity import Intensity
from imgbench.progress import shown
from imgbench.split_file import SPLIT_COLUMNS, SPLITS, csv_lines

if TYPE_CHECKING:
    from imgbench.data.corrections import Decided


@dataclass
class ImageTable:
    """Images in the order of split, class and name; row i of each array and list belongs to `paths[i]`.

    Where they are found, the first columns are filled; where they are decoded and divided, the others, which are empty
    until then. An image that cannot be decoded keeps its row, in no split: `rows` of a split can be used.
    """

    root: Path
    class_names: list[str]
    paths: list[str]  # relative to `root`, with forward slashes
    labels: np.ndarray  # (N,) int32, indices into class_names
    given: np.ndarray  # (N,) int8, the splits that the folders give, or NO_SPLIT
    stamps: np.ndarray  # (N, 4) int64, see walk.stamp_of
    source: Folder | Shards
    passed_over: dict[LeftOut, list[str]] = field(default_factory=dict)  # paths that have no row
    notes: list[str] = field(default_factory=list)  # sentences that the user should read
    digests: np.ndarray = field(default_factory=lambda: np.zeros((0, 16), np.uint8))  # (N, 16), see look.digest
    pixels: np.ndarray | None = None  # (N, S, S, 3) uint8; None where files are decoded when they are needed
    errors: dict[int, str] = field(default_factory=dict)  # row -> why the file cannot be decoded
    intensity: Intensity = "file"  # how files of more than 8 bits are scaled, one for all
    known: Looks | None = None  # what was seen when the files were read, where more than their pixels was wanted
    plan: SplitPlan = field(default_factory=SplitPlan)
    groups: list[str] = field(default_factory=list)  # "" where the plan has no groups
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))  # (N,) indices into SPLITS, or NO_SPLIT
    decided: "Decided | None" = None  # what people's decisions have made of the labels and splits
    annotated: frozenset[str] = frozenset()  # paths of those whose class only people have said; see data.annotated

    @property
    def looks(self) -> Looks:
        """What each file is: from when it was read, from the cache, or else by reading it."""
        if self.known is None:
            self.known = _look_at_all(self)
        return self.known

    def photograph(self, row: int) -> Photograph:
        """Where an image lies."""
        return self.source.photograph(row, self.paths[row])

    def read(self, row: int) -> bytes:
        """The bytes of an image.

        Raises:
            OSError: they cannot be read.
        """
        return self.photograph(row).read_bytes()

    def take(self, rows: Sequence[int] | np.ndarray) -> "ImageTable":
        """Some of the images, in this order; none of them is decoded yet."""
        return replace(
            self,
            paths=[self.paths[row] for row in rows],
            labels=self.labels[rows],
            given=self.given[rows],
            stamps=self.stamps[rows],
            source=self.source.take(rows),
            digests=self.digests[rows] if len(self.digests) else self.digests,
            groups=[self.groups[row] for row in rows] if self.groups else [],
            decided=None,
        )

    def first(self, number: int) -> "ImageTable":
        """The first images, as they were decoded."""
        if number == len(self.paths):
            return self
        errors = {row: reason for row, reason in self.errors.items() if row < number}
        known = self.known and Looks(
            self.known.facts[:number],
            self.known.thumbnails[:number],
            {row: reason for row, reason in self.known.errors.items() if row < number},
            self.known.fresh[:number],
        )
        pixels = None if self.pixels is None else self.pixels[:number]
        return replace(self.take(range(number)), pixels=pixels, errors=errors, known=known)

    @property
    def hashes(self) -> list[str]:
        """The digest of each image's file, as `split.csv` has it."""
        return [digest.tobytes().hex() for digest in self.digests]

    @property
    def looked_at(self) -> set[int]:
        """The rows that people have decided on, of which nothing is asked again."""
        return set() if self.decided is None else set(np.flatnonzero(self.decided.looked_at).tolist())

    def rows(self, split: str) -> np.ndarray:
        """The rows of `train`, `val` or `test`."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def folder_splits(self) -> list[str]:
        """The splits that the folders give."""
        return [name for split, name in enumerate(SPLITS) if split in self.given]

    def missing_classes(self, split: str) -> list[str]:
        """The classes that have no image in a split."""
        counts = np.bincount(self.labels[self.rows(split)], minlength=len(self.class_names))
        return [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]

    @property
    def left_out(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of everything below `root` that is no row of a split; the damaged images first."""
        for row, reason in sorted(self.errors.items()):
            yield self.paths[row], reason
        for reason, paths in sorted(self.passed_over.items()):
            for path in sorted(paths):
                yield path, reason

    def left_out_lines(self) -> Iterator[str]:
        """The lines of `left_out.csv`."""
        return csv_lines(("path", "reason"), self.left_out)

    def split_rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Path, class, group, split and hash of every image that is in a split."""
        for i, path in enumerate(self.paths):
            if (split := self.splits[i]) != NO_SPLIT:
                digest = self.digests[i].tobytes().hex()
                yield path, self.class_names[self.labels[i]], self.groups[i], SPLITS[split], digest

    def csv_lines(self) -> Iterator[str]:
        """The lines of `split.csv`."""
        return csv_lines(SPLIT_COLUMNS, self.split_rows())

    def divided_as(self, rows: Sequence[Mapping[str, str]]) -> "ImageTable | None":
        """These images in the groups and splits of the rows of a `split.csv`; None where those are other images."""
        divided = self.splits if self.decided is None else self.decided.splits
        own = {path: row for row, path in enumerate(self.paths) if divided[row] != NO_SPLIT}
        then = {row["path"]: row for row in rows}
        looked_at = self.looked_at
        new = [path for path in own if path not in then]
        # What people have decided since then, or taken back, makes no other images of them.
        unknown = [path for path in new if own[path] not in looked_at and path not in self.annotated]
        if unknown or not own.keys() >= then.keys():
            return None
        groups, splits = self.groups.copy(), self.splits.copy()
        before = splits if self.decided is None else self.decided.splits.copy()
        tested = {groups[own[path]] for path, known in then.items() if known["split"] != "train"} - {""}
        for row in (own[path] for path in new if path in self.annotated):  # to be learnt, and not to be tested on
            splits[row] = before[row] = NO_SPLIT if groups[row] in tested else TRAIN
        for path, known in then.items():
            row = own[path]
            same_class = self.class_names[self.labels[row]] == known["class"] or row in looked_at
            if self.digests[row].tobytes().hex() != known["hash"] or not same_class:
                return None
            groups[row], before[row] = known["group"], SPLITS.index(known["split"])
            if self.decided is None or not self.decided.left_out[row]:
                splits[row] = before[row]
        decided = self.decided and replace(self.decided, splits=before)
        return replace(self, groups=groups, splits=splits, decided=decided)

    @cached_property
    def hash(self) -> str:
        """Identifies exactly these images in exactly these splits."""
        sha = hashlib.sha256()
        for line in csv_lines(SPLIT_COLUMNS, self.split_rows(), guard=False):
            sha.update(line.encode("utf-8", "surrogateescape"))
        return sha.hexdigest()[:32]


def _look_at_all(table: ImageTable) -> Looks:
    looks = kept_looks(table, table.read)
    rows = np.flatnonzero(looks.fresh).tolist()
    with ThreadPoolExecutor(cores()) as pool:
        list(shown(pool.map(lambda row: looks.look(row, table.read(row)), rows), len(rows), "Looking at all images"))
    if rows and table.pixels is None:  # of pixels that are to lie in memory, nothing is left on the disk
        with suppress(OSError):
            keep_looks(table, looks)
    looks.errors |= table.errors
    return looks
