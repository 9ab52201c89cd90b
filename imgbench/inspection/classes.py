"""Findings about classes: few images, imbalance, names that look like copies, splits of another composition."""

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.stats import chi2_contingency

from imgbench.data.table import ImageTable
from imgbench.inspection.findings import Finding, first_few
from imgbench.language import counted
from imgbench.split_file import SPLITS

FEW = 20  # images of a class, below which its accuracy can hardly be told
IMBALANCE = 5  # the largest class has so many times the images of the smallest
SURE = 0.001


def class_findings(table: ImageTable) -> Iterator[Finding]:
    yield from few_images(table)
    yield from imbalance(table)
    yield from similar_names(table)
    yield from missing_classes(table)
    yield from other_composition(table)


def _counts(table: ImageTable, rows: np.ndarray) -> np.ndarray:
    return np.bincount(table.labels[rows], minlength=len(table.class_names))


def _used(table: ImageTable) -> np.ndarray:
    return np.concatenate([table.rows(split) for split in SPLITS])


def few_images(table: ImageTable) -> Iterator[Finding]:
    counts = _counts(table, _used(table))
    rare = [f"{table.class_names[i]} ({counts[i]})" for i in np.flatnonzero(counts < FEW)]
    if rare:
        yield Finding(
            "few_images",
            "warning",
            f"{counted(len(rare), 'class', 'classes')} with fewer than {FEW} images: too few to learn from, and to say "
            "how well they are recognised.",
            len(rare),
            first_few(rare),
            "Add photographs, or merge classes.",
        )


def imbalance(table: ImageTable) -> Iterator[Finding]:
    counts = _counts(table, _used(table))
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] > IMBALANCE * max(counts[smallest], 1):
        share = counts[largest] / counts.sum()
        yield Finding(
            "imbalance",
            "warning",
            f"Class {table.class_names[largest]!r} has {counts[largest]:,} images, {table.class_names[smallest]!r} has "
            f"{counts[smallest]:,}: always answering {table.class_names[largest]!r} is right in {100 * share:.1f} %.",
            int(counts[largest]),
            [],
            "Look at balanced accuracy and at the recall of each class; objective.class_weights=balanced weighs them.",
        )


def similar_names(table: ImageTable) -> Iterator[Finding]:
    """`Cat` beside `cat`, `cat (1)`, `cat copy`: a class that was unpacked twice."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in table.class_names:
        alike[re.sub(r"([\s_-]*(copy|kopie|副本)|\s*\(\d+\))+$", "", name.strip().lower())].append(name)
    doubtful = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if doubtful:
        yield Finding(
            "class_names",
            "warning",
            f"Classes whose names hardly differ: {'; '.join(first_few(doubtful))}.",
            len(doubtful),
            [],
            "If they mean one class, move the images into one folder, or write one name into the table of labels.",
        )


def missing_classes(table: ImageTable) -> Iterator[Finding]:
    for split in table.folder_splits:
        if missing := table.missing_classes(split):
            yield Finding(
                "missing_class",
                "warning",
                f"No {split} images of {counted(len(missing), 'class', 'classes')}: not measured there.",
                len(missing),
                first_few(missing),
                f"Add images to {split}, or remove the folder {split}, so that imgbench divides anew.",
            )


def other_composition(table: ImageTable) -> Iterator[Finding]:
    """The classes have other shares in a folder's split than in train: accuracy there is of another mixture."""
    train = _counts(table, table.rows("train"))
    for split in table.folder_splits:
        own = _counts(table, table.rows(split))
        both = np.array([train, own])[:, train + own > 0]
        if split == "train" or own.sum() == 0 or both.shape[1] < 2:
            continue
        if float(chi2_contingency(both)[1]) < SURE:  # pyright: ignore[reportArgumentType]
            shares = own / own.sum() - train / train.sum()
            most = int(np.abs(shares).argmax())
            yield Finding(
                "composition",
                "warning",
                f"The classes have other shares in {split} than in train: {table.class_names[most]!r} makes up "
                f"{100 * own[most] / own.sum():.1f} % of {split} and {100 * train[most] / train.sum():.1f} % of train.",
                1,
                [],
                "Look at balanced accuracy, which does not depend on the shares.",
            )
