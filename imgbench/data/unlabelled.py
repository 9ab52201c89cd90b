"""Photographs without labels, from which a student learns what its teacher says of them."""

import logging
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgbench.data.batches import ImageDataset
from imgbench.data.pixels import decode_images
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.data.walk import Walk
from imgbench.errors import UserError
from imgbench.preprocessing import Preprocessing

log = logging.getLogger(__name__)

UNLABELLED = -100  # in the place of a class; what PyTorch's cross-entropy leaves out


def with_unlabelled(
    dataset: ImageDataset, folder: str | Path, preprocessing: Preprocessing, held_out: Set[bytes] = frozenset()
) -> ImageDataset:
    """The images of a data set, and after them all that lie below a folder, in memory.

    Args:
        held_out: content hashes of images that are left out: what is to be tested must not be learnt, in any way.

    Raises:
        UserError: the folder is missing, or has no image that can be decoded.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"data.unlabelled={folder}: expected a folder of images, but there is none.")
    files = list(Walk(root).images(str(root)))
    if not files:
        raise UserError(f"data.unlabelled={folder}: there is no image in the folder or below it.")
    paths = [Path(path).relative_to(root).as_posix() for path, _ in files]
    stamps = np.array([stamp for _, stamp in files], np.int64)
    given = np.full(len(files), NO_SPLIT, np.int8)
    found = ImageTable(root, [], paths, np.full(len(files), UNLABELLED, np.int32), given, stamps, Folder(root))
    decoded = decode_images(found, preprocessing, "memory")
    assert decoded.pixels is not None
    tested = [row for row, digest in enumerate(decoded.digests) if digest.tobytes() in held_out]
    if tested:
        log.warning("%d of %d unlabelled images are left out: they are to be tested on.", len(tested), len(files))
    good = np.setdiff1d(np.arange(len(files)), [*decoded.errors, *tested])
    own = dataset.table
    pixels, targets = dataset.__getitems__(range(len(dataset)))
    together = replace(
        own,
        paths=[*(own.paths[row] for row in dataset.rows), *(str(root / paths[row]) for row in good)],
        labels=np.concatenate([targets.numpy(), decoded.labels[good]]),
        pixels=np.concatenate([pixels.permute(0, 2, 3, 1).numpy(), decoded.pixels[good]]),
        source=Folder(own.root),
    )
    return ImageDataset(together, np.arange(len(together.paths)), preprocessing)
