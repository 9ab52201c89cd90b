"""Drawn pictures as files of every kind that `predict` reads.

They are drawn, so that no photograph is passed on. They are smooth, since what decoders do differently, they do at
edges; but for large JPEGs, of which resizing leaves no edge, and which some programs decode at a part of their size.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from imgbench.colour import icc_profile
from imgbench.errors import is_installed

ORIENTATION = 0x0112
SIZES = [
    (1, 1), (1, 2), (3, 1), (1, 300), (300, 1), (2, 5), (7, 9), (16, 16), (20, 31), (31, 20), (33, 32), (64, 65),
    (100, 30), (30, 100), (100, 100), (128, 128), (150, 149), (224, 224), (225, 223), (240, 320), (256, 256),
    (299, 300), (320, 240), (400, 300), (333, 500), (500, 333), (512, 512), (640, 480), (60, 900), (900, 60),
    (1000, 750), (40, 1000),
]  # fmt: skip
# Name -> red, green and blue as XYZ of the white D50, and gamma.
SPACES = {
    "Display P3": ([(0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)], 2.2),
    "Adobe RGB": ([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.2),
    "ProPhoto RGB": ([(0.79767, 0.28804, 0), (0.13519, 0.71188, 0), (0.03134, 0.00009, 0.82491)], 1.8),
}


def drawn(seed: int, width: int, height: int, channels: int = 3) -> np.ndarray:
    """(height, width, channels) from 0 to 1: colours that run into each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((5, 5, channels), np.float32)
    layers = [
        Image.fromarray(coarse[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(channels)
    ]
    return np.stack([np.asarray(layer) for layer in layers], -1).clip(0, 1)


def textured(seed: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) from 0 to 1: detail of all sizes, down to single pixels, as photographs have it."""
    rng, values = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for step in (1, 4, 16, 64, 256):
        coarse = rng.integers(0, 256, (height // step + 1, width // step + 1, 3), np.uint8)
        enlarged = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        values += step**0.5 * np.asarray(enlarged, np.float32)
    return ((values - values.mean()) / values.std() * 0.22 + 0.5).clip(0, 1)


def made_files() -> Iterator[tuple[str, str, bytes]]:
    """Name, kind and content of each."""
    for number, (width, height) in enumerate(SIZES):
        image = _image(number, width, height)
        yield f"size_{width}x{height}.png", "size", _saved(image, "PNG")
        if number % 2 and min(width, height) > 2:
            yield f"size_{width}x{height}.jpg", "size", _saved(image, "JPEG", quality=95, subsampling=0)
    for number, (width, height) in enumerate([(4000, 3000), (5000, 500)]):
        yield f"huge_{number}.jpg", "size", _saved(_image(50 + number, width, height), "JPEG", quality=90)
    for number, (width, height) in enumerate([(2048, 1536), (1536, 2304)]):
        image = Image.fromarray((textured(57 + number, width, height) * 255).round().astype(np.uint8))
        yield f"textured_{number}.jpg", "size", _saved(image, "JPEG", quality=85)
    yield "huge.png", "size", _saved(_image(55, 40, 30).resize((2000, 1500), Image.Resampling.NEAREST), "PNG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image = _image(60 + orientation, 90, 60)
        yield f"orientation_{orientation}.jpg", "orientation", _saved(image, "JPEG", exif=exif, quality=95)
        yield f"orientation_{orientation}.webp", "orientation in WebP", _saved(image, "WEBP", exif=exif, quality=95)
        yield f"orientation_{orientation}.tif", "TIFF", _saved(image, "TIFF", exif=exif)
    for number in range(2):
        for name, kind, content in _of_every_format(100 + 20 * number):
            stem, ending = name.rsplit(".", 1)
            yield f"{stem}_{number}.{ending}", kind, content


def _of_every_format(seed: int) -> Iterator[tuple[str, str, bytes]]:
    image, clear = _image(seed, 83, 61), _image(seed + 1, 61, 83, 4)
    grey, paletted = image.convert("L"), image.convert("P", palette=Image.Palette.ADAPTIVE)
    other = _image(seed + 2, 83, 61)
    yield "grey.png", "colours", _saved(grey, "PNG")
    yield "one_bit.png", "colours", _saved(image.convert("1"), "PNG")
    yield "palette.png", "colours", _saved(paletted, "PNG")
    yield "transparent.png", "transparency", _saved(clear, "PNG")
    yield "grey_transparent.png", "transparency", _saved(clear.convert("LA"), "PNG")
    yield "palette_transparent.png", "transparency", _saved(paletted, "PNG", transparency=3)
    yield "colour_transparent.png", "transparency", _saved(image, "PNG", transparency=image.getpixel((5, 5)))
    yield "grey.jpg", "JPEG", _saved(grey, "JPEG")
    yield "progressive.jpg", "JPEG", _saved(image, "JPEG", progressive=True)
    for subsampling in (0, 1, 2):
        yield f"subsampled_{subsampling}.jpg", "JPEG", _saved(image, "JPEG", subsampling=subsampling, quality=90)
    yield "coarse.jpg", "JPEG", _saved(image, "JPEG", quality=30)
    yield "cmyk.jpg", "CMYK", _saved(image.convert("CMYK"), "JPEG", quality=95)
    yield "plain.gif", "GIF", _saved(paletted, "GIF")
    yield "animated.gif", "GIF", _saved(paletted, "GIF", save_all=True, append_images=[other.convert("P")])
    yield "transparent.gif", "GIF", _saved(paletted, "GIF", transparency=3)
    for mode in ("RGB", "L", "P", "1"):
        yield f"{mode.lower()}.bmp", "BMP", _saved(image.convert(mode), "BMP")
    yield "lossy.webp", "WebP", _saved(image, "WEBP", quality=90)
    yield "lossless.webp", "WebP", _saved(image, "WEBP", lossless=True)
    yield "transparent.webp", "transparency in WebP or AVIF", _saved(clear, "WEBP", lossless=True, exact=True)
    yield "animated.webp", "WebP", _saved(image, "WEBP", lossless=True, save_all=True, append_images=[other])
    yield "plain.avif", "AVIF", _saved(image, "AVIF", quality=90)
    yield "transparent.avif", "transparency in WebP or AVIF", _saved(clear, "AVIF", quality=90)
    for mode in ("RGB", "L"):
        yield f"{mode.lower()}.jp2", "JPEG 2000", _saved(image.convert(mode), "JPEG2000")
    yield "colour.ppm", "PPM", _saved(image, "PPM")
    yield "grey.pgm", "PPM", _saved(grey, "PPM")
    yield "one_bit.pbm", "PPM", _saved(image.convert("1"), "PPM")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression}.tif", "TIFF", _saved(image, "TIFF", compression=compression)
    yield "transparent.tif", "TIFF", _saved(clear, "TIFF")
    yield "cmyk.tif", "TIFF", _saved(image.convert("CMYK"), "TIFF")
    yield "palette.tif", "TIFF", _saved(paletted, "TIFF")
    for name in ("Display P3", "Adobe RGB"):
        stem, found = name.lower().replace(" ", "_"), profile(name)
        yield f"{stem}.jpg", "colour profile", _saved(image, "JPEG", icc_profile=found, quality=95)
        yield f"{stem}.png", "colour profile", _saved(image, "PNG", icc_profile=found)
        yield f"{stem}.webp", "colour profile", _saved(image, "WEBP", icc_profile=found, lossless=True)
        yield f"{stem}.tif", "TIFF", _saved(image, "TIFF", icc_profile=found)
    yield from _deep(seed)
    if is_installed("heic"):
        from pillow_heif import from_pillow

        for name, one in (("plain", image), ("transparent", clear)):
            file = io.BytesIO()
            from_pillow(one).save(file, quality=90)
            yield f"{name}.heic", "HEIC", file.getvalue()
    if is_installed("dicom"):
        yield from _dicom(seed)


def _deep(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Of more than 8 bits."""
    values = drawn(seed + 3, 70, 50, 4)
    grey = values[..., 0]
    for bits in (10, 12, 16):
        whole = Image.fromarray((grey * (2**bits - 1)).astype(np.uint16))
        yield f"{bits}_bits.png", "depth", _saved(whole, "PNG")
        yield f"{bits}_bits.tif", "depth", _saved(whole, "TIFF")
        yield f"{bits}_bits.pgm", "depth", _saved(whole, "PPM")
    for name, colour_type, channels, bits in (
        ("colour", 2, 3, 16), ("colour_12", 2, 3, 12), ("transparent", 6, 4, 16), ("grey_transparent", 4, 2, 16)
    ):  # fmt: skip
        chosen = values[..., [0, 3]] if channels == 2 else values[..., :channels]
        yield f"deep_{name}.png", "depth", png_16((chosen * (2**bits - 1)).astype(np.uint16), colour_type)
    yield "share.tif", "depth", _saved(Image.fromarray(grey), "TIFF")
    yield "measured.tif", "depth", _saved(Image.fromarray(grey * 300 - 100), "TIFF")
    yield "signed.tif", "depth", _saved(Image.fromarray((grey * 1e6 - 1000).astype(np.int32)), "TIFF")
    if is_installed("tiff"):
        import tifffile

        whole = (values * 4095).astype(np.uint16)
        of_kinds: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
            "colour": (whole[..., :3], {"photometric": "rgb"}),
            "planes": (whole[..., :3].transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
            "transparent": (
                (values * 65535).astype(np.uint16),
                {"photometric": "rgb", "extrasamples": ["unassalpha"]},
            ),
            "white_is_0": (whole[..., 0], {"photometric": "miniswhite"}),
            "double": (grey.astype(np.float64), {}),
        }
        for name, (part, options) in of_kinds.items():
            file = io.BytesIO()
            tifffile.imwrite(file, np.ascontiguousarray(part), metadata=None, **options)
            yield f"deep_{name}.tif", "depth", file.getvalue()


def _dicom(seed: int) -> Iterator[tuple[str, str, bytes]]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    values = drawn(seed + 4, 70, 50)
    deep, colour = (values[..., 0] * 4095).astype(np.uint16), (values * 255).astype(np.uint8)
    window = {"WindowCenter": 1500, "WindowWidth": 2000}
    for name, pixels, elements in (
        ("all", deep, {}),
        ("window", deep, window),
        ("rescaled", deep, {"RescaleSlope": 0.5, "RescaleIntercept": -1024}),
        ("inverted", deep, {**window, "PhotometricInterpretation": "MONOCHROME1"}),
        ("colour", colour, {}),
    ):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
        data.Rows, data.Columns = pixels.shape[:2]
        data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
        if pixels.ndim == 3:
            data.PlanarConfiguration = 0
        for element, value in elements.items():
            setattr(data, element, value)
        data.PixelData = pixels.tobytes()
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        yield f"{name}.dcm", "DICOM", file.getvalue()


def _image(seed: int, width: int, height: int, channels: int = 3) -> Image.Image:
    return Image.fromarray((drawn(seed, width, height, channels) * 255).round().astype(np.uint8))


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_16(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits, which Pillow does not write in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def profile(name: str) -> bytes:
    """The ICC profile of one of `SPACES`."""
    colours, gamma = SPACES[name]
    return icc_profile(name, colours, (gamma, 1, 0, 0, 0))
