"""Small grey pictures of all images, and a hash of what each shows."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgbench.data.look import SIDE, digest
from imgbench.data.table import ImageTable
from imgbench.decode import Picture, decoded, to_rgb
from imgbench.files import cores
from imgbench.preprocessing import Preprocessing
from imgbench.progress import shown


@dataclass
class Thumbnails:
    """Row i belongs to `paths[i]` of the table; those of damaged images are black, and their hash is zero."""

    grey: np.ndarray  # (N, SIDE, SIDE) uint8
    hashes: np.ndarray  # (N,) V16: BLAKE2b of the thumbnails in colour, whatever the format or metadata of the file


def make_thumbnails(table: ImageTable) -> Thumbnails:
    """From the one look at each file, and not from the cached pixels: those depend on the size of image that a network
    sees, and which images belong to one group, and so to one split, must not.

    Images of more than 8 bits are decoded here, by the range that the whole table has.
    """
    looks = table.looks
    deep = [row for row in looks.extremes() if row not in table.errors]
    damaged = [*table.errors]
    grey, hashes = looks.grey, np.ascontiguousarray(looks.facts["shown"])
    if deep or damaged:
        grey = grey.copy()
    decode = Preprocessing(SIDE, intensity=table.intensity).decode
    grey[damaged], hashes[damaged] = 0, 0

    def show(row: int) -> None:
        square = decode(table.read(row))
        hashes[row] = np.frombuffer(digest(square.tobytes()), np.uint8)
        grey[row] = np.asarray(Image.fromarray(square).convert("L"))

    with ThreadPoolExecutor(cores()) as pool:  # Pillow and hashlib let go of the interpreter lock
        list(pool.map(show, deep))
    return Thumbnails(grey, hashes.view("V16").ravel())


def enlarged(table: ImageTable, rows: np.ndarray, side: int) -> np.ndarray:
    """(len(rows), side, side) uint8: larger grey pictures of some images, which are decoded anew."""
    result = np.zeros((len(rows), side, side), np.uint8)

    def square(picture: Picture) -> np.ndarray:
        return Preprocessing(side).square(to_rgb(picture, table.intensity))

    def show(place: int) -> None:
        pixels = decoded(table.read(int(rows[place])), square, side)
        result[place] = np.asarray(Image.fromarray(pixels).convert("L"))

    with ThreadPoolExecutor(cores()) as pool:
        done = pool.map(show, range(len(rows)))
        list(shown(done, len(rows), "Looking again at images that look alike"))
    return result
