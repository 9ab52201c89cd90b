"""Reads a folder into a table of images: what is there, whether it can be decoded, its group and its split."""

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from imgbench.data.look import Looks
from imgbench.data.pixels import DecodedImages, decode_images
from imgbench.data.progress import shown
from imgbench.data.scan import NO_SPLIT, SPLITS, Scan
from imgbench.data.shard_index import find_images
from imgbench.data.shards import Shards
from imgbench.data.split import SplitPlan, assign_splits, group_names
from imgbench.data.walk import LeftOut, describe_left_out
from imgbench.decode import Intensity
from imgbench.errors import UserError
from imgbench.files import cores, memory_left
from imgbench.preprocessing import Preprocessing
from imgbench.split_file import SPLIT_COLUMNS, csv_lines

log = logging.getLogger(__name__)

NAMED = 10  # of how many things a message gives the names
RELATED = {"val": LeftOut.RELATED_VAL, "test": LeftOut.RELATED_TEST}


@dataclass
class ImageTable:
    """The image files below `root`: row i of each array and list belongs to `paths[i]`, relative to `root`.

    A file that cannot be decoded keeps its row, in no split: `rows` of a split are images that can be used.
    `folder_splits` are the splits that the folders gave.
    """

    root: Path
    class_names: list[str]
    plan: SplitPlan
    folder_splits: list[str]
    paths: list[str]
    labels: np.ndarray  # (N,) int32, indices into class_names
    groups: list[str]  # "" where the plan has no groups
    splits: np.ndarray  # (N,) int8, indices into SPLITS, or NO_SPLIT
    digests: np.ndarray  # (N, 16) uint8
    pixels: np.ndarray | None  # (N, S, S, 3) uint8; None where files are decoded when asked for
    errors: dict[int, str]  # row -> why the file cannot be decoded
    intensity: Intensity  # by which files of more than 8 bits were scaled, one for all
    passed_over: dict[LeftOut, list[str]] = field(default_factory=dict)  # paths that have no row
    shards: Shards | None = None  # where the images lie if not in files
    stamps: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))  # (N, 4), see walk.stamp_of
    known: Looks | None = None  # what was seen when the files were read, where more than their pixels was wanted

    @cached_property
    def looks(self) -> Looks:
        """What each file is: from when it was read, or else by reading all files that can be decoded."""
        return self.known or _look_at_all(self)

    def open(self, row: int) -> IO[bytes]:
        """The content of an image; of a file that is decoded in part, only that is read."""
        return io.BytesIO(self.shards.read(row)) if self.shards else (self.root / self.paths[row]).open("rb")

    def read(self, row: int) -> bytes:
        """The bytes of an image."""
        with self.open(row) as file:
            return file.read()

    def rows(self, split: str) -> np.ndarray:
        """The rows of `train`, `val` or `test`."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def missing_classes(self, split: str) -> list[str]:
        """The classes of which a split has no image."""
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

    def csv_lines(self) -> Iterator[str]:
        """The lines of `split.csv`."""
        return csv_lines(SPLIT_COLUMNS, self.split_rows())

    def split_rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Path, class, group, split and hash of every image that is in a split."""
        for i, path in enumerate(self.paths):
            if (split := self.splits[i]) != NO_SPLIT:
                digest = self.digests[i].tobytes().hex()
                yield path, self.class_names[self.labels[i]], self.groups[i], SPLITS[split], digest

    def divided_as(self, rows: Sequence[Mapping[str, str]]) -> "ImageTable | None":
        """These images in the groups and splits of the rows of a `split.csv`; None where those are other images."""
        own = {path: row for row, path in enumerate(self.paths) if self.splits[row] != NO_SPLIT}
        if own.keys() != {row["path"] for row in rows}:
            return None
        groups, splits = self.groups.copy(), self.splits.copy()
        for known in rows:
            row = own[known["path"]]
            here = self.digests[row].tobytes().hex(), self.class_names[self.labels[row]]
            if here != (known["hash"], known["class"]):
                return None
            groups[row], splits[row] = known["group"], SPLITS.index(known["split"])
        return replace(self, groups=groups, splits=splits)

    def left_out_lines(self) -> Iterator[str]:
        """The lines of `left_out.csv`."""
        return csv_lines(("path", "reason"), self.left_out)

    @cached_property
    def hash(self) -> str:
        """Identifies exactly these images in exactly these splits."""
        sha = hashlib.sha256()
        for line in self.csv_lines():
            sha.update(line.encode("utf-8", "surrogateescape"))
        return sha.hexdigest()[:32]


def _look_at_all(table: ImageTable) -> Looks:
    looks = Looks.none_yet(table)
    rows = [row for row in range(len(table.paths)) if row not in table.errors]
    with ThreadPoolExecutor(cores()) as pool:
        list(shown(pool.map(lambda row: looks.look(row, table.read(row)), rows), len(rows), "Looking at all images"))
    looks.errors |= table.errors
    return looks


FindRelatives = Callable[[ImageTable], list[str]]


def read_table(
    root: str | Path,
    preprocessing: Preprocessing,
    plan: SplitPlan,
    cache: str = "auto",
    num_classes: int | None = None,
    find_relatives: FindRelatives = lambda table: table.paths,
) -> ImageTable:
    """Scans, decodes and divides the images of a folder, and logs what was found and what was left out.

    `find_relatives` names the group of each image, for `plan.group="auto"` and `plan.leaks="drop"`; by default each is
    alone. `cache`: see `imgbench.data.pixels.decode_images`. `num_classes`, where stated, must agree with what is
    found.

    Raises:
        UserError: the folder cannot be used as it is, or has other classes than stated.
    """
    found = find_images(root)
    if num_classes not in (None, len(found.class_names)):
        raise UserError(
            f"data.num_classes={num_classes}, but {found.root} has {len(found.class_names)} class folders: "
            f"{found.class_names}.\nSet data.num_classes={len(found.class_names)}, or null to take what is there."
        )
    decoded = decode_images(found, preprocessing, cache)
    _require_decodable(found, decoded.errors)
    if plan.group == "auto" and found.shards and found.shards.groups:
        groups = found.shards.groups
    elif plan.group == "auto":
        undivided = replace(plan, group=None)
        together = _table(found, decoded, undivided, [""] * len(found.paths))
        groups = find_relatives(together)
        decoded.looks = vars(together).get("looks", decoded.looks)
    else:
        groups = group_names(found.paths, plan.group, without=decoded.errors)
    table = _table(found, decoded, plan, groups)
    if plan.leaks == "drop" and table.folder_splits:
        _drop_relatives(table, groups if plan.group == "auto" else find_relatives(table))
    _describe(table, found.notes)
    return table


def _table(found: Scan, decoded: DecodedImages, plan: SplitPlan, groups: list[str]) -> ImageTable:
    return ImageTable(
        found.root,
        found.class_names,
        plan,
        [name for split, name in enumerate(SPLITS) if split in found.splits],
        found.paths,
        found.labels,
        groups,
        assign_splits(found, plan, groups, without=decoded.errors),
        decoded.digests,
        decoded.pixels,
        decoded.errors,
        decoded.intensity,
        found.left_out,
        found.shards,
        found.stamps,
        decoded.looks,
    )


def labelled_table(found: Scan, preprocessing: Preprocessing, groups: list[str] | None = None) -> ImageTable:
    """Images whose classes and splits are known, to be evaluated: nothing is divided or left in the cache."""
    size = preprocessing.stored_size
    fits = len(found.paths) * size * size * 3 < memory_left() / 4
    decoded = decode_images(found, preprocessing, "memory" if fits else "stream")
    splits = found.splits.copy()
    splits[list(decoded.errors)] = NO_SPLIT
    return ImageTable(
        found.root,
        found.class_names,
        SplitPlan(),
        [],
        found.paths,
        found.labels,
        groups or [""] * len(found.paths),
        splits,
        decoded.digests,
        decoded.pixels,
        decoded.errors,
        decoded.intensity,
        shards=found.shards,
        stamps=found.stamps,
    )


def _require_decodable(found: Scan, errors: dict[int, str]) -> None:
    """Some image of each class, and of each split that the folders give, can be decoded."""
    damaged = np.array(list(errors), np.int64)
    for kind, keys, names in (("class", found.labels, found.class_names), ("split", found.splits, SPLITS)):
        for key in np.setdiff1d(keys[damaged], np.delete(keys, damaged)):
            rows = np.flatnonzero(keys == key)
            example = f"{found.root / found.paths[rows[0]]} ({errors[int(rows[0])]})"
            raise UserError(
                f"data.root: {kind} {names[key]!r} has {len(rows)} images, and none can be decoded, for example "
                f"{example}.\nReplace them or remove the folder."
            )


def _drop_relatives(table: ImageTable, groups: list[str]) -> None:
    """Leaves relatives of training images out of the val and test that the folders give."""
    trained = {groups[row] for row in table.rows("train")} - {""}
    for split in table.folder_splits:
        if split == "train":
            continue
        rows = table.rows(split)
        related = [row for row in rows if groups[row] in trained]
        if len(related) == len(rows):
            raise UserError(
                f"data.split.leaks=drop leaves no {split} image: all {len(rows)} are relatives of training images. "
                "Leave the folders undivided, so that relatives stay on one side."
            )
        table.splits[related] = NO_SPLIT
        if related:
            names = table.passed_over.setdefault(RELATED[split], [])
            names += [table.paths[row] for row in related]


def _describe(table: ImageTable, notes: list[str]) -> None:
    for note in notes:
        log.warning("%s", note)
    for row, reason in sorted(table.errors.items())[:NAMED]:
        log.warning("Left out, cannot be decoded: %s (%s)", table.root / table.paths[row], reason)
    if (more := len(table.errors) - NAMED) > 0:
        log.warning("... and %d more that cannot be decoded; left_out.csv in the run directory names all.", more)
    for split in table.folder_splits:
        if missing := table.missing_classes(split):
            names = f"{missing[:NAMED]}{f' and {len(missing) - NAMED} more' if len(missing) > NAMED else ''}"
            log.warning("%s has no %s images of %s: not measured there.", table.root, split, names)
    counts = ", ".join(f"{len(rows)} {name}" for name in SPLITS if len(rows := table.rows(name)))
    left_out = table.passed_over | ({LeftOut.DAMAGED: table.errors} if table.errors else {})
    log.info(
        "%s: %d images in %d classes (%s); left out: %s",
        table.root,
        int((table.splits != NO_SPLIT).sum()),
        len(table.class_names),
        counts,
        describe_left_out(left_out),
    )
