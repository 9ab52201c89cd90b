"""Files of every kind that `predict` reads, with the answers: by them, any program that uses an ONNX file is tested.

The pictures are drawn, so that no photograph is passed on. They are smooth, since what decoders do differently, they do
at edges.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgbench.colour import icc_profile
from imgbench.errors import UserError, is_installed
from imgbench.evaluation.selective import ERRORS
from imgbench.files import write_atomically
from imgbench.inference.acceptance import Acceptance
from imgbench.inference.novelty import Novelty
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.progress import Step

EXPECTED = "expected.json"
TOLERANCE = 1e-3  # of a probability
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


def write_conformance(path: Path, model: Path, folder: Path) -> int:
    """Writes files, what the model at `path` says of each, the ONNX file and a page on what to do; returns how many.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and not (folder / EXPECTED).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"--conformance {folder} holds something else. Name a new directory.")
    try:
        (folder / "files").mkdir(parents=True, exist_ok=True)
        files: list[dict[str, Any]] = []
        for name, kind, content in made_files():
            (folder / "files" / name).write_bytes(content)
            files.append({"file": f"files/{name}", "kind": kind, "browser": kind not in NOT_IN_BROWSERS})
        facts = _expected(path, [folder / one["file"] for one in files])
        for one, answer in zip(files, facts.pop("answers"), strict=True):
            one |= answer
        content = {"model": "model.onnx", "tolerance": TOLERANCE, **facts, "files": files}
        write_atomically(folder / EXPECTED, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (folder / "model.onnx").write_bytes(model.read_bytes())
        facts = OnnxModel(model).metadata
        write_atomically(folder / "metadata.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        write_atomically(folder / "README.md", PAGE)
    except OSError as error:
        raise UserError(f"--conformance {folder} cannot be written: {error.strerror}.") from error
    return len(files)


def _expected(path: Path, files: list[Path]) -> dict[str, Any]:
    predictor = Predictor.load(path)
    model, names = predictor.model, predictor.class_names
    rules: dict[str, Novelty] = {}
    if novelty := Novelty.of(path, model):
        rules[""] = novelty
    for error in ERRORS:
        try:
            rules[f"{error:g}"] = Acceptance.open(path, model, error)
        except UserError:  # it cannot be promised
            continue
    function = next(iter(rules.values()), None) or model
    with Step("Predicting the files"):
        values, errors = predictor.apply(function, len(names) + bool(rules), files)
    assert not errors, errors
    answers = [
        {
            "probabilities": [round(float(value), 6) for value in row[: len(names)]],
            **({"novelty": round(float(row[-1]), 4)} if rules else {}),
            "unsure": {name: rule.doubt(row) is not None for name, rule in rules.items()},
        }
        for row in values
    ]
    intensity = model.preprocessing.intensity
    return {"class_names": names, "intensity": intensity, "answers": answers}


def drawn(seed: int, width: int, height: int, channels: int = 3) -> np.ndarray:
    """(height, width, channels) from 0 to 1: colours that run into each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((5, 5, channels), np.float32)
    layers = [
        Image.fromarray(coarse[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(channels)
    ]
    return np.stack([np.asarray(layer) for layer in layers], -1).clip(0, 1)


def made_files() -> Iterator[tuple[str, str, bytes]]:
    """Name, kind and content of each."""
    for number, (width, height) in enumerate(SIZES):
        image = _image(number, width, height)
        yield f"size_{width}x{height}.png", "size", _saved(image, "PNG")
        if number % 2 and min(width, height) > 2:
            yield f"size_{width}x{height}.jpg", "size", _saved(image, "JPEG", quality=95, subsampling=0)
    for number, (width, height) in enumerate([(4000, 3000), (5000, 500)]):
        yield f"huge_{number}.jpg", "size", _saved(_image(50 + number, width, height), "JPEG", quality=90)
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


# Kinds that browsers do not show, whose values they cut to 8 bits or multiply by the opacity, or which they do not turn
# upright.
NOT_IN_BROWSERS = {
    "orientation in WebP",
    "transparency in WebP or AVIF",
    "TIFF",
    "JPEG 2000",
    "PPM",
    "HEIC",
    "DICOM",
    "depth",
}

PAGE = """# Does a program answer as the run does?

`expected.json` lists the files of this directory with the probabilities that the run gives them, in the order of
`class_names`. The program under test gives `model.onnx` each file, and no probability may differ by more than
`tolerance`; `novelty` may do so by one part in a hundred. The pictures are drawn; none is a photograph.

## What the program has to do

1. Decode the file, of an animation the first frame, in its full size.
2. Turn it upright, by the orientation that EXIF tells.
3. Lay it over white where it is transparent.
4. Convert it to sRGB by the colour profile that it has, to 8 bits, and to red, green and blue.
5. Run the graph with `images`, uint8 of the shape (1, height, width, 3).

Resizing, cropping and normalisation are the graph's. Values of more than 8 bits are scaled so that the first of the two
numbers of `intensity` becomes 0 and the second 255. With `"file"` it is the file's own values that decide. Whole
numbers from 0 get the fewest bits that hold them all, and colours an even number of bits. Floats from 0 to 1 stay as
they are. All others are scaled from the smallest to the largest.

## When it says "unsure"

The metadata of the file, under the key `imgbench`, is JSON; for runtimes that do not show it, `metadata.json` has it
too. The output `novelty` tells how far a picture is from the
photographs of the training.

- Without a promise, the answer is unsure if the novelty is at least `novelty_limit`. In `expected.json`, `unsure` says
  so under "".
- For a promised error, take the entry of `acceptance` with this `max_error`. The answer is unsure unless the highest
  probability is above its `threshold` and the novelty below its `limit`. A limit of `null` is no limit. A threshold of
  `null` says that this error cannot be promised. In `expected.json`, `unsure` says so under "0.02" and the like.

## Kinds

`kind` says what is special in a file, and `browser` whether browsers can show it as it is: Chromium does not turn WebP
upright, and rounds colours of WebP and AVIF that are half transparent. Conversions between colour
profiles differ by up to two of 255 grey levels from library to library. With these files, and with CMYK, a program that
uses another one than LittleCMS may miss the tolerance.
"""
