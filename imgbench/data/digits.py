"""The default data: scikit-learn's 1,797 scanned handwritten digits (8x8 grey), written once as an image folder."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgbench.data.cache import cache_dir
from imgbench.data.datamodule import ImageFolderDataModule


def write_digits(root: Path) -> None:
    """Fills `root/<digit>/<index>.png` unless it exists; needs no network.

    The digits come with scikit-learn: test part of https://archive.ics.uci.edu/dataset/80.
    """
    if root.is_dir():
        return
    from sklearn.datasets import load_digits  # takes a second, and only the first run needs it

    digits = load_digits()
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".digits-", dir=root.parent))
    for index, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
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
        write_digits(folder)
        super().__init__(str(folder), **kwargs)
