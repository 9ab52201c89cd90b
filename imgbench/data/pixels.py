"""Decodes every image once, in parallel, into fixed-size uint8 squares that later epochs and runs read back.

An entry of the cache is a directory whose name is a hash of the file list (path and stamp) and of the decode settings,
so that a changed, added or removed file makes another entry. Where stamps do not prove what a file holds, the files are
read and compared with the hashes in the entry. It is written beside its final place and
renamed, so that a crash leaves no half entry. Of runs that start at once one decodes, and the others
wait for it.
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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from imgbench.data.progress import progress_bar
from imgbench.data.scan import Scan
from imgbench.data.walk import STAMPS_PROVE_CONTENT
from imgbench.decode import HEIC_NEEDS, DecodeError, Extremes, Intensity, can_read_heic, deep_extremes, intensity_range
from imgbench.errors import UserError
from imgbench.files import cores, memory_left
from imgbench.preprocessing import Preprocessing

log = logging.getLogger(__name__)

FORMAT = 2  # raise it when decoding changes, so that old entries are not read
CHUNK = 64
UNFINISHED = ".making-"
MODES = ("auto", "memory", "disk", "off")


def cache_dir() -> Path:
    """The user's cache directory of imgbench; the environment variable IMGBENCH_CACHE moves it."""
    return Path(os.environ.get("IMGBENCH_CACHE") or platformdirs.user_cache_dir("imgbench"))


@dataclass
class DecodedImages:
    """What reading every file once has shown; row i belongs to `scan.paths[i]`."""

    digests: np.ndarray  # (N, 16) uint8, BLAKE2b of the file's bytes
    errors: dict[int, str]  # row -> why it could not be decoded
    pixels: np.ndarray | None  # (N, S, S, 3) uint8, in memory or mapped from disk; None: decode again when needed
    intensity: Intensity  # by which files of more than 8 bits were scaled, one for all


def digest(data: bytes) -> bytes:
    """The 16-byte content hash that `split.csv` shows in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).digest()


def decode_images(scan: Scan, preprocessing: Preprocessing, mode: str = "auto") -> DecodedImages:
    """Hashes and decodes all images, or reads back what an earlier run has left.

    `mode`: `memory` and `disk` say where the pixels are kept, `off` keeps none, and `auto` means disk, or off if that
    would take more than half of the free space; `stream` keeps none, and leaves nothing in the cache either. Where the
    disk cannot be written or is full, memory serves instead. The intensity range is that of `preprocessing`; where it
    states none, it is found from the files.

    Raises:
        UserError: there is no such mode, a file cannot be read, or none can be decoded.
    """
    result = _read_or_decode(scan, preprocessing, mode)
    if len(result.errors) == len(scan.paths):
        reasons = "; ".join(f"{number} x {reason}" for reason, number in Counter(result.errors.values()).most_common(3))
        raise UserError(f"None of the {len(scan.paths)} images of {scan.root} can be decoded: {reasons}.")
    if number := list(result.errors.values()).count(HEIC_NEEDS):
        log.warning("%d files are left out: %s", number, HEIC_NEEDS)
    if not isinstance(result.intensity, str):
        log.info("Images of 16 bits or floats: %g is black and %g is white in all of them.", *result.intensity)
    return result


def _read_or_decode(scan: Scan, preprocessing: Preprocessing, mode: str) -> DecodedImages:
    if mode not in (*MODES, "stream"):
        raise UserError(f"data.cache={mode!r}, but it is one of {', '.join(MODES)}.")
    if mode == "memory":
        return _decode_all(scan, preprocessing, _in_memory)
    size = preprocessing.stored_size
    needed = len(scan.paths) * size * size * 3
    if scan.shards and mode == "auto" and needed > memory_left() / 2:
        mode = "off"  # once they no longer fit into memory, decoded pixels are read more slowly than shards
    if scan.shards and mode in (
        "off",
        "stream",
    ):  # every image was decoded when it came into the index, which knows the rest
        known = preprocessing.intensity if preprocessing.intensity != "file" else scan.shards.intensity
        return DecodedImages(scan.shards.digests, {}, None, known)
    if mode == "stream":
        return _decode_all(scan, preprocessing, None)
    with_pixels = mode != "off"
    home = cache_dir() / "images"
    entry = home / entry_name(scan, preprocessing, with_pixels)
    _remove_abandoned(home)
    if found := _read(scan, entry, with_pixels):
        return found
    try:
        home.mkdir(parents=True, exist_ok=True)
        if mode == "auto" and needed > shutil.disk_usage(home).free / 2:
            log.warning("The decoded images (%.1f GB) would fill the disk: streaming them instead.", needed / 1e9)
            return _read_or_decode(scan, preprocessing, "off")
        return _make(scan, preprocessing, entry, with_pixels)
    except OSError as error:
        fits = with_pixels and needed < memory_left() / 2
        log.warning(
            "The image cache in %s cannot be written (%s): %s. IMGBENCH_CACHE=DIR moves it.",
            home,
            error.strerror,
            "keeping the images in memory" if fits else "decoding them in every epoch",
        )
        return _decode_all(scan, preprocessing, _in_memory if fits else None)


def entry_name(scan: Scan, preprocessing: Preprocessing, with_pixels: bool) -> str:
    """`<hash of the place>-<hash of the files and settings>`; the first half finds what a new entry supersedes."""
    square = (preprocessing.image_size if preprocessing.short_side is None else "crop", preprocessing.stored_size)
    place = hashlib.blake2b(f"{scan.root.resolve()} {square if with_pixels else 'index'}".encode(), digest_size=8)
    files = hashlib.blake2b(f"{FORMAT} {preprocessing.intensity}".encode(), digest_size=16)
    files.update(scan.stamps.tobytes())
    for start in range(0, len(scan.paths), 4096):
        files.update("\n".join(scan.paths[start : start + 4096]).encode("utf-8", "surrogateescape"))
    return f"{place.hexdigest()}-{files.hexdigest()}"


def _read(scan: Scan, entry: Path, with_pixels: bool) -> DecodedImages | None:
    if not entry.is_dir():
        return None
    try:
        facts = json.loads((entry / "decoded.json").read_text("utf-8"))
        result = DecodedImages(
            np.load(entry / "digests.npy"),
            {int(row): reason for row, reason in facts["errors"].items()},
            np.load(entry / "pixels.npy", mmap_mode="r") if with_pixels else None,
            facts["intensity"] if isinstance(facts["intensity"], str) else tuple(facts["intensity"]),
        )
        if HEIC_NEEDS in result.errors.values() and can_read_heic():  # made before pillow-heif was installed
            shutil.rmtree(entry, ignore_errors=True)
            return None
        return result if STAMPS_PROVE_CONTENT or _same_content(scan, result.digests) else None
    except (ValueError, TypeError, KeyError, OSError, EOFError) as error:
        log.warning("The cache entry %s is damaged (%s) and is made anew.", entry, error)
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _same_content(scan: Scan, digests: np.ndarray) -> bool:
    """Whether every file has the hash that it had when it was decoded."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda row: digest(_read_file(scan, row)) == digests[row].tobytes(), range(len(scan.paths)))
        return all(found)


def _make(scan: Scan, preprocessing: Preprocessing, entry: Path, with_pixels: bool) -> DecodedImages:
    """Decodes everything and leaves it at `entry`, unless another process does at this moment."""
    work = entry.with_name(f"{UNFINISHED}{entry.name}")
    with _lock_of(entry):
        if found := _read(scan, entry, with_pixels):
            return found
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            made = _decode_all(scan, preprocessing, partial(_map_file, work / "pixels.npy") if with_pixels else None)
            if isinstance(made.pixels, np.memmap):
                made.pixels.flush()
            np.save(work / "digests.npy", made.digests)
            facts = {"errors": made.errors, "intensity": made.intensity}
            (work / "decoded.json").write_text(json.dumps(facts), "utf-8")
            shutil.rmtree(entry, ignore_errors=True)  # of the same stamps, but another content
            work.rename(entry)
            for old in entry.parent.glob(entry.name.split("-")[0] + "-*"):
                if old != entry:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _read(scan, entry, with_pixels) or made  # another run, started after the folder changed, may have removed it


def _lock_of(entry: Path) -> FileLock:
    """Of a folder's entries, held by the process that makes one; the system lets go of it where that is killed."""
    locks = entry.parent.with_name("locks")
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{entry.name.split('-')[0]}.lock")


def _remove_abandoned(home: Path) -> None:
    """What processes that were killed have left: that which nobody makes any more."""
    for work in home.glob(f"{UNFINISHED}*"):
        with suppress(Timeout, OSError), _lock_of(home / work.name.removeprefix(UNFINISHED)).acquire(blocking=False):
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


def _decode_all(
    scan: Scan, preprocessing: Preprocessing, allocate: Callable[[tuple[int, ...]], np.ndarray] | None
) -> DecodedImages:
    number, size = len(scan.paths), preprocessing.stored_size
    pixels = allocate((number, size, size, 3)) if allocate else None
    result = DecodedImages(np.zeros((number, 16), np.uint8), {}, pixels, preprocessing.intensity)
    deep: dict[int, Extremes] = {}  # files of more than 8 bits, which wait until the range of all of them is known

    def decode(row: int, data: bytes) -> None:
        try:
            square = preprocessing.decode(data)
        except DecodeError as error:
            result.errors[row] = str(error)
        else:
            if pixels is not None:
                pixels[row] = square

    def look(row: int) -> None:
        data = _read_file(scan, row)
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

    threads = cores()
    with (
        progress_bar("Decoding") as progress,
        ThreadPoolExecutor(threads) as pool,  # Pillow lets go of the interpreter lock while it decodes
    ):
        task = progress.add_task("", total=number)

        def each(work: Callable[[int], None], rows: Sequence[int]) -> None:
            size = max(1, min(CHUNK, len(rows) // (4 * threads)))  # so that a few large photographs keep all busy

            def chunk(start: int) -> int:
                for row in rows[start : start + size]:
                    work(row)
                return len(rows[start : start + size])

            for done in pool.map(chunk, range(0, len(rows), size)):
                progress.advance(task, done)

        each(look, range(number))
        if deep:
            result.intensity = intensity_range(list(deep.values()))
            preprocessing = replace(preprocessing, intensity=result.intensity)
            if pixels is not None:
                progress.update(task, total=number + len(deep))
                each(lambda row: decode(row, _read_file(scan, row)), sorted(deep))
    return result


def _read_file(scan: Scan, row: int) -> bytes:
    path = scan.root / scan.paths[row]
    try:
        return scan.read(row)
    except OSError as error:  # not remembered as damage: once it is mended, the same file can be read
        raise UserError(f"{path} cannot be read ({error.strerror}). Mend that or remove the file.") from error
