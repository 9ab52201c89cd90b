"""Photographs as parts of a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from imgbench.evaluation.photographs import SIDE, as_data, with_heat


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


@pytest.mark.parametrize(("shape", "expected"), [((300, 600, 3), (SIDE, SIDE // 2)), ((100, 80, 3), (80, 100))])
def test_a_photograph_is_made_small_and_keeps_its_proportions(shape, expected):
    image = np.full(shape, 128, np.uint8)
    picture = decoded(as_data(image))
    assert picture.format == "JPEG"
    assert picture.size == expected
    assert len(as_data(np.random.default_rng(0).integers(0, 256, shape, np.uint8))) < 30_000


def test_of_a_tiny_picture_every_pixel_is_kept():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(np.asarray(decoded(as_data(image))), image)


def test_what_speaks_for_the_answer_glows_and_the_rest_is_grey():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 5
    picture = with_heat(np.full((96, 96, 3), (200, 30, 30), np.uint8), heat).astype(int)
    colour = picture.max(2) - picture.min(2)
    side = len(picture)
    assert colour[side // 8, side // 8] > 80
    assert colour[side // 2 :, side // 2 :].max() == 0


@pytest.mark.parametrize("heat", [np.zeros((3, 3), np.float32), np.full((3, 3), -7, np.float32)])
def test_where_nothing_stands_out_nothing_glows(heat):
    picture = with_heat(np.full((20, 20, 3), 90, np.uint8), heat).astype(int)
    assert (picture.max(2) == picture.min(2)).all()
