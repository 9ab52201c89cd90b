"""Writes the images of a table into WebDataset shards, with an index beside them."""

import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path, PurePosixPath

import numpy as np

from imgbench.data.pixels import digest
from imgbench.data.shard_index import intensity_text, members, write_index
from imgbench.data.shards import NEEDS, Folder, index_path
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.data.walk import has_image_ending
from imgbench.decode import FORMATS, image_format
from imgbench.errors import UserError
from imgbench.files import put_in_place
from imgbench.progress import shown
from imgbench.split_file import SPLITS

NAME = "photos-%06d.tar"


def require_free(folder: Path) -> None:
    """Raises:
    UserError: shards cannot be written to `folder`, because something is there, or a package is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"output={folder} is there already, and not empty. Name another folder, or remove it.")
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise UserError(f"Shards are written with the help of a package that is not installed: {NEEDS}") from error


def write_shards(table: ImageTable, folder: Path, images_per_shard: int, seed: int) -> str:
    """Writes all images that can be decoded and were not left out, and returns the `data.root` that reads them.

    They come into the shards in random order, so that a few shards have of every class; the index lists them in the
    order of the table, so that they are divided as those of the folder are. All is written beside its place and
    renamed, so that a crash leaves no half shards.

    Raises:
        UserError: `folder` is not free, or an image has changed since the table was made.
        OSError: it cannot be written.
    """
    require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(work, ignore_errors=True)  # what a killed command left
    work.mkdir()
    try:
        left_out = [] if table.decided is None else np.flatnonzero(table.decided.left_out).tolist()
        assert isinstance(table.source, Folder)
        # Photographs outside of the folder are only to be learnt from, which no index of shards says.
        left_out += [row for row, path in enumerate(table.paths) if path in table.source.elsewhere]
        rows = np.setdiff1d(np.arange(len(table.paths)), [*table.errors, *left_out])
        order = np.random.default_rng(seed).permutation(rows)
        names = _write(table, order, work, images_per_shard)
        root = NAME.replace("%06d", f"{{000000..{len(names) - 1:06d}}}" if len(names) > 1 else "000000")
        write_index(work / index_path(root).name, _lines(table, rows, order, work, names))
        put_in_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return str(folder / root)


def _write(table: ImageTable, order: np.ndarray, work: Path, images_per_shard: int) -> list[str]:
    """The names of the shards, in which each image has a file `.cls` beside it: the number of its class."""
    from webdataset.writer import ShardWriter  # imports torch, and is an extra

    names: list[str] = []
    open_files: list[FileIO] = []

    def opened(name: str) -> FileIO:
        names.append(name)
        open_files.append(FileIO(work / name, "wb"))
        return open_files[0]

    # Modification times would make shards differ that are made again; names may be long, and of any language.
    options = {"mtime": 0, "format": "PAX_FORMAT", "encoder": False, "verbose": 0}
    with ShardWriter(
        NAME, maxcount=images_per_shard, opener=opened, post=lambda _: open_files.pop().close(), **options
    ) as writer:
        keys: set[str] = set()
        for place, row in enumerate(shown(order.tolist(), len(order), "Writing shards")):
            if place % images_per_shard == 0:
                keys.clear()
            data = _unchanged(table, row)
            key = _key(table.paths[row], keys)
            writer.write({"__key__": key, "cls": b"%d" % table.labels[row], _ending(table.paths[row], data): data})
    return names


def _unchanged(table: ImageTable, row: int) -> bytes:
    path = table.root / table.paths[row]
    try:
        data = table.read(row)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Mend that, and begin anew.") from error
    if digest(data) != table.digests[row].tobytes():
        raise UserError(f"{path} was changed while shards were made. Begin anew.")
    return data


def _key(path: str, taken: set[str]) -> str:
    """The path without its ending, as WebDataset wants it: no dot in the name, and no two alike in a shard."""
    own = PurePosixPath(path)
    key = str(own.with_name(own.stem.replace(".", "_")))
    while key in taken:
        key += "_"
    taken.add(key)
    return key


def _ending(path: str, data: bytes) -> str:
    ending = PurePosixPath(path).suffix.lower()
    if not has_image_ending(path):
        ending = FORMATS[image_format(data) or "JPEG"].endings[0]
    return ending[1:]


def _lines(table: ImageTable, rows: np.ndarray, order: np.ndarray, work: Path, names: list[str]) -> Iterator[list[str]]:
    """The lines of the index, with places as they are found in the shards."""
    numbers = np.empty(len(table.paths), np.int32)
    places = np.empty((len(table.paths), 2), np.int64)
    images = iter(order.tolist())
    for number, name in enumerate(names):
        for member, offset, size in members(work / name):
            if not member.endswith(".cls"):
                row = next(images)
                numbers[row], places[row] = number, (offset, size)
    intensity = intensity_text(table.intensity)
    for row in rows.tolist():
        yield [
            table.paths[row],
            table.class_names[table.labels[row]],
            table.groups[row],
            "" if (given := table.given[row]) == NO_SPLIT else SPLITS[given],
            table.digests[row].tobytes().hex(),
            names[numbers[row]],
            *map(str, places[row].tolist()),
            intensity,
        ]
