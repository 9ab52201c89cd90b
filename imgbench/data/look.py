"""One reading of each file: its hash, what its header says, a thumbnail, and whether it is damaged.

None of it depends on the size of image that a network sees. It is kept in the user's cache, a file for each root, and
goes on to hold for as long as a file has the same path and stamp: another image size, an audit, an evaluation or a
further run reads no file again for it.
"""

import atexit
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import numpy as np
import platformdirs
from PIL import ExifTags, Image

from imgbench.colour import profile_name, profile_of
from imgbench.data.shards import Photograph
from imgbench.data.walk import STAMPS_PROVE_CONTENT
from imgbench.decode import DECODING, FORMATS, HEAD, Picture, decoded, image_format, reduction, to_rgb
from imgbench.distributed import Cluster, in_units
from imgbench.errors import DecodeError, NeedsExtra, UserError, is_installed
from imgbench.files import replacing
from imgbench.intensity import Extremes, extremes
from imgbench.preprocessing import Preprocessing
from imgbench.progress import Step

log = logging.getLogger(__name__)

FORMAT = f"3, decoded by {DECODING}"  # another number when what is seen of a file changes: old looks are not read
SIDE = 64  # pixels of a thumbnail
COLOUR_SIDE = 16  # of its two colour channels, which are kept below its rows: the eye needs no more, and the disk less
ROWS = SIDE + 2 * COLOUR_SIDE**2 // SIDE
UPRIGHT = 1
FACTS = np.dtype(
    [
        ("stamp", np.int64, 4),  # as of `imgbench.data.walk.stamp_of`
        ("digest", np.uint8, 16),  # BLAKE2b of the file's bytes
        ("format", "S12"),  # a key of decode.FORMATS; empty where the header cannot be read
        ("mode", "S8"),  # as Pillow calls it
        ("width", np.int32),
        ("height", np.int32),
        ("turned", np.bool_),  # EXIF asks for another orientation than the pixels have
        ("several", np.bool_),  # it holds more pages or frames than the first, which is all that is read
        ("profile", "S32"),  # what its colour profile calls itself, in UTF-8
        ("subject", np.uint64, 3),  # of a DICOM file: see scientific.Dicom
        ("needs", "S8"),  # the extra of imgbench without which it could not be decoded; see errors.EXTRAS
        ("deep", np.bool_),  # more than 8 bits: the thumbnail depends on all files' range, and is not made here
        ("low", np.float64),  # of a deep image, as of intensity.Extremes
        ("high", np.float64),
        ("floats", np.bool_),
        ("colour", np.bool_),
        ("lowest", np.float64),
        ("highest", np.float64),
        ("shown", np.uint8, 16),  # BLAKE2b of the thumbnail in colour, whatever the format or metadata of the file
    ]
)


class Files(Protocol):
    """What is looked at: a scan or a table."""

    @property
    def root(self) -> Path: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def stamps(self) -> np.ndarray: ...


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    format: str  # a key of FORMATS
    mode: str  # as Pillow calls it
    width: int
    height: int
    turned: bool = False  # EXIF asks for another orientation than the pixels have
    several: bool = False  # there are further pages or frames
    profile: str = ""  # what the colour profile calls itself
    subject: tuple[int, int, int] = (0, 0, 0)  # hashes of patient, study and series, 0 where nothing is said


@dataclass
class Looks:
    """Row i of each array belongs to `paths[i]`."""

    facts: np.ndarray  # (N,) FACTS
    thumbnails: np.ndarray  # (N, ROWS, SIDE) uint8: `grey`, and below it the colour; 0 where damaged or deep
    errors: dict[int, str]  # row -> why the file cannot be decoded
    fresh: np.ndarray  # (N,) bool, what is still to be looked at

    @classmethod
    def none_yet(cls, files: Files) -> "Looks":
        """Of files that are not known yet."""
        number = len(files.paths)
        facts = np.zeros(number, FACTS)
        if number:
            facts["stamp"] = files.stamps
        return cls(facts, np.zeros((number, ROWS, SIDE), np.uint8), {}, np.ones(number, bool))

    @property
    def grey(self) -> np.ndarray:
        """(N, SIDE, SIDE) uint8: the brightness of thumbnails, as Pillow's `L`; black where damaged or deep."""
        return self.thumbnails[:, :SIDE]

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), SIDE, SIDE, 3) uint8: thumbnails in colour, which is coarser than their brightness."""
        chosen = self.thumbnails[rows].astype(np.float32)
        grey, colour = chosen[:, :SIDE], chosen[:, SIDE:].reshape(-1, 2, COLOUR_SIDE, COLOUR_SIDE) - 128
        blue, red = np.moveaxis(colour.repeat(SIDE // COLOUR_SIDE, 2).repeat(SIDE // COLOUR_SIDE, 3), 1, 0)
        # The conversion that JPEG has: https://www.w3.org/Graphics/JPEG/jfif3.pdf
        mixed = [grey + 1.402 * red, grey - 0.344136 * blue - 0.714136 * red, grey + 1.772 * blue]
        return np.stack(mixed, -1).round().clip(0, 255).astype(np.uint8)

    @property
    def digests(self) -> np.ndarray:
        """(N, 16) uint8."""
        return np.ascontiguousarray(self.facts["digest"])

    def header(self, row: int) -> Header | None:
        """None where the image cannot be decoded."""
        facts = self.facts[row]
        if row in self.errors or not facts["format"]:
            return None
        name, mode, profile = (facts[key].decode(errors="ignore") for key in ("format", "mode", "profile"))
        sides, kinds = (int(facts["width"]), int(facts["height"])), (bool(facts["turned"]), bool(facts["several"]))
        return Header(name, mode, *sides, *kinds, profile, tuple(facts["subject"].tolist()))

    def extremes(self) -> dict[int, Extremes]:
        """Of the images of more than 8 bits."""
        deep = (row for row in np.flatnonzero(self.facts["deep"]).tolist() if row not in self.errors)
        return {row: Extremes(*(self.facts[row][name].item() for name in Extremes._fields)) for row in deep}

    def look(self, row: int, data: bytes, square: Preprocessing | None = None) -> np.ndarray | None:
        """Looks at the bytes of a file.

        Args:
            square: what else is to be made of the decoded image.

        Returns:
            The pixels of `square`; None where none are wanted, or the image is damaged or has more than 8 bits.

        Raises:
            DecodeError: only the pixels of `square` cannot be had, for example because memory is short.
        """
        stamp = self.facts[row]["stamp"].copy()
        self.facts[row] = np.zeros((), FACTS)
        facts = self.facts[row]  # a view
        facts["stamp"], self.thumbnails[row] = stamp, 0
        facts["digest"] = np.frombuffer(digest(data), np.uint8)
        self.errors.pop(row, None)
        self.fresh[row] = False
        if header := header_of(io.BytesIO(data)):
            facts["format"], facts["mode"] = header.format.encode(), header.mode.encode()
            facts["profile"], facts["subject"] = header.profile.encode(), header.subject
            for name in ("width", "height", "turned", "several"):
                facts[name] = getattr(header, name)
        sides = (header.width, header.height) if header and header.format == "JPEG" else (0, 0)
        # A thumbnail of a large JPEG takes a third of the time of a full decode. All else is decoded once.
        together = square is None or (
            square.decoding == DECODING and reduction(sides, SIDE) == reduction(sides, square.reduced_for)
        )

        def see(picture: Picture) -> np.ndarray | None:
            if picture.values is not None:
                facts["deep"] = True
                for name, value in extremes(picture.values)._asdict().items():
                    facts[name] = value
                if facts["colour"]:  # of which Pillow's mode tells nothing
                    facts["mode"] += b";16"
                return None
            rgb = to_rgb(picture)
            self._show(row, Preprocessing(SIDE).square(rgb))
            return square.square(rgb) if square and together else None

        try:
            pixels = decoded(data, see, SIDE)
        except DecodeError as error:
            self.errors[row] = str(error)
            facts["needs"] = error.extra.encode() if isinstance(error, NeedsExtra) else b""
            return None
        return pixels if together or square is None or facts["deep"] else square.decode(data)

    def _show(self, row: int, thumbnail: np.ndarray) -> None:
        self.facts[row]["shown"] = np.frombuffer(digest(thumbnail.tobytes()), np.uint8)
        image, size = Image.fromarray(thumbnail), (COLOUR_SIDE, COLOUR_SIDE)
        colour = [one.resize(size, Image.Resampling.BOX) for one in image.convert("YCbCr").split()[1:]]
        self.thumbnails[row, :SIDE] = np.asarray(image.convert("L"))
        self.thumbnails[row, SIDE:] = np.reshape([np.asarray(one) for one in colour], (-1, SIDE))


def header_of(content: IO[bytes]) -> Header | None:
    """Of an open file, which is closed; None where it is no image that can be read."""
    try:
        with content as file:
            name = image_format(file.read(HEAD))
            file.seek(0)
            if name is None:
                return None
            # Any file that can be read will do, and of an open one only the first part is.
            image = FORMATS[name].open(cast(io.BytesIO, file))
            # Asked for its EXIF entries, a PNG without any would be decoded as a whole.
            exif = image.getexif() if "exif" in image.info or name == "TIFF" else {}
            turned = exif.get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT
            profile = profile_name(profile_of(image) or b"")
            subject, several = image.info.get("subject", (0, 0, 0)), bool(getattr(image, "is_animated", False))
            return Header(name, image.mode, image.width, image.height, turned, several, profile, subject)
    except Exception:  # damaged files raise nearly anything
        return None


def cache_dir() -> Path:
    """The user's cache directory of imgbench; the environment variable IMGBENCH_CACHE moves it.

    For a user without a home, as containers have them, it is one that this process removes at its end.
    """
    try:
        return Path(os.environ.get("IMGBENCH_CACHE") or platformdirs.user_cache_dir("imgbench"))
    except RuntimeError:  # nothing says where the home is
        return _passing_dir()


@functools.cache
def _passing_dir() -> Path:
    log.warning("There is no home directory, so that no cache is kept. IMGBENCH_CACHE=DIR says where to keep it.")
    place = Path(tempfile.mkdtemp(prefix="imgbench-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def digest(data: bytes) -> bytes:
    """The 16-byte content hash that `split.csv` shows in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _place(root: Path) -> Path:
    name = hashlib.blake2b(str(root.resolve()).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return cache_dir() / "looks" / f"{name}.npz"


def _read(place: Path) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, str]] | None:
    """Paths, facts, thumbnails and errors by path, as they were kept."""
    try:
        with place.open("rb") as file, np.load(file) as kept:
            about = json.loads(kept["about"].tobytes().decode("utf-8", "surrogateescape"))
            if about["format"] != FORMAT:
                return None
            facts, thumbnails = kept["facts"], kept["thumbnails"]
        if facts.dtype != FACTS or thumbnails.shape != (len(facts), ROWS, SIDE) or len(about["paths"]) != len(facts):
            raise ValueError("its columns are not of one length")
        return about["paths"], facts, thumbnails, about["errors"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("The cache entry %s is damaged (%s) and is made anew.", place, error)
        return None


def kept_looks(files: Files, read: Callable[[int], bytes]) -> Looks:
    """What is known of files from earlier; `fresh` are those that are new, changed, or were not readable then.

    Where stamps do not prove what a file holds, each is read by `read` and its hash compared.
    """
    if (kept := _read(_place(files.root))) is None:
        return Looks.none_yet(files)
    paths, facts, thumbnails, errors = kept
    row_of = {path: row for row, path in enumerate(paths)}
    then = np.array([row_of.get(path, -1) for path in files.paths], np.int64)
    rows = np.flatnonzero(then >= 0)
    rows = rows[(facts["stamp"][then[rows]] == files.stamps[rows]).all(1)]
    # What was kept before the package was installed that reads it is looked at again.
    missing = {need: not is_installed(need.decode()) for need in np.unique(facts["needs"][then[rows]]) if need}
    rows = np.array([row for row in rows if missing.get(facts["needs"][then[row]], True)], np.int64)
    if not STAMPS_PROVE_CONTENT:
        rows = np.array([row for row in rows if digest(read(row)) == facts["digest"][then[row]].tobytes()], np.int64)
    if np.array_equal(rows, np.arange(len(paths))) and np.array_equal(then, rows):
        result = Looks(facts, thumbnails, {}, np.ones(len(paths), bool))  # copies would take 4.6 kB an image
    else:
        result = Looks.none_yet(files)
        result.facts[rows], result.thumbnails[rows] = facts[then[rows]], thumbnails[then[rows]]
    result.errors = {int(row): errors[path] for row in rows if (path := files.paths[row]) in errors}
    result.fresh[rows] = False
    return result


def keep_looks(files: Files, looks: Looks) -> None:
    """Puts looks into the cache, beside those at other files of the same root that are still there.

    Raises:
        OSError: it cannot be written.
    """
    place = _place(files.root)
    paths, facts, thumbnails = files.paths, looks.facts, looks.thumbnails
    errors = {paths[row]: reason for row, reason in looks.errors.items()}
    if kept := _read(place):
        own = set(paths)
        others = [row for row, path in enumerate(kept[0]) if path not in own and (files.root / path).is_file()]
        if others:
            paths = paths + [kept[0][row] for row in others]
            facts = np.concatenate([facts, kept[1][others]])
            thumbnails = np.concatenate([thumbnails, kept[2][others]])
        errors |= {path: reason for row in others if (reason := kept[3].get(path := kept[0][row]))}
    _write(place, paths, facts, thumbnails, errors)


def _write(place: Path, paths: list[str], facts: np.ndarray, thumbnails: np.ndarray, errors: dict[str, str]) -> None:
    about = json.dumps({"format": FORMAT, "paths": paths, "errors": errors})
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place, "wb") as file:
        np.savez(file, about=np.frombuffer(about.encode(), np.uint8), facts=facts, thumbnails=thumbnails)


def look_on(cluster: Cluster, files: Files, photograph: Callable[[int], Photograph]) -> None:
    """Looks at the files that are not known yet, each `photograph` of a row, and puts what is seen into the cache.

    The processes of a cluster do so. What one has seen lies beside the entry of the cache until all is, under a hash of
    the names and stamps: a command that was killed goes on.

    Raises:
        UserError: a file cannot be read.
        OSError: the cache cannot be written.
    """
    looks = kept_looks(files, lambda row: photograph(row).read_bytes())
    parts = _place(files.root).with_suffix(".parts")

    def place_of(rows: list[int]) -> Path:
        names = "\0".join(files.paths[row] for row in rows).encode("utf-8", "surrogateescape")
        return parts / f"{digest(names + files.stamps[rows].tobytes()).hex()}.npz"

    units = [*in_units(np.flatnonzero(looks.fresh).tolist())]
    missing = [rows for rows in units if _read(place_of(rows)) is None]
    with Step("Looking at all images", len(looks.fresh), len(looks.fresh) - sum(map(len, missing))) as progress:
        seen = cluster.map(_look_at, (([photograph(row) for row in rows], files.stamps[rows]) for rows in missing))
        for rows, (facts, thumbnails, errors) in zip(missing, seen, strict=True):
            paths = [files.paths[row] for row in rows]
            _write(
                place_of(rows), paths, facts, thumbnails, {paths[number]: reason for number, reason in errors.items()}
            )
            progress.advance(len(rows))
    for rows in units:
        kept = _read(place_of(rows))
        assert kept is not None
        looks.facts[rows], looks.thumbnails[rows] = kept[1:3]
        looks.errors |= {row: reason for row in rows if (reason := kept[3].get(files.paths[row]))}
    if units:
        keep_looks(files, looks)
    shutil.rmtree(parts, ignore_errors=True)


def _look_at(unit: tuple[list[Photograph], np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Facts, thumbnails and errors of photographs with these stamps."""
    photographs, stamps = unit
    number = len(photographs)
    looks = Looks(np.zeros(number, FACTS), np.zeros((number, ROWS, SIDE), np.uint8), {}, np.ones(number, bool))
    looks.facts["stamp"] = stamps
    for row, photograph in enumerate(photographs):
        try:
            looks.look(row, photograph.read_bytes())
        except OSError as error:
            raise UserError(f"{photograph} cannot be read ({error.strerror}). Mend that or remove the file.") from error
    return looks.facts, looks.thumbnails, looks.errors
