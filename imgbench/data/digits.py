"""The default data: scikit-learn's 1,797 scanned handwritten digits (8x8 grey), written once as an image folder."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.pixels import cache_dir
from imgbench.errors import UserError


def write_digits(root: Path) -> None:
    """Fills `root/<digit>/<index>.png` unless it exists; needs no network.

    The digits come with scikit-learn: the test set of https://archive.ics.uci.edu/dataset/80.
    """
    if root.is_dir():
        return
    from sklearn.datasets import load_digits  # takes a second, and only the first run needs it

    scans, targets = (np.asarray(values) for values in load_digits(return_X_y=True))
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".digits-", dir=root.parent))
    for index, (image, target) in enumerate(zip(scans.reshape(-1, 8, 8), targets, strict=True)):
        folder = work / str(target)
        folder.mkdir(exist_ok=True)
        pixels = (image * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    try:
        work.rename(root)
    except OSError:  # another run was quicker
        if not root.is_dir():
            raise
        shutil.rmtree(work)


class DigitsDataModule(ImageFolderDataModule):
    """The digits, written below `root` (None: the user's cache directory) on first use."""

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        folder = Path(root) if root else cache_dir() / "digits"
        try:
            write_digits(folder)
        except OSError as error:
            raise UserError(
                f"data.root: the digits cannot be written to {folder} ({error.strerror}).\n"
                "Name a folder that can be written: data.root=DIR, or IMGBENCH_CACHE=DIR for all that is cached."
            ) from error
        super().__init__(str(folder), **kwargs)
