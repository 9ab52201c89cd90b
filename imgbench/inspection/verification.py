"""A second look at pictures that look alike: which are one picture, and which show two things of one kind?

Shirts on one floor and hands in one pose have one outline and one ground, and with them most of the likeness of their
pictures. Copies agree everywhere. So pictures are laid onto each other as exactly as can be, and two things are asked:
does each small block agree with its counterpart, and do the phases of all frequencies agree, whatever their strength?
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from imgbench.inspection.alignment import blur, blur_matrix, compare, follow, is_near, pictures_of, sampled
from imgbench.inspection.candidates import Candidates

SIDE = 96  # pixels of the pictures that are compared
LEVELS = ((32, 6), (64, 3), (96, 2))  # pixels of a side, from coarse to fine, and steps of the alignment at each
HOPELESS = 0.5  # agreement after the coarsest level, below which no copy was seen, and finer ones are not tried
BLOCK, BETWEEN = 12, 6  # pixels of the blocks that are compared, and from one to the next
TEXTURE = 4  # grey levels of standard deviation below which a block shows nothing
FEWEST = 8  # blocks that show something
OVERLAP = 0.4  # share of the pictures that lies on each other, at least
BURNT_OUT, BLACK = 245, 3  # grey levels from which on, and up to which, nothing can be compared
LOWEST, HIGHEST = 0.02, 0.3  # cycles per pixel of the phases that are compared, unless a picture was enlarged
LEAST_USABLE = 0.25  # share of the pictures; of others, all pixels are compared
NOISE = 4  # grey levels of standard deviation, of a strongly compressed picture
SHIFTS = 2  # pixels in each direction within which the phases may agree

_BLURS = {side: blur_matrix(side, 1) for side, _ in LEVELS}
_STARTS = torch.arange(0, SIDE - BLOCK + 1, BETWEEN)[:, None]
_PLACES = torch.arange(SIDE)
_MEANS = ((_PLACES >= _STARTS) & (_PLACES < _STARTS + BLOCK)).float() / BLOCK  # (blocks, SIDE): means of rows, columns
_HANN = torch.hann_window(SIDE, periodic=False)
_WINDOW = _HANN[:, None] * _HANN
_NOISE = NOISE**2 * _WINDOW.square().sum()  # the power at each frequency of noise that is seen through the window
_DOWN, _RIGHT = torch.fft.fftfreq(SIDE), torch.fft.rfftfreq(SIDE)
_FREQUENCIES = (_DOWN[:, None].square() + _RIGHT.square()).sqrt()
_TWICE = torch.full((len(_RIGHT),), 2.0)  # a real picture's frequencies come in pairs, of which one is kept,
_TWICE[[0, -1]] = 1.0  # but for the first and the last
# A Fourier transform back, of the few places that are looked at.
_SHIFTS = torch.arange(-SHIFTS, SHIFTS + 1)[:, None]
_BACK_DOWN = torch.exp(2j * torch.pi * _SHIFTS * _DOWN)
_BACK_RIGHT = torch.exp(2j * torch.pi * _SHIFTS * _RIGHT) * _TWICE


def verify(grey: np.ndarray, pixels: np.ndarray, candidates: Candidates) -> np.ndarray:
    """How sure it is that each pair of images (N, T, T) shows one picture: copies reach 0.9, at most 1.

    Args:
        pixels: (N,) of the short side of each image's file: enlarged ones have no fine frequencies.
    """
    return compare(partial(_verify, grey, pixels), candidates, "Comparing details of images that look alike")


def _verify(grey: np.ndarray, pixels: np.ndarray, pairs: Candidates) -> np.ndarray:
    one, other = pictures_of(grey, pairs, SIDE)
    known = np.minimum(pixels[pairs.first], pixels[pairs.second]).clip(max=SIDE) / SIDE
    highest = torch.from_numpy((HIGHEST * known).astype(np.float32))
    motion = torch.eye(2, 3).repeat(len(one), 1, 1)
    scores = _Target(other, highest).agreement(one, torch.ones_like(one))
    going_on = torch.arange(len(one))
    for side, steps in LEVELS:
        if not len(going_on):
            break
        images, targets = one[going_on], other[going_on]
        smooth, smooth_targets = (blur(_resized(each, side), _BLURS[side]) for each in (images, targets))
        finer = follow(smooth, smooth_targets, motion[going_on], steps)
        moved, inside = sampled(images, finer)
        agreement = _Target(targets, highest[going_on]).agreement(moved, inside)
        # A step may lead astray where the pictures do not fit: what fitted best so far is kept.
        better = (agreement > scores[going_on]) & is_near(finer)
        scores[going_on[better]], motion[going_on[better]] = agreement[better], finer[better]
        going_on = going_on[scores[going_on] >= HOPELESS]
    return scores.numpy()


def _resized(images: Tensor, side: int) -> Tensor:
    return interpolate(images[:, None], (side, side), mode="bilinear", antialias=True, align_corners=False)[:, 0]


class _Target:
    """Pictures (N, SIDE, SIDE) that others are compared with, and the highest frequency that they have, in (N,)."""

    def __init__(self, images: Tensor, highest: Tensor) -> None:
        self.images, self.usable = images, _usable(images)
        self.spectrum = _spectrum(images).conj()
        self.band = ((_FREQUENCIES >= LOWEST) & (highest[:, None, None] >= _FREQUENCIES)).float()

    def agreement(self, moved: Tensor, inside: Tensor) -> Tensor:
        """(N,) the mean of two numbers, each at most 1."""
        return (self._blocks(moved, inside) + self._phases(torch.where(inside > 0, moved, self.images))) / 2

    def _blocks(self, moved: Tensor, inside: Tensor) -> Tensor:
        """The mean correlation of the blocks that show something in either picture."""
        usable = self.usable * _usable(moved)
        # Drawings may be black and white all over.
        usable = inside * torch.where(usable.mean((1, 2), keepdim=True) < LEAST_USABLE, 1, usable)
        share = blur(usable, _MEANS)
        number = share.clamp(min=1e-3)
        one, other = moved * usable, self.images * usable
        mean_one, mean_other = blur(one, _MEANS) / number, blur(other, _MEANS) / number
        variance_one = blur(one * moved, _MEANS) / number - mean_one.square()
        variance_other = blur(other * self.images, _MEANS) / number - mean_other.square()
        product = blur(one * self.images, _MEANS) / number - mean_one * mean_other
        strength = (variance_one.clamp(min=0) * variance_other.clamp(min=0)).sqrt()
        correlation = (product / strength.clamp(min=1)).clamp(-1, 1)
        textured = ((torch.maximum(variance_one, variance_other) > TEXTURE**2) & (share > 0.5)).float()
        blocks = textured.sum((1, 2))
        mean = (correlation * textured).sum((1, 2)) / blocks.clamp(min=1)
        return torch.where((blocks >= FEWEST) & (inside.mean((1, 2)) > OVERLAP), mean, 0)

    def _phases(self, moved: Tensor) -> Tensor:
        """The peak of the phase-only correlation (Kuglin and Hines 1975), of the frequencies of the band.

        What is not stronger than the noise of a compressed picture has no phase: it counts by how much stronger it is.
        """
        product = _spectrum(moved) * self.spectrum
        strength = product.abs()
        weights = self.band / (strength + _NOISE)
        peak = (_BACK_DOWN @ (product * weights) @ _BACK_RIGHT.T).real.amax((1, 2))
        return peak / (strength * weights * _TWICE).sum((1, 2)).clamp(min=1)


def _usable(images: Tensor) -> Tensor:
    return ((images < BURNT_OUT) & (images > BLACK)).float()


def _spectrum(images: Tensor) -> Tensor:
    return torch.fft.rfft2((images - images.mean((1, 2), keepdim=True)) * _WINDOW)
