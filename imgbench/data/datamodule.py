"""A folder of photographs as a LightningDataModule."""

import csv
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from imgbench.data.cache import decode_images
from imgbench.data.loading import Batch, EpochSampler, EvenBatches, ImageDataset, StreamingLoader, keep_batch
from imgbench.data.scan import SPLITS, TEST, TRAIN, VAL, describe_skipped, scan
from imgbench.data.split import SplitPlan, assign_splits, group_names
from imgbench.errors import UserError
from imgbench.preprocessing import STATISTICS, Preprocessing

log = logging.getLogger(__name__)


class _LastLine:
    """What a `csv.writer` takes for a file."""

    def write(self, line: str) -> None:
        self.line = line


@dataclass
class ImageTable:
    """Every usable image: what `split.csv` holds. Row i of each array belongs to `paths[i]`, relative to `root`."""

    root: Path
    paths: list[str]
    labels: np.ndarray  # (N,) int32, indices into class_names
    groups: list[str]
    splits: np.ndarray  # (N,) int8, indices into SPLITS
    digests: np.ndarray  # (N, 16) uint8
    class_names: list[str]

    def csv_lines(self) -> Iterator[str]:
        """The lines of `split.csv`; never all at once, since of a million images they take a quarter of a gigabyte."""
        last = _LastLine()
        writer = csv.writer(last, lineterminator="\n")
        writer.writerow(["path", "class", "group", "split", "hash"])
        for i, path in enumerate(self.paths):
            yield last.line
            row = [path, self.class_names[self.labels[i]], self.groups[i], SPLITS[self.splits[i]]]
            writer.writerow([*row, self.digests[i].tobytes().hex()])
        yield last.line

    @cached_property
    def hash(self) -> str:
        """Identifies exactly these images in exactly these splits."""
        sha = hashlib.sha256()
        for line in self.csv_lines():
            sha.update(line.encode("utf-8", "surrogateescape"))
        return sha.hexdigest()[:32]

    def duplicates_across(self, part: int) -> int:
        """How many images of a split are, byte for byte, also in train."""
        return self._also_trained(self.digests.view("V16").ravel(), part)

    def groups_across(self, part: int) -> int:
        """How many images of a split belong to a group that is also in train: possible where the folders divide."""
        return self._also_trained(np.array(self.groups), part)

    def _also_trained(self, keys: np.ndarray, part: int) -> int:
        return int(np.isin(keys[self.splits == part], keys[self.splits == TRAIN]).sum())


class ImageFolderDataModule(L.LightningDataModule):
    """Reads `root/<class>/*` or `root/<split>/<class>/*`, divides it, and hands out uint8 batches.

    Training batches leave it as float images in 0 to 1, augmented on the device; evaluation batches as uint8. The
    normalisation belongs to the model. `setup` may be called often and works once.

    Args:
        image_size: side of the square the network sees, in pixels.
        short_side: resize the short side to this and crop the centre, instead of stretching; None stretches.
        normalize: `unit` (0 to 1), `imagenet`, or `train` (statistics of the training images).
        num_classes: stated, it must agree with what is found.
        cache: see `imgbench.data.cache.decode_images`.

    Raises:
        UserError: by `setup`, when the folder cannot be used as it is.
    """

    def __init__(
        self,
        root: str,
        augment: nn.Module,
        image_size: int = 224,
        short_side: int | None = None,
        normalize: str = "imagenet",
        split: dict[str, Any] | None = None,
        batch_size: int = 32,
        num_classes: int | None = None,
        cache: str = "auto",
        seed: int = 42,
    ) -> None:
        super().__init__()
        if normalize not in (*STATISTICS, "train"):
            raise UserError(f"data.normalize={normalize!r}, but it is one of {', '.join([*STATISTICS, 'train'])}.")
        if short_side is not None and short_side < image_size:
            raise UserError(f"data.short_side={short_side} is smaller than data.image_size={image_size}.")
        self.root, self.augment, self.normalize, self.cache = root, augment, normalize, cache
        self.plan, self.batch_size, self.seed = SplitPlan(**split or {}), batch_size, seed
        self.stated_classes = num_classes
        self.preprocessing = Preprocessing(image_size, short_side)
        self._table: ImageTable | None = None
        self._pixels: np.ndarray | None = None

    @property
    def table(self) -> ImageTable:
        self.setup()
        assert self._table is not None
        return self._table

    @property
    def class_names(self) -> list[str]:
        return self.table.class_names

    def setup(self, stage: str = "fit") -> None:
        if self._table is not None:
            return
        found = scan(self.root)
        if self.stated_classes not in (None, len(found.class_names)):
            raise UserError(
                f"data.num_classes={self.stated_classes}, but {found.root} has {len(found.class_names)} class folders: "
                f"{found.class_names}.\nSet data.num_classes={len(found.class_names)}, or null to take what is there."
            )
        read = decode_images(found, self.preprocessing, self.cache)
        found.skipped["damaged"] += len(read.errors)
        for row, reason in list(read.errors.items())[:10]:
            log.warning("Left out, cannot be decoded: %s (%s)", found.root / found.paths[row], reason)
        good = np.setdiff1d(np.arange(len(found.paths)), np.array(list(read.errors), np.int64))
        paths = [found.paths[i] for i in good]
        usable = replace(found, paths=paths, labels=found.labels[good], splits=found.splits[good])
        groups = group_names(usable.paths, self.plan.group)
        splits = assign_splits(usable, self.plan, groups)
        self._table = ImageTable(
            found.root, usable.paths, usable.labels, groups, splits, read.digests[good], found.class_names
        )
        self._pixels, self._pixel_rows = read.pixels, good
        self.preprocessing = replace(self.preprocessing, intensity=read.intensity)
        self.preprocessing = replace(self.preprocessing, **self._statistics())
        counts = ", ".join(f"{(splits == part).sum()} {name}" for part, name in enumerate(SPLITS) if part in splits)
        log.info(
            "%s: %d images in %d classes (%s); left out: %s",
            found.root,
            len(usable.paths),
            len(found.class_names),
            counts,
            describe_skipped(+found.skipped),
        )
        remedy = (
            "remove them from one side" if (found.splits >= 0).any() else "data.split.group=REGEX keeps copies together"
        )
        for part in (VAL, TEST):
            if number := self._table.duplicates_across(part):
                log.warning(
                    "%d of the %s images are byte for byte among the training images too: they flatter it; %s.",
                    number,
                    SPLITS[part],
                    remedy,
                )
            if self.plan.group is not None and (number := self._table.groups_across(part)):
                log.warning(
                    "%d of the %s images belong to groups of data.split.group=%r that are among the training images "
                    "too: they flatter it; move each group to one side.",
                    number,
                    SPLITS[part],
                    self.plan.group,
                )

    def _statistics(self) -> dict[str, tuple[float, ...]]:
        if self.normalize in STATISTICS:
            mean, std = STATISTICS[self.normalize]
            return {"mean": mean, "std": std}
        total, squares, number = np.zeros(3), np.zeros(3), 0
        train = self.dataset(TRAIN)
        # Streamed images are costly to decode; 2,048 of them, drawn from all classes, give three digits.
        order = np.random.default_rng(self.seed).permutation(len(train))
        for start in range(0, len(order) if self._pixels is not None else min(len(order), 2048), 64):
            images, _ = train.__getitems__(np.sort(order[start : start + 64]).tolist())
            values = self.preprocessing.center_crop(images).double().div_(255)
            total += values.sum((0, 2, 3)).numpy()
            squares += values.square().sum((0, 2, 3)).numpy()
            number += values[:, 0].numel()
        mean = total / number
        std = np.sqrt(np.maximum(squares / number - mean**2, 1e-6))  # a constant channel must not divide by zero
        return {"mean": tuple(mean.round(4).tolist()), "std": tuple(std.round(4).tolist())}

    def rows(self, part: int) -> np.ndarray:
        """Rows of `table` in a split (an index into SPLITS); for VAL those of TEST if the model is selected on it."""
        return np.flatnonzero(self.table.splits == (TEST if part == VAL and self.plan.selects_on_test else part))

    @property
    def num_independent_val(self) -> int:
        """How many validation images are independent of each other: those of one group stand or fall together."""
        rows = self.rows(VAL)
        return len(rows) if self.plan.group is None else len({self.table.groups[i] for i in rows})

    def class_counts(self) -> np.ndarray:
        """(num_classes,) training images of each class."""
        return np.bincount(self.table.labels[self.rows(TRAIN)], minlength=len(self.class_names))

    def dataset(self, part: int) -> ImageDataset:
        """The images of a split as they are stored."""
        table, rows = self.table, self.rows(part)
        paths = [table.paths[i] for i in rows]
        return ImageDataset(
            table.root, paths, table.labels[rows], self.preprocessing, self._pixels, self._pixel_rows[rows]
        )

    def _loader(self, part: int) -> DataLoader[Batch]:
        dataset = self.dataset(part)
        # Reading from the cache takes a millisecond a batch, less than handing it from another thread.
        loader = DataLoader if self._pixels is not None else StreamingLoader
        sampler = EpochSampler(len(dataset), self.seed) if part == TRAIN else range(len(dataset))
        return loader(
            dataset,
            batch_sampler=EvenBatches(sampler, self.batch_size, drop_last=False),
            collate_fn=keep_batch,
            pin_memory=self._pixels is not None and torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(TRAIN)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(VAL)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(TEST)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, targets = batch
        if self.trainer is not None and self.trainer.training:
            return self.augment_batch(images, targets)
        return self.preprocessing.center_crop(images), targets

    def augment_batch(self, images: Tensor, targets: Tensor) -> Batch:
        """Stored uint8 images and their targets, as a training step gets them."""
        return self.augment(images, targets, self.preprocessing.image_size, len(self.class_names))
