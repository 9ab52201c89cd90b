"""Decodes every image once, in parallel, into fixed-size uint8 squares that later epochs and runs read back.

An entry of the cache is a directory whose name is a hash of what the files hold and of the decode settings, so that a
changed, added or removed file makes another entry. It is written beside its final place and renamed, so that a crash
leaves no half entry. Of runs that start at once one decodes, and the others wait for it. What files hold is known from
`imgbench.data.look`, which reads a file again only where it may have changed.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from imgbench.data.look import Looks, cache_dir, digest, keep_looks, kept_looks
from imgbench.data.table import ImageTable
from imgbench.decode import deep_extremes
from imgbench.errors import DecodeError, UserError
from imgbench.files import cores, memory_left, put_in_place
from imgbench.intensity import Extremes, Intensity, intensity_range
from imgbench.preprocessing import Preprocessing
from imgbench.progress import Step

log = logging.getLogger(__name__)

FORMAT = 4  # raise it when resizing changes, so that old entries are not read; see decode.DECODING too
CHUNK = 64
UNFINISHED = ".making-"
MODES = ("auto", "memory", "disk", "off")


def decode_images(table: ImageTable, preprocessing: Preprocessing, mode: str = "auto") -> ImageTable:
    """Hashes and decodes all images, or reads back what an earlier run has left.

    `mode`: `memory` and `disk` say where the pixels are kept, `off` keeps none, and `auto` means disk, or off if that
    would take more than half of the free space; `stream` keeps none, and leaves nothing in the cache either. Where the
    disk cannot be written or is full, memory serves instead. The intensity range is that of `preprocessing`; where it
    states none, it is found from the files.

    Raises:
        UserError: there is no such mode, a file cannot be read, or none can be decoded.
    """
    result = _read_or_decode(table, preprocessing, mode)
    if len(result.errors) == len(table.paths):
        reasons = "; ".join(f"{number} x {reason}" for reason, number in Counter(result.errors.values()).most_common(3))
        raise UserError(
            f"None of the {len(table.paths)} images of {table.root} can be decoded: {reasons.removesuffix('.')}."
        )
    for reason, number in Counter(result.errors.values()).most_common():
        if number > 1:
            log.warning("%d files are left out: %s", number, reason)
    if not isinstance(result.intensity, str):
        log.info("Images of 16 bits or floats: %g is black and %g is white in all of them.", *result.intensity)
    return result


def _read_or_decode(table: ImageTable, preprocessing: Preprocessing, mode: str) -> ImageTable:
    if mode not in (*MODES, "stream"):
        raise UserError(f"data.cache={mode!r}, but it is one of {', '.join(MODES)}.")
    if mode == "memory":
        return _decode_all(table, preprocessing, _in_memory)
    size = preprocessing.stored_size
    needed = len(table.paths) * size * size * 3
    if len(table.digests):  # of images in shards: each was decoded when it came into the index
        if mode == "auto" and needed > memory_left() / 2:
            mode = "off"  # once they no longer fit into memory, decoded pixels are read more slowly than shards
        if mode in ("off", "stream"):
            return table if preprocessing.intensity == "file" else replace(table, intensity=preprocessing.intensity)
    if mode == "stream":
        return _decode_all(table, preprocessing, None)
    home = cache_dir() / "images"
    _remove_abandoned(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        if mode == "auto" and needed > shutil.disk_usage(home).free / 2:
            log.warning("The decoded images (%.1f GB) would fill the disk: streaming them instead.", needed / 1e9)
            mode = "off"
        return _make(table, preprocessing, home, with_pixels=mode != "off")
    except OSError as error:
        fits = mode != "off" and needed < memory_left() / 2
        log.warning(
            "The image cache in %s cannot be written (%s): %s. IMGBENCH_CACHE=DIR moves it.",
            home,
            error.strerror,
            "keeping the images in memory" if fits else "decoding them in every epoch",
        )
        return _decode_all(table, preprocessing, _in_memory if fits else None, Looks.none_yet(table))


def _place_of(table: ImageTable, preprocessing: Preprocessing) -> str:
    """The first half of an entry's name, which tells what a new one supersedes."""
    kinds = {"stretch": preprocessing.image_size, "pad": f"pad {preprocessing.padding}"}
    square = (kinds.get(str(preprocessing.resize), "crop"), preprocessing.stored_size)
    return hashlib.blake2b(
        f"{table.root.resolve()} {square}".encode("utf-8", "surrogateescape"), digest_size=8
    ).hexdigest()


def _entry_name(table: ImageTable, preprocessing: Preprocessing, looks: Looks) -> str:
    """`<hash of the place>-<hash of the files' content and of the settings>`."""
    damaged = sorted(looks.errors)  # which of them can be decoded depends on what is installed
    settings = f"{FORMAT} {preprocessing.decoding} {preprocessing.intensity} {damaged}"
    content = hashlib.blake2b(settings.encode(), digest_size=16)
    content.update(looks.digests.tobytes())
    return f"{_place_of(table, preprocessing)}-{content.hexdigest()}"


def _read(entry: Path, table: ImageTable, looks: Looks) -> ImageTable | None:
    if not entry.is_dir():
        return None
    try:
        facts = json.loads((entry / "decoded.json").read_text("utf-8"))
        pixels = np.load(entry / "pixels.npy", mmap_mode="r")
        if len(pixels) != len(looks.facts):
            raise ValueError("it has not as many images as there are")
        errors = {int(row): reason for row, reason in facts["errors"].items()}
        intensity = facts["intensity"] if isinstance(facts["intensity"], str) else tuple(facts["intensity"])
        return replace(table, digests=looks.digests, errors=errors, pixels=pixels, intensity=intensity, known=looks)
    except (ValueError, TypeError, KeyError, OSError, EOFError) as error:
        log.warning("The cache entry %s is damaged (%s) and is made anew.", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _make(table: ImageTable, preprocessing: Preprocessing, home: Path, with_pixels: bool) -> ImageTable:
    """Reads back what is known, and looks at and decodes the rest, unless another process does at this moment."""
    place = _place_of(table, preprocessing)

    def known() -> tuple[Looks, ImageTable | None]:
        looks = kept_looks(table, lambda row: _read_file(table, row))
        if looks.fresh.any():
            return looks, None
        if with_pixels:
            return looks, _read(home / _entry_name(table, preprocessing, looks), table, looks)
        range_of_all = _intensity(preprocessing, looks)
        return looks, replace(table, digests=looks.digests, errors=looks.errors, intensity=range_of_all, known=looks)

    looks, found = known()
    if found:
        return found
    work = home / f"{UNFINISHED}{place}"
    with _lock_of(home, place):
        looks, found = known()
        if found:
            return found
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            allocate = partial(_map_file, work / "pixels.npy") if with_pixels else None
            before = looks.digests
            made = _decode_all(table, preprocessing, allocate, looks)
            if not np.array_equal(before, looks.digests):
                keep_looks(table, looks)
            if not with_pixels:
                return made
            if isinstance(made.pixels, np.memmap):
                made.pixels.flush()
            facts = {"errors": made.errors, "intensity": made.intensity}
            (work / "decoded.json").write_text(json.dumps(facts), "utf-8")
            entry = home / _entry_name(table, preprocessing, looks)
            shutil.rmtree(entry, ignore_errors=True)  # of the same content, where only stamps have changed
            put_in_place(work, entry)
            for old in home.glob(f"{place}-*"):
                if old != entry:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _read(entry, table, looks) or made  # another run, started after the folder changed, may have removed it


def _lock_of(home: Path, place: str) -> FileLock:
    """Of a folder's entries, held by the process that makes one; the system lets go of it where that is killed."""
    locks = home.with_name("locks")
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{place}.lock")


def _remove_abandoned(home: Path) -> None:
    """What processes that were killed have left: that which nobody makes any more."""
    for work in home.glob(f"{UNFINISHED}*"):
        with suppress(Timeout, OSError), _lock_of(home, work.name.removeprefix(UNFINISHED)).acquire(blocking=False):
            shutil.rmtree(work, ignore_errors=True)


def _in_memory(shape: tuple[int, ...]) -> np.ndarray:
    needed, free = math.prod(shape), memory_left()
    try:
        if needed <= free:  # more would be given, and taken back when it is used
            return np.empty(shape, np.uint8)
    except MemoryError:  # of a limit of this process
        free = 0
    raise UserError(
        f"data.cache=memory: the decoded images take {needed / 1e9:.1f} GB, and there is not so much memory"
        f"{f', but {free / 1e9:.1f} GB' if free else ''}. Take data.cache=disk, off, or a smaller data.image_size."
    )


def _map_file(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    # A memory-mapped file that runs out of disk kills the process with SIGBUS; reserving first raises ENOSPC instead.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return pixels


def _intensity(preprocessing: Preprocessing, looks: Looks) -> Intensity:
    deep = looks.extremes()
    return intensity_range([*deep.values()]) if deep and preprocessing.intensity == "file" else preprocessing.intensity


def _decode_all(
    table: ImageTable,
    preprocessing: Preprocessing,
    allocate: Callable[[tuple[int, ...]], np.ndarray] | None,
    looks: Looks | None = None,
) -> ImageTable:
    """Reads each file once, and again only those of more than 8 bits, whose range is known when all have been read.

    Args:
        allocate: makes the place for the pixels; None decodes no more than is needed to find what is damaged.
        looks: gets what is seen of the files that are `fresh` there; None makes no thumbnails.
    """
    number, size = len(table.paths), preprocessing.stored_size
    pixels = allocate((number, size, size, 3)) if allocate else None
    result = replace(
        table,
        digests=np.zeros((number, 16), np.uint8),
        pixels=pixels,
        errors={},
        intensity=preprocessing.intensity,
        known=looks,
    )
    deep: dict[int, Extremes] = {}  # files of more than 8 bits, which wait until the range of all of them is known
    unknown = set() if looks is None else set(np.flatnonzero(looks.fresh).tolist())

    def decode(row: int, data: bytes) -> None:
        try:
            square = preprocessing.decode(data)
        except DecodeError as error:
            result.errors[row] = str(error)
        else:
            if pixels is not None:
                pixels[row] = square

    def look(row: int) -> None:
        data = _read_file(table, row)
        if looks is not None:
            look_once(looks, row, data)
            return
        result.digests[row] = np.frombuffer(digest(data), np.uint8)
        try:
            found = deep_extremes(data) if preprocessing.intensity == "file" else None
        except DecodeError as error:
            result.errors[row] = str(error)
            return
        if found:
            deep[row] = found
        else:
            decode(row, data)

    def look_once(looks: Looks, row: int, data: bytes) -> None:
        if row in unknown or digest(data) != looks.facts["digest"][row].tobytes():
            try:
                square = looks.look(row, data, preprocessing if pixels is not None else None)
            except DecodeError as error:
                result.errors[row] = str(error)
                return
            if pixels is not None and square is not None:
                pixels[row] = square
        elif pixels is not None and row not in looks.errors and not looks.facts["deep"][row]:
            decode(row, data)

    threads = cores()
    with (
        Step("Decoding images", number) as progress,
        ThreadPoolExecutor(threads) as pool,  # Pillow lets go of the interpreter lock while it decodes
    ):

        def each(work: Callable[[int], None], rows: Sequence[int]) -> None:
            size = max(1, min(CHUNK, len(rows) // (4 * threads)))  # so that a few large photographs keep all busy

            def chunk(start: int) -> int:
                for row in rows[start : start + size]:
                    work(row)
                return len(rows[start : start + size])

            for done in pool.map(chunk, range(0, len(rows), size)):
                progress.advance(done)

        each(look, range(number) if looks is None or pixels is not None else sorted(unknown))
        if looks is not None:
            result.digests, result.errors = looks.digests, {**result.errors, **looks.errors}
            deep = looks.extremes()
        if deep:
            if preprocessing.intensity == "file":
                result.intensity = intensity_range(list(deep.values()))
            preprocessing = replace(preprocessing, intensity=result.intensity)
            if pixels is not None:
                progress.advance(0, more=len(deep))
                each(lambda row: decode(row, _read_file(table, row)), sorted(deep))
    return result


def _read_file(table: ImageTable, row: int) -> bytes:
    path = table.photograph(row)
    try:
        return table.read(row)
    except OSError as error:  # not remembered as damage: once it is mended, the same file can be read
        raise UserError(f"{path} cannot be read ({error.strerror}). Mend that or remove the file.") from error
