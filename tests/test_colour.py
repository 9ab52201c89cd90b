"""Colours of other profiles become those of sRGB."""

import io
import struct

import numpy as np
import pytest
from made_files import SPACES, profile
from PIL import Image, ImageCms

from imgbench.colour import profile_name, to_srgb
from imgbench.decode import open_image
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
    assert np.array_equal(old.decode(data), old.resize(photograph))
    assert np.abs(old.decode(data).astype(int) - now.decode(data)).mean() > 3
