"""Whether the images of a split that folders or a table give come from elsewhere than the training images.

A classifier between the two is right in half of the cases where they are drawn alike (Lopez-Paz and Oquab 2017,
"Revisiting classifier two-sample tests", https://arxiv.org/abs/1610.06545).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgbench.data.table import ImageTable
from imgbench.inspection.simple_features import FOLDS, group_codes, predicted_by_looks
from imgbench.number import Number, share

FEWEST = 20  # images of a side
CAP = 2_000  # images of a side that are drawn at most


@dataclass(frozen=True)
class Shift:
    """How often it can be told which of the two an image is from, where there are as many of each class in both."""

    split: str
    accuracy: Number  # by chance 0.5

    @property
    def is_there(self) -> bool:
        """Whether it is more than chance."""
        return self.accuracy.low > 0.5

    @property
    def sentence(self) -> str:
        """What was found, in words that need no explanation."""
        number = self.accuracy
        found = (
            f"{100 * number.value:.1f} % of {number.n:,} images (95 % interval {100 * number.low:.1f} to "
            f"{100 * number.high:.1f} %; by chance 50 %)"
        )
        if not self.is_there:
            return f"By colours and edges, {self.split} images cannot be told from training images: right in {found}."
        return (
            f"By colours and edges, {self.split} images can be told from training images of their class: right in "
            f"{found}. They come from elsewhere, or were taken otherwise."
        )


def shift(table: ImageTable, split: str, groups: Sequence[str], seed: int = 0) -> Shift | None:
    """By colours, edges and thumbnails; None where there are too few images.

    Args:
        groups: which rows of the table belong together ("" is alone).
    """
    rows, here = _alike_in_classes(table, split, seed)
    if len(rows) < 2 * FEWEST:
        return None
    codes = np.unique(group_codes(groups)[rows], return_inverse=True)[1]
    predicted = predicted_by_looks(table, rows, here, codes, 2)
    if predicted is None:
        return None
    told = predicted.mean(0).argmax(1) == here
    return Shift(split, share(told, np.ones(len(rows), bool), codes).of_networks(FOLDS))


def _alike_in_classes(table: ImageTable, split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As many rows of the split as of the training images, and of each class as many; and (N,) 1 for the split."""
    rng = np.random.default_rng(seed)
    sides: tuple[list[int], list[int]] = ([], [])
    train, other = (rng.permutation(table.rows(name)) for name in ("train", split))
    for label in range(len(table.class_names)):
        own = [rows[table.labels[rows] == label] for rows in (train, other)]
        number = min(map(len, own))
        for side, rows in zip(sides, own, strict=True):
            side += rows[:number].tolist()
    kept = rng.permutation(len(sides[0]))[:CAP]
    rows = np.concatenate([np.array(side, np.int64)[kept] for side in sides])
    here = np.repeat(np.arange(2), len(kept))
    order = np.argsort(rows, kind="stable")
    return rows[order], here[order]
