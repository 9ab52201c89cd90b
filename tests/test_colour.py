"""Colours of other profiles become those of sRGB."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from made_files import SPACES, chunk, exif_of_colours, profile, with_chunks
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from imgbench.colour import profile_name, to_srgb
from imgbench.data.look import header_of
from imgbench.decode import open_image
from imgbench.errors import DecodeError
from imgbench.preprocessing import Preprocessing

SRGB = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)]).T


def expected(pixels: np.ndarray, name: str) -> np.ndarray:
    """The sRGB of colours of a space, from the formulas of IEC 61966-2-1."""
    primaries, gamma = SPACES[name]
    linear = (pixels / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(SRGB).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """Colours that sRGB has in every space, in steps and ramps."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.dstack([80 + x, 170 - y, 100 + (x + y) // 2]).astype(np.uint8))


def shown(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data))


def saved(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def name_in(data: bytes) -> str:
    """What the audit calls the colours of a file."""
    header = header_of(io.BytesIO(data))
    assert header is not None
    return header.profile


def gamma(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chromaticities(*values: float) -> bytes:
    """Of red, green and blue; white is that of daylight."""
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in (0.3127, 0.329, *values))))


def cicp(*values: int) -> bytes:
    return chunk(b"cICP", bytes(values))


OF_SRGB, OF_P3, OF_ADOBE = (
    chromaticities(*values)
    for values in (
        (0.64, 0.33, 0.3, 0.6, 0.15, 0.06), (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), (0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    )
)  # fmt: skip
SRGB_CHUNK, P3_CICP = chunk(b"sRGB", b"\0"), cicp(12, 13, 0, 1)


def with_exif(
    image: Image.Image, file_format: str = "JPEG", space: int = 0xFFFF, index: str = "R03", **options
) -> bytes:
    if file_format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: space, ExifTags.IFD.Interop: {1: index}}
        return saved(image, file_format, tiffinfo=tags, **options)
    return saved(image, file_format, exif=exif_of_colours(space, index), **options)


@pytest.mark.parametrize("name", SPACES)
def test_colours_of_a_profile_become_those_of_srgb(photograph, name):
    found = shown(saved(photograph, icc_profile=profile(name))).astype(float)
    right = expected(np.asarray(photograph).astype(float), name)
    assert np.abs(right - np.asarray(photograph)).mean() > 3, "nothing is to be changed"
    assert np.abs(found - right).mean() < 0.6
    assert profile_name(profile(name)) == name


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_every_format_brings_its_profile(photograph, file_format):
    options = {"quality": 95} if file_format not in ("PNG", "TIFF") else {}
    plain = shown(saved(photograph, file_format, **options)).astype(int)
    found = shown(saved(photograph, file_format, icc_profile=profile("Adobe RGB"), **options))
    assert np.abs(plain - found).mean() > 3


@pytest.mark.parametrize("name", [None, "sRGB", "damaged", "of greys"])
def test_without_a_profile_of_other_colours_nothing_changes(photograph, name):
    data = {
        None: None,
        "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "damaged": profile("Display P3")[:90],
        "of greys": profile("Display P3").replace(b"mntrRGB ", b"mntrGRAY"),
    }[name]
    assert np.array_equal(shown(saved(photograph, icc_profile=data)), np.asarray(photograph))
    assert data is None or to_srgb(photograph, data) is photograph
    assert profile_name(b"") == profile_name(b"damaged") == ""


def test_transparency_palettes_and_greys_have_the_colours_of_the_profile_too(photograph):
    data = profile("ProPhoto RGB")
    right = shown(saved(photograph, icc_profile=data))
    clear = photograph.copy()
    clear.putalpha(255)
    assert np.array_equal(shown(saved(clear, icc_profile=data)), right)
    white = open_image(saved(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), icc_profile=data))
    assert white.getpixel((1, 1)) == (255, 255, 255)
    few = Image.new("RGB", (4, 4), (90, 150, 100))
    assert np.array_equal(shown(saved(few.quantize(4), icc_profile=data)), shown(saved(few, icc_profile=data)))
    grey = shown(saved(Image.new("L", (4, 4), 100), "JPEG", icc_profile=data))
    assert grey.max() - grey.min() <= 1
    assert abs(int(grey[0, 0, 0]) - expected(np.full((1, 3), 100.0), "ProPhoto RGB")[0, 0]) < 1


def test_a_profile_or_text_that_is_larger_than_pillow_takes_costs_nothing(photograph):
    from PIL.PngImagePlugin import PngInfo

    large = profile("Adobe RGB")
    large = struct.pack(">I", len(large) + 1_500_000) + large[4:] + bytes(1_500_000)
    small = shown(saved(photograph, icc_profile=profile("Adobe RGB")))
    assert np.array_equal(shown(saved(photograph, icc_profile=large)), small)
    for packed in (True, False):
        info = PngInfo()
        info.add_text("a", "x" * 1_500_000, zip=packed)
        info.add_itxt("b", "x" * 1_500_000, zip=packed)
        assert np.array_equal(shown(saved(photograph, pnginfo=info)), np.asarray(photograph))


def test_models_that_were_trained_without_profiles_go_on_without(photograph):
    data = saved(photograph, icc_profile=profile("Adobe RGB"))
    old = Preprocessing.from_dict({"image_size": 16, "mean": [0, 0, 0], "std": [1, 1, 1], "intensity": "file"})
    now = Preprocessing.from_dict(Preprocessing(16).to_dict())
    assert np.array_equal(old.decode(data), old.square(photograph))
    assert np.abs(old.decode(data).astype(int) - now.decode(data)).mean() > 3


@pytest.mark.parametrize(
    ("chunks", "like"),
    [
        ([gamma(45455), OF_ADOBE], "Adobe RGB"),
        ([chunk(b"cICP", bytes([12, 4, 0, 1]))], "Display P3"),
        ([cicp(12, 4, 0, 1), SRGB_CHUNK, gamma(90000)], "Display P3"),
    ],
)
def test_colours_that_chunks_of_a_png_say_become_those_of_srgb(photograph, chunks, like):
    found = shown(with_chunks(saved(photograph), *chunks)).astype(int)
    right = shown(saved(photograph, icc_profile=profile(like)))
    assert np.abs(found - right).max() <= 3
    assert np.abs(found - np.asarray(photograph)).mean() > 3


@pytest.mark.parametrize("kind", ["RGB", "L", "P", "RGBA"])
def test_gamma_alone_makes_a_png_brighter_or_darker(photograph, kind):
    image = photograph.convert(kind)
    before = np.asarray(image.convert("RGB")).astype(float)
    found = shown(with_chunks(saved(image), gamma(100_000)))  # values are in proportion to light
    assert np.abs(found - np.where(
        before <= 0.0031308 * 255, 12.92 * before, 255 * (1.055 * (before / 255) ** (1 / 2.4) - 0.055)
    )).max() < 2  # fmt: skip
    assert name_in(with_chunks(saved(image), gamma(100_000))) == "gAMA 1.00000"


@pytest.mark.parametrize(
    "chunks",
    [
        [SRGB_CHUNK, gamma(90000), OF_P3],
        [gamma(45455)],
        [gamma(45455), OF_SRGB],
        [gamma(0)],
        [gamma(45455), chromaticities(0, 0, 0, 0, 0, 0)],
        [gamma(45455), chunk(b"cHRM", b"\0\1\0\0")],
        [cicp(1, 13, 0, 1), gamma(90000)],
        [cicp(200, 200, 0, 1)],
    ],
    ids=["sRGB", "usual gamma", "primaries of sRGB", "no gamma", "no chromaticities", "short", "cICP", "unknown"],
)
def test_pngs_of_srgb_and_damaged_chunks_change_nothing(photograph, chunks):
    data = with_chunks(saved(photograph), *chunks)
    assert np.array_equal(shown(data), np.asarray(photograph))
    assert name_in(data) == ""


def test_a_profile_wins_over_chunks_and_exif(photograph):
    data = profile("ProPhoto RGB")
    right = shown(saved(photograph, icc_profile=data))
    assert np.array_equal(shown(with_chunks(saved(photograph, icc_profile=data), gamma(90000), OF_P3)), right)
    assert np.array_equal(shown(with_exif(photograph, "PNG", icc_profile=data)), right)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_colours_for_hdr_screens_are_refused_by_name(photograph, transfer, name):
    data = with_chunks(saved(photograph), cicp(9, transfer, 0, 1))
    with pytest.raises(DecodeError, match=rf"HDR screens \({name}\).*save it as sRGB"):
        open_image(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_adobe_rgb_is_known_by_exif_alone(photograph, file_format):
    options: dict[str, Any] = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    found = shown(with_exif(photograph, file_format, **options))
    right = shown(saved(photograph, file_format, icc_profile=profile("Adobe RGB"), **options)).astype(int)
    assert np.abs(found - right).max() <= 1
    assert name_in(with_exif(photograph, file_format)) == "Adobe RGB by EXIF"


@pytest.mark.parametrize(("space", "index"), [(1, "R03"), (0xFFFF, "R98")])
def test_other_entries_of_exif_change_nothing(photograph, space, index):
    assert np.array_equal(shown(with_exif(photograph, "PNG", space, index)), np.asarray(photograph))


def test_models_that_were_trained_without_chunks_and_exif_go_on_without(photograph):
    old = Preprocessing.from_dict({**Preprocessing(16).to_dict(), "decoding": 2})
    for data in (with_chunks(saved(photograph), gamma(90000)), with_exif(photograph, "PNG"),
                 with_chunks(saved(photograph), cicp(9, 16, 0, 1))):  # fmt: skip
        assert np.array_equal(old.decode(data), old.square(photograph))
    assert np.abs(old.decode(saved(photograph, icc_profile=profile("Adobe RGB"))).astype(int)
                  - old.square(photograph)).mean() > 3  # fmt: skip
