"""Images that are tested on, and whose copies or relatives were trained on: they flatter the model."""

from collections.abc import Iterator

import numpy as np

from imgbench.data.table import ImageTable


def find_leaks(table: ImageTable) -> Iterator[str]:
    """A sentence for each split and each kind of leak from train into it."""
    for find in (duplicates, shared_groups):
        for split in ("val", "test"):
            if message := find(table, split):
                yield message


def duplicates(table: ImageTable, split: str) -> str | None:
    """How many images of a split are, byte for byte, also in train."""
    digests = table.digests.view("V16").ravel()
    number = int(np.isin(digests[table.rows(split)], digests[table.rows("train")]).sum())
    if not number:
        return None
    remedy = "remove them from one side" if table.folder_splits else "data.split.group=REGEX keeps copies together"
    return f"{number} of the {split} images are byte for byte among the training images too: they flatter it; {remedy}."


def shared_groups(table: ImageTable, split: str) -> str | None:
    """How many images of a split belong to a group that is also in train: possible where the folders divide."""
    if table.plan.group is None:
        return None
    trained = {table.groups[row] for row in table.rows("train")}
    number = sum(table.groups[row] in trained for row in table.rows(split))
    if not number:
        return None
    return (
        f"{number} of the {split} images belong to groups of data.split.group={table.plan.group!r} that are among the "
        "training images too: they flatter it; move each group to one side."
    )
