"""Which values of more than 8 bits are black and white."""

import numpy as np
import pytest

from imgbench.intensity import Extremes, extremes, intensity_range, to_8_bits

TWELVE_BITS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("kind", "stray"),
    [
        (np.uint16, [65535]),
        (np.uint16, [65535, 30000, 60000]),
        (np.int32, [-9999, 65535]),
        (np.float32, [-3.4e38, 3.4e38]),
        (np.float64, [-32768, np.nan, np.inf]),
    ],
)
def test_values_far_from_all_others_do_not_set_the_range(kind, stray):
    values = TWELVE_BITS.astype(kind)
    values[10, : len(stray)] = stray
    found, finite = extremes(values), values[np.isfinite(values)]
    assert (found.low, found.high) == (0, 4095)
    assert (found.lowest, found.highest) == (finite.min(), finite.max())


def test_a_few_hot_pixels_of_any_brightness_do_not_set_the_range():
    values = np.random.default_rng(0).integers(0, 500, (1000, 1000), dtype=np.uint16)
    values[7, :90] = np.linspace(500, 65535, 90)
    assert extremes(values).high < 520


def test_missing_data_may_fill_half_of_an_image():
    values = TWELVE_BITS.astype(np.float32) / 7
    values[:40] = -9999
    found = extremes(values)
    assert (round(found.low, 3), round(found.high, 3)) == (round(40 * 64 / 7, 3), 585)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 65535], [65535, 0]], np.uint16),  # a mask
        np.array([[0, 40, 41, 39, 65535, 65530]], np.uint16),  # few values of each kind
        np.concatenate([np.arange(100), np.arange(60000, 60100)]).astype(np.uint16)[None],  # dark and bright
        np.geomspace(1, 65535, 5000).astype(np.uint16)[None],  # bright spots, and all between
        np.full((4, 4), 7, np.uint16),
    ],
)
def test_what_belongs_to_the_picture_sets_its_range(values):
    assert extremes(values)[:2] == (values.min(), values.max())


def test_colours_get_an_even_number_of_bits_so_that_dark_photographs_of_16_stay_dark():
    grey, colour = (Extremes(0, 20000, False, colour) for colour in (False, True))
    assert intensity_range([grey]) == (0, 32767)
    assert intensity_range([colour]) == (0, 65535)
    assert intensity_range([Extremes(0, 4000, False, True)]) == (0, 4095)


@pytest.mark.parametrize("intensity", ["file", "16 bit", (0, 4095), (100, 3000)])
def test_large_and_small_images_are_scaled_alike(intensity):
    many = np.tile(TWELVE_BITS, (5, 5))
    assert np.array_equal(to_8_bits(many, intensity), np.tile(to_8_bits(TWELVE_BITS, intensity), (5, 5)))
