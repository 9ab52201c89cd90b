"""A folder of photographs as a LightningDataModule."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from imgbench.data.batches import (
    Batch,
    EpochSampler,
    EvenBatches,
    ImageDataset,
    StreamingLoader,
    keep_batch,
)
from imgbench.data.columns import AUTO, Chosen
from imgbench.data.labels import OPEN
from imgbench.data.read import FindGroups, read_table
from imgbench.data.split import SplitPlan
from imgbench.data.table import ImageTable
from imgbench.data.unlabelled import with_unlabelled
from imgbench.distributed import Launcher
from imgbench.errors import UserError
from imgbench.preprocessing import STATISTICS, Preprocessing

CHANNELS = {"mean": 3, "std": 3}


class ImageFolderDataModule(L.LightningDataModule):
    """Reads `root/<class>/*`, `root/<split>/<class>/*`, `root/**/*` with a table of labels, or shards.

    It divides the images, and hands out uint8 batches.

    Training batches leave it as float images in 0 to 1, augmented on the device; evaluation batches as uint8. The
    normalisation belongs to the model. `setup` may be called often and works once.

    Args:
        image_size: side of the square the network sees, in pixels.
        resize: see `imgbench.preprocessing.Preprocessing`.
        normalize: `unit` (0 to 1), `imagenet`, `train` (statistics of the training images), or the lists `mean` and
            `std` of the channels.
        batch_size: a number of images; `auto` stands for one that is set before there are batches.
        num_classes: stated, it must agree with what is found.
        find_groups: names the group of each image where `split.group` is `auto`.
        cache: see `imgbench.data.pixels.decode_images`.
        corrections: what people have decided of the photographs; None: `corrections.csv` beside them, where there is
            one.
        unlabelled: a folder of further images, which are shown in training with the target `UNLABELLED`.
        labels, columns: see `imgbench.data.shard_index.find_images`.

    Raises:
        UserError: by `setup`, when the folder cannot be used as it is.
    """

    def __init__(
        self,
        root: str,
        augment: nn.Module,
        image_size: int = 224,
        resize: str | int = "stretch",
        normalize: str | dict[str, list[float]] = "imagenet",
        split: dict[str, Any] | None = None,
        batch_size: int | str = 32,
        num_classes: int | None = None,
        cache: str = "auto",
        seed: int = 42,
        find_groups: FindGroups = lambda table: table.paths,
        unlabelled: str | None = None,
        labels: str | None = AUTO,
        columns: Chosen | None = None,
        corrections: str | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        super().__init__()
        if isinstance(normalize, str) and normalize not in (*STATISTICS, "train"):
            raise UserError(f"data.normalize={normalize!r}, but it is one of {', '.join([*STATISTICS, 'train'])}.")
        if not isinstance(normalize, str) and {name: len(numbers) for name, numbers in normalize.items()} != CHANNELS:
            raise UserError(f"data.normalize={normalize}, but it has three numbers for mean and three for std.")
        if columns is not None and not isinstance(columns, Mapping):
            raise UserError(f"data.columns={columns}, but it has entries: data.columns.class=COLUMN")
        self.root, self.augment, self.normalize, self.cache = root, augment, normalize, cache
        self.plan, self.seed = SplitPlan(**split or {}), seed
        self.batch_size = batch_size if isinstance(batch_size, int) else 0
        self.stated_classes, self.find_groups = num_classes, find_groups
        self.labels, self.columns = labels, columns or OPEN
        self.unlabelled, self.corrections = unlabelled, corrections
        self.launcher: Launcher | None = launcher
        self.preprocessing = Preprocessing(image_size, resize)
        self._table: ImageTable | None = None

    @classmethod
    def of_table(cls, table: ImageTable, preprocessing: Preprocessing) -> "ImageFolderDataModule":
        """Images that are only evaluated, by the preprocessing of a trained model."""
        data = cls(str(table.root), nn.Identity(), preprocessing.image_size, preprocessing.resize)
        data.plan, data.preprocessing, data._table = table.plan, preprocessing, table
        return data

    @property
    def table(self) -> ImageTable:
        self.setup()
        assert self._table is not None
        return self._table

    def use(self, table: ImageTable) -> None:
        """Puts another table of the same images in place, such as one in which fewer are to be trained on."""
        self._table = table

    @property
    def class_names(self) -> list[str]:
        return self.table.class_names

    def setup(self, stage: str = "fit") -> None:
        if self._table is None:
            self._table = read_table(
                self.root,
                self.preprocessing,
                self.plan,
                self.cache,
                self.stated_classes,
                self.find_groups,
                self.labels,
                self.columns,
                self.corrections,
                self.launcher,
            )
            self.preprocessing = replace(self.preprocessing, intensity=self._table.intensity)
            self.preprocessing = replace(self.preprocessing, **self._statistics())

    def _statistics(self) -> dict[str, tuple[float, ...]]:
        if isinstance(self.normalize, dict):
            return {name: tuple(numbers) for name, numbers in self.normalize.items()}
        if self.normalize in STATISTICS:
            mean, std = STATISTICS[self.normalize]
            return {"mean": mean, "std": std}
        total, squares, number = np.zeros(3), np.zeros(3), 0
        train = self.dataset("train")
        # Streamed images are costly to decode; 2,048 of them, drawn from all classes, give three digits.
        order = np.random.default_rng(self.seed).permutation(len(train))
        for start in range(0, len(order) if self.table.pixels is not None else min(len(order), 2048), 64):
            images, _ = train.__getitems__(np.sort(order[start : start + 64]).tolist())
            values = self.preprocessing.center_crop(images).double().div_(255)
            total += values.sum((0, 2, 3)).numpy()
            squares += values.square().sum((0, 2, 3)).numpy()
            number += values[:, 0].numel()
        mean = total / number
        std = np.sqrt(np.maximum(squares / number - mean**2, 1e-6))  # a constant channel must not divide by zero
        return {"mean": tuple(mean.round(4).tolist()), "std": tuple(std.round(4).tolist())}

    def rows(self, split: str) -> np.ndarray:
        """Rows of `table` in `train`, `val` or `test`; for `val` those of `test` if the model is selected on it."""
        return self.table.rows("test" if split == "val" and self.plan.selects_on_test else split)

    @property
    def num_independent_val(self) -> int:
        """How many validation images are independent of each other: those of one group stand or fall together."""
        rows = self.rows("val")
        return len(rows) if self.plan.group is None else len({self.table.groups[i] for i in rows})

    def class_counts(self) -> np.ndarray:
        """(num_classes,) training images of each class."""
        return np.bincount(self.table.labels[self.rows("train")], minlength=len(self.class_names))

    def dataset(self, split: str) -> ImageDataset:
        """The images of a split as they are stored."""
        return self.images(self.rows(split))

    def images(self, rows: np.ndarray) -> ImageDataset:
        """The images of these rows of the table as they are stored."""
        return ImageDataset(self.table, rows, self.preprocessing)

    def loader(self, split: str, shuffle: bool = False, divided: bool = False) -> DataLoader[Batch]:
        """Batches of a split, in the order of its rows or, shuffled, in a new one in every epoch.

        Args:
            divided: among the processes that train together; otherwise each gets all of them.

        Raises:
            UserError: divided, there would not be an image for each process.
        """
        dataset = self.dataset(split)
        if self.unlabelled is not None and shuffle:
            rows = np.concatenate([self.rows("val"), self.rows("test")])
            held_out = {self.table.digests[row].tobytes() for row in rows}
            dataset = with_unlabelled(dataset, self.unlabelled, self.preprocessing, held_out)
        cached = dataset.table.pixels is not None
        # Reading from the cache takes a millisecond a batch, less than handing it from another thread.
        loader = DataLoader if cached else StreamingLoader
        # Whether pixels are cached must not matter, since a resumed run may find another amount of free memory.
        shards = dataset.table.source.shards_of(dataset.rows)
        sampler = EpochSampler(shards, self.seed) if shuffle else range(len(dataset))
        trainer = self.trainer if divided else None
        process, processes = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if processes > max(1, len(dataset)):
            raise UserError(
                f"trainer.devices={processes}, but there are {len(dataset)} {split} images: use at most so many."
            )
        return loader(
            dataset,
            batch_sampler=EvenBatches(sampler, self.batch_size, process, processes),
            collate_fn=keep_batch,
            pin_memory=cached and torch.cuda.is_available(),
            # Of its own: its iterator draws a number, in a resumed run at another moment than in one that was not.
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        self.table.known = None  # what the audit has used; thumbnails of a million images take 4 GB
        return self.loader("train", shuffle=True, divided=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("val", divided=True)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self.loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, targets = batch
        if self.trainer is not None and self.trainer.training:
            return self.augment_batch(images, targets)
        return self.preprocessing.center_crop(images), targets

    def augment_batch(self, images: Tensor, targets: Tensor) -> Batch:
        """Stored uint8 images and their targets, as a training step gets them."""
        return self.augment(images, targets, self.preprocessing.image_size, len(self.class_names))
