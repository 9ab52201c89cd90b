"""From the colours of a file, such as Display P3 or Adobe RGB, to sRGB, which everything that says nothing means.

A file says its colours by an ICC profile. A PNG may say them by the chunks cICP, sRGB, gAMA and cHRM, in the order of
https://www.w3.org/TR/png-3/#color-chunk-precendence, and a camera says Adobe RGB by two entries of EXIF alone (DCF 2.0,
JEITA CP-3461B).
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from imgbench.errors import DecodeError

SAME = 2  # grey levels by which a profile that calls itself sRGB may differ from ours
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the colours of a profile -> those of an image

# x and y of white, red, green and blue.
D65 = (0.3127, 0.329)
BT709 = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
# By the numbers of ITU-T H.273, which stand in cICP: their names too, and the curves as g, a, b, c, d of ICC.1:2010,
# table 68, type 3: (a * value + b) ** g from d on, and c * value below.
PRIMARIES = {
    1: ("BT.709", BT709),
    9: ("BT.2020", (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)),
    11: ("DCI-P3", (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),
    12: ("Display P3", (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
VIDEO_CURVE = (2.4, 1, 0, 0, 0)  # of screens, by ITU-R BT.1886
CURVES = {
    **dict.fromkeys((1, 6, 14, 15), VIDEO_CURVE),
    4: (2.2, 1, 0, 0, 0),
    5: (2.8, 1, 0, 0, 0),
    8: (1, 1, 0, 0, 0),
    13: SRGB_CURVE,
}
HDR = {16: "PQ", 18: "HLG"}

USUAL_GAMMA, TOLERANCE = 1 / 2.2, 0.05  # of gAMA, which stands for the curve of sRGB; libpng has the same tolerance
CLOSE = 0.001  # x and y that are those of sRGB
GAMMAS = (0.1, 10)  # others are damage
UNCALIBRATED, ADOBE_RGB_INDEX = 0xFFFF, "R03"  # EXIF's ColorSpace and InteroperabilityIndex

D50 = np.array([0.9642, 1, 0.8249])  # the white of all profiles
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile of an opened image: its own, or one of what else the file says; None: sRGB, or nothing is said.

    Raises:
        DecodeError: the brightest white is far beyond that of sRGB (HDR), so that there are no such colours.
    """
    info = image.info
    primaries, transfer, matrix, full = info.get("cicp", (2, 2, 0, 1))
    if transfer in HDR:
        raise DecodeError(
            f"colours for HDR screens ({HDR[transfer]}), of which no other show the brightest: save it as sRGB, for "
            "example from the program that shows it"
        )
    if primaries in PRIMARIES and transfer in CURVES and (matrix, full) == (0, 1):
        name, points = PRIMARIES[primaries]
        return _made(f"{name} by cICP", points, CURVES[transfer])
    if profile := info.get("icc_profile"):
        return profile
    if "srgb" in info:
        return None
    if "gamma" in info:  # cHRM alone means nothing to browsers
        return _of_chunks(info["gamma"], tuple(info.get("chromaticity", ())))
    return _made("Adobe RGB by EXIF", ADOBE_RGB, (563 / 256, 1, 0, 0, 0)) if _exif_says_adobe_rgb(image) else None


def _of_chunks(gamma: float, points: tuple[float, ...]) -> bytes | None:
    """Of what gAMA says, and cHRM if it is there, as x and y of white, red, green and blue."""
    usual = abs(gamma / USUAL_GAMMA - 1) <= TOLERANCE
    if not GAMMAS[0] <= gamma <= GAMMAS[1] or (usual and (not points or _are_of_srgb(points))):
        return None
    curve = (1 / gamma, 1, 0, 0, 0)
    try:
        return _made(f"gAMA {gamma:.5f}{' and cHRM' if points else ''}", points or BT709, curve)
    except (ValueError, ZeroDivisionError, OverflowError, np.linalg.LinAlgError, struct.error):  # damaged cHRM
        return None if usual else _made(f"gAMA {gamma:.5f}", BT709, curve)


def _are_of_srgb(points: tuple[float, ...]) -> bool:
    return len(points) == len(BT709) and bool(np.abs(np.subtract(points, BT709)).max() < CLOSE)


def _exif_says_adobe_rgb(image: Image.Image) -> bool:
    if "exif" not in image.info and image.format != "TIFF":  # asked for it, a PNG without any would be decoded
        return False
    try:
        exif = image.getexif()
        if exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) != UNCALIBRATED:
            return False
        return str(exif.get_ifd(ExifTags.IFD.Interop).get(1, "")).strip(" \0") == ADOBE_RGB_INDEX
    except Exception:  # damaged entries raise nearly anything, and tell nothing
        return False


@lru_cache(32)
def _made(name: str, points: tuple[float, ...], curve: tuple[float, ...]) -> bytes | None:
    """An ICC profile of x and y of white, red, green and blue; None for the colours of sRGB."""
    if curve == SRGB_CURVE and _are_of_srgb(points):
        return None
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(points[::2], points[1::2], strict=True))
    strengths = np.linalg.solve(np.transpose(colours), white)
    to_d50 = np.linalg.solve(BRADFORD, ((BRADFORD @ D50) / (BRADFORD @ white))[:, None] * BRADFORD)
    colours = [to_d50 @ colour * strength for colour, strength in zip(colours, strengths, strict=True)]
    return icc_profile(name, colours, curve)


def icc_profile(name: str, colours: Sequence[Sequence[float] | np.ndarray], curve: Sequence[float]) -> bytes:
    """An ICC profile (ICC.1:2010).

    Args:
        colours: red, green and blue as XYZ of the white D50.
        curve: of each of them, as in `CURVES`.
    """
    text = name.encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    parts = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50)}
    for letter, colour in zip(b"rgb", colours, strict=True):
        parts[b"%cXYZ" % letter] = b"XYZ \0\0\0\0" + _fixed(colour)
        parts[b"%cTRC" % letter] = b"para\0\0\0\0\0\3\0\0" + _fixed(curve)
    start = 132 + 12 * len(parts)
    entries, body = struct.pack(">I", len(parts)), b""
    for key, part in parts.items():
        entries += key + struct.pack(">II", start + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    head = struct.pack(">I4sI12s", start + len(body), b"", 0x04200000, b"mntrRGB XYZ ")
    return (head + bytes(12) + b"acsp" + bytes(28) + _fixed(D50)).ljust(128, b"\0") + entries + body


def _fixed(values: Any) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * float(value))) for value in values)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB of an image without transparency; one whose profile is broken or of another kind is left as it is.

    Blacks are made to match, and colours that sRGB lacks become the nearest that it has.
    """
    mode, transform = _transform(profile)
    if mode == "RGB" and image.mode != "CMYK":
        image = image if image.mode == "RGB" else image.convert("RGB")
    if transform is None or image.mode != mode:
        return image
    return ImageCms.applyTransform(image, transform) or image


def profile_name(profile: bytes) -> str:
    """What a profile calls itself; empty if it cannot be read."""
    opened = _opened(profile)
    return (opened.profile_description or "").strip() if opened else ""


def _opened(profile: bytes) -> Any:
    try:
        return ImageCms.core.profile_frombytes(profile)
    except OSError:
        return None


# Making one takes a hundred times as long as finding it. There are few in a data set, of at most some megabytes each.
@lru_cache(32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that it takes, and what changes it; None if nothing is to be changed."""
    opened = _opened(profile)
    mode = MODES.get(opened.xcolor_space.strip(), "") if opened else ""
    if not opened or not mode:
        return "", None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(opened),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        return mode, None
    if mode == "RGB":
        steps = np.linspace(0, 255, 12).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(36, 48, 3)
        found = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(int)
        if np.abs(found - grid).max() <= SAME:
            return mode, None
    return mode, transform
