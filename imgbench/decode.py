"""From a file's bytes to an upright RGB image: formats, limits, orientation, depth, transparency."""

import importlib.util
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from imgbench.files import memory_limit

T = TypeVar("T")


# A header that promises more is taken for an attack or damage. The largest photographs of phones have 200 million.
MAX_PIXELS = 300_000_000


LARGE = 50_000_000  # pixels in memory above which images are decoded one at a time


BYTES_PER_PIXEL = 8  # Pillow keeps four for each RGB pixel; turning a picture upright makes a copy


# JPEG photographs are decoded at 1/2, 1/4 or 1/8 of their size if their short side keeps this many times the pixels
# needed. At 3, resized photographs of 12 megapixels differ from fully decoded ones by at most one grey level in all but
# one value of 100,000; at 2, by up to three levels.
REDUCED = 3


# Smaller pictures are decoded fast enough as they are, and they are sharper than what comes from a camera, so that they
# would differ more.
SMALLEST_REDUCED = 1500  # pixels of the short side


HEIC_NEEDS = 'HEIC, which needs: pip install "imgbench[heic]"'


# The values of black and white in files of more than 8 bits: of the whole data set, or, where it had no such files,
# each file's own; "16 bit" is what checkpoints were trained with that do not say: 0 to 65,535 whatever the values.
Intensity = tuple[float, float] | Literal["file", "16 bit"]


class DecodeError(Exception):
    """The file is no image, or a damaged one."""


def _open_heic(file: io.BytesIO) -> Image.Image:
    if not can_read_heic():
        raise DecodeError(HEIC_NEEDS)
    from pillow_heif import HeifImageFile  # used as it is: registering it would change what Pillow opens elsewhere

    return HeifImageFile(file)


def can_read_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


class Format(NamedTuple):
    """What tells a kind of file, and opens it; a pattern is matched with the first bytes."""

    endings: tuple[str, ...]
    signature: bytes
    open: Callable[[io.BytesIO], Image.Image]


# Pillow's `Image.open` would recognise more: of these, EPS starts Ghostscript, whatever the file is called.
FORMATS = {
    "JPEG": Format((".jpg", ".jpeg", ".jfif"), rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    "PNG": Format((".png",), rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "GIF": Format((".gif",), rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    "BMP": Format((".bmp",), rb"BM", BmpImagePlugin.BmpImageFile),
    "TIFF": Format((".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]", TiffImagePlugin.TiffImageFile),
    "WebP": Format((".webp",), rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    "AVIF": Format((".avif",), rb"....ftypavi[fs]", AvifImagePlugin.AvifImageFile),
    "JPEG 2000": Format(
        (".jp2", ".j2k", ".jpx"), rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile
    ),
    "PPM": Format((".pgm", ".ppm", ".pbm", ".pnm"), rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
    "HEIC": Format((".heic", ".heif"), rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", _open_heic),
}


IMAGE_ENDINGS = {ending for kind in FORMATS.values() for ending in kind.endings}


def image_format(head: bytes) -> str | None:
    """The key in FORMATS that the first 12 bytes or more of a file tell; None: no image that can be read."""
    for name, kind in FORMATS.items():
        if re.match(kind.signature, head, re.DOTALL):
            # A file may call itself a general container, and say only further on what it holds.
            return "AVIF" if name == "HEIC" and b"avif" in head[12:64] else name
    return None


def is_deep(image: Image.Image) -> bool:
    """Whether its values have more than 8 bits: 16 or 32, or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def to_rgb(image: Image.Image, intensity: Intensity = "file") -> Image.Image:
    """RGB of any image: upright by its EXIF tag, transparency over white, more than 8 bits scaled by `intensity`."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else Pillow would make a copy
        image = ImageOps.exif_transpose(image)
    if is_deep(image):  # before transparency, since RGBA would cut them off at 255
        return Image.fromarray(to_8_bits(np.asarray(image), intensity)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_8_bits(values: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Numbers of any kind as uint8; what lies outside of black and white is cut off, and NaN is black."""
    if intensity == "16 bit":
        if values.dtype.kind == "f" and values.max() <= 1:
            low, high = 0, 1
        elif values.dtype.itemsize == 2 or (values.min() >= 0 and 255 < values.max() <= 65535):
            low, high = 0, 65535
        else:
            low, high = 0, 255
    else:
        low, high = intensity_range([extremes(values)]) if intensity == "file" else intensity
    scaled = (values.astype(np.float32) - low) / ((high - low) or 1)
    return (np.clip(np.nan_to_num(scaled), 0, 1) * 255).round().astype(np.uint8)


class Extremes(NamedTuple):
    """The smallest and largest value of an image, and whether its values are floats."""

    low: float
    high: float
    floats: bool


def extremes(values: np.ndarray) -> Extremes:
    floats = values.dtype.kind == "f"
    if floats:
        values = values[np.isfinite(values)]
    return Extremes(float(values.min()), float(values.max()), floats) if values.size else Extremes(0, 0, floats)


def intensity_range(images: list[Extremes]) -> tuple[float, float]:
    """The values of black and white that suit images of more than 8 bits.

    Whole numbers from 0 get the fewest bits, at least 8, that hold them all, for example 0 to 4,095; floats from 0 to 1
    these two; all others the smallest and the largest value found.
    """
    low, high = min(image.low for image in images), max(image.high for image in images)
    if any(image.floats for image in images):
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    return (0.0, float(2 ** max(8, int(high).bit_length()) - 1)) if low >= 0 else (low, high)


def deep_extremes(data: bytes) -> Extremes | None:
    """Of a file of more than 8 bits; None for all others.

    Raises:
        DecodeError: not an image, damaged, cut short, or too large.
    """
    if image_format(data) == "JPEG":  # always 8 bits
        return None
    with _errors_named():
        deep = is_deep(_opened(data))
    return decoded(data, lambda image: extremes(np.asarray(image))) if deep else None


def open_image(source: bytes | Path | str, intensity: Intensity = "file") -> Image.Image:
    """The decoded RGB image of a file or of a file's bytes, in its full size; of an animation the first frame.

    Raises:
        DecodeError: not an image, damaged, cut short (only a full decode tells), or too large.
    """
    return decoded(source, lambda image: to_rgb(image, intensity))


_one_large_image = threading.Lock()


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except DecodeError:
        raise
    # Damaged files raise nearly anything: OSError, SyntaxError, ValueError, struct.error ...
    except Exception as error:
        raise DecodeError(str(error) or repr(error)) from error


@cache
def _memory() -> int:
    """Bytes; asking the system takes a fifth of the time in which a small image is decoded."""
    return memory_limit()


def decoded(source: bytes | Path | str, use: Callable[[Image.Image], T], size: int | None = None) -> T:
    """`use(image)` of a file that is decoded for it, at reduced size where `size` pixels of each side are wanted."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with _errors_named():
        image = _opened(data)
        if size and isinstance(image, JpegImagePlugin.JpegImageFile):
            _reduce(image, size)
        pixels, memory = image.width * image.height, _memory()
        if pixels * BYTES_PER_PIXEL > memory / 2:
            raise DecodeError(f"{image.width} x {image.height} pixels, too many for {memory / 1e9:.0f} GB of memory")
        with _one_large_image if pixels > LARGE else nullcontext():
            image.load()
            return use(image)


def _opened(data: bytes) -> Image.Image:
    """The image of a file. Only its header has been read.

    `Image.open` would apply the limit of pixels that belongs to the whole process, and warn from half of it on.
    """
    name = image_format(data)
    if name is None:
        raise DecodeError("not an image")
    image = FORMATS[name].open(io.BytesIO(data))
    limit = MAX_PIXELS
    if name in ("TIFF", "GIF"):  # which ask the limit of the process again while they are decoded
        limit = min(limit, Image.MAX_IMAGE_PIXELS or limit)
    if image.width * image.height > limit:
        raise DecodeError(f"{image.width} x {image.height} pixels, beyond the limit of {limit / 1e6:.0f} million")
    return image


def reduction(sides: tuple[int, int], size: int) -> int:
    """By what a JPEG is reduced while it is decoded for `size` pixels: 8, 4, 2 or, as it is, 1.

    It divides both sides: a remainder would shift the picture.
    """
    for scale in (8, 4, 2):
        enough = min(sides) >= max(scale * REDUCED * size, SMALLEST_REDUCED)
        if enough and sides[0] % scale == sides[1] % scale == 0:
            return scale
    return 1


def _reduce(image: JpegImagePlugin.JpegImageFile, size: int) -> None:
    if (scale := reduction(image.size, size)) > 1:
        image.draft(None, (image.width // scale, image.height // scale))
