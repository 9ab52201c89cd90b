"""From a file's bytes to an upright RGB image: formats, limits, orientation, depth, transparency, colour profile."""

import io
import re
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
    WebPImagePlugin,
)

from imgbench.colour import profile_of, to_srgb
from imgbench.errors import DecodeError, NeedsExtra, is_installed
from imgbench.files import memory_limit
from imgbench.intensity import Extremes, Intensity, extremes, to_8_bits
from imgbench.scientific import PHOTOMETRIC, SAMPLE_FORMAT, OtherTiff, open_dicom, open_tiff

T = TypeVar("T")

# Raise it when the same file comes out otherwise. Caches are keyed by it, and a checkpoint says by which one its images
# were decoded, and goes on getting such images: 1 ignored colour profiles, and of 16-bit colours kept the high bytes;
# 2 ignored what PNGs say of their colours by chunks, and cameras by EXIF alone; 3 decoded large JPEGs at reduced size,
# as `reduction` says, which another program that uses the model does not.
DECODING = 4

# A header that promises more is taken for an attack or damage. The largest photographs of phones have 200 million.
MAX_PIXELS = 300_000_000

LARGE = 50_000_000  # pixels in memory above which images are decoded one at a time

DEEPER = 5  # times as many where colours have more than 8 bits and are scaled

BYTES_PER_PIXEL = 8  # Pillow keeps four for each RGB pixel; turning a picture upright makes a copy

# For thumbnails, JPEG photographs are decoded at 1/2, 1/4 or 1/8 of their size if their short side keeps this many
# times the pixels needed. At 3, resized photographs of 12 megapixels differ from fully decoded ones by at most one grey
# level in all but one value of 100,000; at 2, by up to three levels. What a network sees is decoded in full: one level
# in every eighth value was seen to move a probability by 0.06.
REDUCED = 3

# Smaller pictures are decoded fast enough as they are, and they are sharper than what comes from a camera, so that they
# would differ more.
SMALLEST_REDUCED = 1500  # pixels of the short side

LARGE_TEXT = 1_000_000  # bytes of a PNG's text or profile, unpacked; Pillow gives up at 2**20

# How a PNG's chunks begin that hold something packed.
PACKED = {
    b"iCCP": re.compile(rb"[^\0]*\0\0"),
    b"zTXt": re.compile(rb"[^\0]*\0\0"),
    b"iTXt": re.compile(rb"[^\0]*\0\x01\0[^\0]*\0[^\0]*\0"),
}

FULL = np.float32(65535)  # opacity of 16 bits

# Pillow's names for the two bytes of 16-bit colours, of which it keeps the first or the second.
COLOURS_16 = re.compile("(RGB|RGBX|RGBA);16([BLN])$")


def _open_png(file: io.BytesIO) -> Image.Image:
    """Without the texts that are larger than Pillow takes, with the colour profile if that is, and with cICP."""
    data, further = _without_large_texts(file.read())
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    image.info.update(further)
    return image


def _without_large_texts(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """And what Pillow does not find."""
    kept, start, place, further = [], 0, 8, {}
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind == b"cICP" and length == 4:
            further["cicp"] = tuple(data[place + 8 : place + 12])
        if kind in PACKED and 1100 * length > LARGE_TEXT:  # nothing is packed more tightly
            text = data[place + 8 : end - 4]
            begin = PACKED[kind].match(text)
            unpacking = zlib.decompressobj()
            try:
                unpacked = unpacking.decompress(text[begin.end() :], LARGE_TEXT) if begin else b""
                if unpacking.unconsumed_tail:
                    kept.append(data[start:place])
                    start = end
                    if kind == b"iCCP":
                        further["icc_profile"] = unpacked + unpacking.decompress(
                            unpacking.unconsumed_tail, 50 * LARGE_TEXT
                        )
            except zlib.error:
                pass  # said, or passed over, by Pillow
        place = end
    return b"".join([*kept, data[start:]]) if kept else data, further


def _open_heic(file: io.BytesIO) -> Image.Image:
    if not is_installed("heic"):
        raise NeedsExtra("HEIC", "heic")
    from pillow_heif import HeifImageFile  # used as it is: registering it would change what Pillow opens elsewhere

    return HeifImageFile(file)


class Format(NamedTuple):
    """What tells a kind of file, and opens it; a pattern is matched with the first bytes."""

    endings: tuple[str, ...]
    signature: bytes
    open: Callable[[io.BytesIO], Image.Image]


# Pillow's `Image.open` would recognise more: of these, EPS starts Ghostscript, whatever the file is called.
FORMATS = {
    "JPEG": Format((".jpg", ".jpeg", ".jfif"), rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    "PNG": Format((".png",), rb"\x89PNG\r\n\x1a\n", _open_png),
    "GIF": Format((".gif",), rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    "BMP": Format((".bmp",), rb"BM", BmpImagePlugin.BmpImageFile),
    "TIFF": Format((".tif", ".tiff"), rb"(II[*+]\0|MM\0[*+])(?!....CR)", open_tiff),
    "WebP": Format((".webp",), rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    "AVIF": Format((".avif",), rb"....ftypavi[fs]", AvifImagePlugin.AvifImageFile),
    "JPEG 2000": Format(
        (".jp2", ".j2k", ".jpx"), rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile
    ),
    "PPM": Format((".pgm", ".ppm", ".pbm", ".pnm"), rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
    "HEIC": Format((".heic", ".heif"), rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", _open_heic),
    "DICOM": Format((".dcm", ".dicom"), rb".{128}DICM", open_dicom),
}


class Unread(NamedTuple):
    """A kind of file that shows something, and is not read."""

    endings: tuple[str, ...]
    signature: bytes | None
    remedy: str


UNREAD = {
    "raw photograph": Unread(
        (
            ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw", ".nef", ".nrw",
            ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
        ),
        rb"II\x2a\0....CR|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\0",
        "Develop them into JPEG or TIFF, with the camera's program or, for example, darktable-cli PHOTO.NEF PHOTO.jpg",
    ),
    "JPEG XL image": Unread(
        (".jxl",), rb"\xff\x0a|\0\0\0\x0cJXL ", "Convert them: djxl PHOTO.jxl PHOTO.png, or PHOTO.jpg where it was one"
    ),
    "video": Unread(
        (
            ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv",
        ),
        rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01\xba",
        "Take frames out of them, and keep those of one film in one group: ffmpeg -i FILM.mp4 -vf fps=1 FILM_%04d.jpg",
    ),
    "NumPy array": Unread(
        (".npy", ".npz"),
        rb"\x93NUMPY",
        'Save each as an image: PIL.Image.fromarray(array).save("1.png"), or tifffile.imwrite("1.tif", array)',
    ),
    "Photoshop image": Unread((".psd", ".psb"), rb"8BPS", "Export them: magick 'PHOTO.psd[0]' PHOTO.png"),
    "volume": Unread(
        (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd"), None, "Save the slices that are to be seen as PNG or DICOM"
    ),
    "document": Unread((".eps", ".pdf", ".ps", ".svg"), rb"%PDF|%!PS", "Draw them: pdftoppm -png FILE.pdf PAGE"),
    "image of another format": Unread(
        (".bpg", ".dds", ".exr", ".fits", ".hdr", ".ico", ".jls", ".jxr", ".pcx", ".tga", ".wdp", ".xcf"),
        None,
        "Convert them to PNG: magick mogrify -format png FILES",
    ),
    "Git LFS pointer in place of the image": Unread((), rb"version https://", "Fetch the images: git lfs pull"),
    "web page in place of the image": Unread((), rb"(?i)\s*<(!doctype|html)", "Download the images again"),
}  # fmt: skip


def unread_kind(name: str, head: bytes = b"") -> str | None:
    """The key in UNREAD of a file that is no image that can be read, by its ending or its first 16 bytes or more."""
    lower = name.lower()
    for kind, known in UNREAD.items():
        if lower.endswith(known.endings) or (head and known.signature and re.match(known.signature, head, re.DOTALL)):
            return kind
    return None


IMAGE_ENDINGS = {ending for kind in FORMATS.values() for ending in kind.endings}
HEAD = 132  # bytes of a file that tell its kind


def image_format(head: bytes) -> str | None:
    """The key in FORMATS that the first `HEAD` bytes or more of a file tell; None: no image that can be read."""
    for name, kind in FORMATS.items():
        if re.match(kind.signature, head, re.DOTALL):
            # A file may call itself a general container, and say only further on what it holds.
            return "AVIF" if name == "HEIC" and b"avif" in head[12:64] else name
    return None


class Picture(NamedTuple):
    """A decoded file. Of more than 8 bits, `image` tells only what stands in its header."""

    image: Image.Image
    values: np.ndarray | None = None  # (H, W) or (H, W, 3), of more than 8 bits
    opacity: np.ndarray | None = None  # (H, W), 0 to 1, of those


def is_deep(image: Image.Image) -> bool:
    """Whether an image that was opened, and not loaded, has values of more than 8 bits: 16 or 32, or floats."""
    return _has_deep_mode(image) or isinstance(image, OtherTiff) or bool(_bytes_16(image))


def _has_deep_mode(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _bytes_16(image: Image.Image) -> str:
    """Where Pillow would cut 16-bit colours: how it calls what is in the file."""
    tile: list[Any] = getattr(image, "tile", [])
    args = tile[0].args if tile and image.mode in ("RGB", "RGBA") else ""
    name = str(args if isinstance(args, str) else args[0]) if args else ""
    return name if COLOURS_16.match(name) or name == "LA;16B" else ""


def _picture(image: Image.Image, data: bytes) -> Picture:
    """All values of an image of more than 8 bits, which was opened from `data`."""
    if isinstance(image, OtherTiff):
        values, opacity = image.values()
        return Picture(image, values, opacity)
    if name := _bytes_16(image):
        return _colours_16(data, name)
    image.load()
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # as the file has them; Pillow knows only numbers with a sign
    if tags.get(PHOTOMETRIC) == 0:  # the smallest value is white
        values = -values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return Picture(image, values)


def _colours_16(data: bytes, name: str) -> Picture:
    """The 16-bit colours, or greys with opacity, of a PNG or TIFF.

    Pillow keeps one byte of each, that which the name of the layout takes for the higher one. So the image is read
    under both names.
    """
    if name == "LA;16B":  # laid out like 8-bit RGBA, which a PNG's header says in two bytes
        header = data[12:24] + b"\x08\x06" + data[26:29]
        data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        image = _load(data, None)
        parts = np.asarray(image).astype(np.uint16)
        return Picture(image, parts[..., 0] << 8 | parts[..., 1], (parts[..., 2] << 8 | parts[..., 3]) / FULL)
    little = name.endswith("L") or (name.endswith("N") and sys.byteorder == "little")
    layout = name[:-1]
    low, high = (_load(data, layout + order) for order in ("BL" if little else "LB"))
    values = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    # A TIFF is upright once it is loaded, and no longer says that it is not.
    return Picture(high, values[..., :3], values[..., 3] / FULL if values.shape[2] == 4 else None)


def _load(data: bytes, layout: str | None) -> Image.Image:
    image: Any = _opened(data)
    if layout:
        image.tile = [
            part._replace(args=layout if isinstance(part.args, str) else (layout, *part.args[1:]))
            for part in image.tile
        ]
    image.load()
    return image


def to_rgb(picture: Picture | Image.Image, intensity: Intensity = "file", decoding: int = DECODING) -> Image.Image:
    """sRGB of any image: upright by its EXIF tag, transparency over white, more than 8 bits scaled by `intensity`."""
    image, values, opacity = picture if isinstance(picture, Picture) else Picture(picture)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if values is None and _has_deep_mode(image):  # of an image that somebody else opened
        values = np.asarray(image)
    profile = profile_of(image) if decoding > 2 else image.info.get("icc_profile") if decoding > 1 else None
    if values is not None:
        scaled = Image.fromarray(to_8_bits(values, intensity))
        if opacity is not None:
            mask = Image.fromarray((opacity * 255).round().astype(np.uint8))
            scaled = Image.composite(scaled, Image.new(scaled.mode, scaled.size, "white"), mask)
        scaled.getexif()[ExifTags.Base.Orientation] = orientation
        image = scaled
    if orientation != 1:  # else Pillow would make a copy
        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if profile:
        image = to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def deep_extremes(data: bytes) -> Extremes | None:
    """Of a file of more than 8 bits; None for all others.

    Raises:
        DecodeError: not an image, damaged, cut short, or too large.
    """
    if image_format(data) == "JPEG":  # always 8 bits
        return None
    with _errors_named():
        if not is_deep(_opened(data)):
            return None

    def found(picture: Picture) -> Extremes:
        assert picture.values is not None
        return extremes(picture.values)

    return decoded(data, found)


def open_image(source: bytes | Path | str, intensity: Intensity = "file") -> Image.Image:
    """The decoded RGB image of a file or of a file's bytes, in its full size; of an animation the first frame.

    Raises:
        DecodeError: not an image, damaged, cut short (only a full decode tells), or too large.
    """
    return decoded(source, lambda picture: to_rgb(picture, intensity))


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


def decoded(
    source: bytes | Path | str, use: Callable[[Picture], T], size: int | None = None, decoding: int = DECODING
) -> T:
    """`use(picture)` of a file that is decoded for it, a large JPEG at reduced size where `size` is given.

    Args:
        size: how many pixels of each side are wanted, for a picture that need not be exact.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with _errors_named():
        image = _opened(data)
        if size and isinstance(image, JpegImagePlugin.JpegImageFile):
            _reduce(image, size)
        deep = is_deep(image) and not (decoding == 1 and _bytes_16(image))
        pixels, memory = image.width * image.height, _memory()
        if pixels * BYTES_PER_PIXEL * (DEEPER if deep else 1) > memory / 2:
            raise DecodeError(f"{image.width} x {image.height} pixels, too many for {memory / 1e9:.0f} GB of memory")
        if decoding > 2:  # what sRGB cannot show is refused; the EXIF entries of a TIFF are gone once it is loaded
            profile_of(image)
        with _one_large_image if pixels > LARGE else nullcontext():
            if deep:
                return use(_picture(image, data))
            image.load()
            return use(Picture(image))


def _opened(data: bytes) -> Image.Image:
    """The image of a file. Only its header has been read.

    `Image.open` would apply the limit of pixels that belongs to the whole process, and warn from half of it on.
    """
    name = image_format(data)
    if name is None:
        kind = unread_kind("", data[:16])
        unknown = "not an image" if data else "an empty file, of zero bytes"
        raise DecodeError(f"a {kind}, which is not read. {UNREAD[kind].remedy}." if kind else unknown)
    image = FORMATS[name].open(io.BytesIO(data))
    limit = MAX_PIXELS
    if name in ("TIFF", "GIF"):  # which ask the limit of the process again while they are decoded
        limit = min(limit, Image.MAX_IMAGE_PIXELS or limit)
    if image.width * image.height > limit:
        raise DecodeError(f"{image.width} x {image.height} pixels, beyond the limit of {limit / 1e6:.0f} million")
    return image


def reduction(sides: tuple[int, int], size: int | None) -> int:
    """By what a JPEG is reduced while it is decoded for `size` pixels: 8, 4, 2 or, as it is and without a size, 1.

    It divides both sides: a remainder would shift the picture.
    """
    if size is None:
        return 1
    for scale in (8, 4, 2):
        enough = min(sides) >= max(scale * REDUCED * size, SMALLEST_REDUCED)
        if enough and sides[0] % scale == sides[1] % scale == 0:
            return scale
    return 1


def _reduce(image: JpegImagePlugin.JpegImageFile, size: int) -> None:
    if (scale := reduction(image.size, size)) > 1:
        image.draft(None, (image.width // scale, image.height // scale))
