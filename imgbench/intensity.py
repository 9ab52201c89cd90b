"""Values of more than 8 bits: which of them are black and white, and what they are in 8 bits."""

from typing import Literal, NamedTuple

import numpy as np

# The values of black and white in files of more than 8 bits: of the whole data set, or, where it had no such files,
# each file's own; "16 bit" is what checkpoints were trained with that do not say: 0 to 65,535 whatever the values.
Intensity = tuple[float, float] | Literal["file", "16 bit"]

# Hot pixels (65,535 among 12 bits) and marks of missing data (-9,999) say nothing of what is black and white. They are
# this few of the different values, and a gap wider than the range of the others divides them from these.
FEW = 1 / 16
# Or they are this few of the pixels, and make the range this many times as wide.
RARE, WIDER = 1e-4, 4


class Extremes(NamedTuple):
    """The smallest and largest value of an image without those far from all others, and what kind of values they are.

    `lowest` and `highest` are of all its values.
    """

    low: float
    high: float
    floats: bool
    colour: bool = False
    lowest: float = 0
    highest: float = 0


def extremes(values: np.ndarray) -> Extremes:
    """Of the (H, W) or (H, W, 3) values of an image; infinities and NaN do not count."""
    floats, colour = values.dtype.kind == "f", values.ndim == 3
    if values.dtype == np.uint16:
        counts = np.bincount(values.ravel())
        levels = np.flatnonzero(counts)
        counts = counts[levels]
    else:
        levels, counts = np.unique(values[np.isfinite(values)] if floats else values, return_counts=True)
        levels = levels.astype(np.float64)
    if not levels.size:
        return Extremes(0, 0, floats, colour)
    lowest, highest = float(levels[0]), float(levels[-1])
    few, gaps = int(FEW * len(levels)), np.diff(levels)
    first, last = levels[few], levels[-1 - few]
    above = np.flatnonzero(gaps[len(gaps) - few :] > levels[-1 - few : -1] - first) if few else []
    below = np.flatnonzero(gaps[:few] > last - levels[1 : few + 1])
    kept = slice(below[-1] + 1 if len(below) else 0, len(levels) - few + above[0] if len(above) else None)
    levels, counts = levels[kept], counts[kept]
    shares = counts.cumsum() / counts.sum()
    low, high = levels[np.searchsorted(shares, [RARE, 1 - RARE])]
    if high > low and levels[-1] - levels[0] > WIDER * (high - low):
        levels = levels[(low <= levels) & (levels <= high)]
    return Extremes(float(levels[0]), float(levels[-1]), floats, colour, lowest, highest)


def intensity_range(images: list[Extremes]) -> tuple[float, float]:
    """The values of black and white that suit images of more than 8 bits.

    Whole numbers from 0 get the fewest bits, at least 8, that hold them all, for example 0 to 4,095; floats from 0 to 1
    these two; all others the smallest and the largest value found. Cameras count colours in 10, 12, 14 or 16 bits, so
    that a dark photograph of 16 is not brightened.
    """
    low, high = min(image.low for image in images), max(image.high for image in images)
    if any(image.floats for image in images):
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    if low < 0:
        return low, high
    bits = max(8, int(high).bit_length())
    return 0.0, float(2 ** (bits + bits % 2 if any(image.colour for image in images) else bits) - 1)


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
    if values.dtype == np.uint16 and values.size > 65536:  # each of the values is scaled once
        return to_8_bits(np.arange(65536, dtype=np.uint16), (low, high))[values]
    scaled = (values.astype(np.float32) - low) / ((high - low) or 1)
    return (np.clip(np.nan_to_num(scaled), 0, 1) * 255).round().astype(np.uint8)
