"""Small grey pictures of all images, and a hash of what each shows."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgbench.data.progress import shown
from imgbench.data.table import ImageTable
from imgbench.files import cores
from imgbench.preprocessing import Preprocessing

SIDE = 64  # pixels of a thumbnail
CHUNK = 64


@dataclass
class Thumbnails:
    """Row i belongs to `paths[i]` of the table; those of damaged images are black, and their hash is zero."""

    grey: np.ndarray  # (N, SIDE, SIDE) uint8
    hashes: np.ndarray  # (N,) V16: BLAKE2b of the thumbnails in colour, whatever the format or metadata of the file


def make_thumbnails(table: ImageTable) -> Thumbnails:
    """Decodes all files, and leaves the cached pixels alone: those depend on the size of image that a network sees,
    and which images are relatives, and so divided together, must not."""
    number = len(table.paths)
    decode = Preprocessing(SIDE, intensity=table.intensity).decode
    grey = np.zeros((number, SIDE, SIDE), np.uint8)
    hashes = np.zeros((number, 16), np.uint8)

    def chunk(start: int) -> None:
        for row in range(start, min(start + CHUNK, number)):
            if row in table.errors:
                continue
            square = decode(table.read(row))
            hashes[row] = np.frombuffer(hashlib.blake2b(square.tobytes(), digest_size=16).digest(), np.uint8)
            grey[row] = np.asarray(Image.fromarray(square).convert("L"))

    with ThreadPoolExecutor(cores()) as pool:  # Pillow and hashlib let go of the interpreter lock
        starts = range(0, number, CHUNK)
        list(shown(pool.map(chunk, starts), len(starts), "Looking at all images"))
    return Thumbnails(grey, hashes.view("V16").ravel())
