"""A first look at two pictures that may be the same: moved onto each other, how far do their details agree?

The details are what remains of a picture without its coarse brightness, divided by their local strength: every region
counts alike, so that neither a common background nor a common frame makes two pictures the same. The tones of the
subject tell two things of one shape apart.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from imgbench.files import cores, one_thread
from imgbench.inspection.candidates import ORIENTATIONS, VIEWS, Candidates, area_weights, in_blocks, turned
from imgbench.progress import shown

SIDE = 48  # pixels of the pictures that are compared
MARGIN = 4  # of them, where frames and the ends of crops lie, do not count
WORTH_MOVING = 0.5  # a lower agreement is not brought beyond that of chance by moving
STEPS = 6
FARTHEST = 0.35  # change of a motion's entries; the grid has 2 units
BURNT_OUT, BLACK = 245, 3  # grey levels
EDGE = 3  # pixels around what is black
BLOCK = 512


def similarities(grey: np.ndarray, candidates: Candidates) -> np.ndarray:
    """How far each pair of thumbnails (N, T, T) agrees, -1 to 1, where they lie best on each other."""
    return compare(partial(_compare, grey), candidates, "Comparing pairs of images")


def compare(work: Callable[[Candidates], np.ndarray], candidates: Candidates, step: str) -> np.ndarray:
    """What `work` makes of each pair, on all cores."""
    if not len(candidates.first):
        return np.zeros(0, np.float32)
    with one_thread(), ThreadPoolExecutor(cores()) as pool:
        blocks = pool.map(work, in_blocks(candidates, BLOCK))
        return np.concatenate(list(shown(blocks, -(-len(candidates.first) // BLOCK), step)))


def _compare(grey: np.ndarray, pairs: Candidates) -> np.ndarray:
    one, other = pictures_of(grey, pairs, SIDE)
    scores = _agreement(one, other, torch.ones_like(one))
    again = torch.nonzero((scores > WORTH_MOVING) & (scores < 0.98))[:, 0]
    if len(again):
        moved, inside = move_onto(one[again], other[again])
        scores[again] = torch.maximum(scores[again], _agreement(moved, other[again], inside))
    return scores.numpy()


def pictures_of(grey: np.ndarray, pairs: Candidates, side: int) -> tuple[Tensor, Tensor]:
    """(N, side, side) each of the pairs: the view of the first, turned, and the second, of images (N, T, T)."""
    one = torch.empty(len(pairs.first), side, side)
    for number, view in enumerate(VIEWS):
        for turn in range(len(ORIENTATIONS)):
            if (chosen := (pairs.views == number) & (pairs.orientations == turn)).any():
                own = turned(_pictures(grey, pairs.first[chosen], view, side).numpy(), turn)
                one[torch.from_numpy(chosen)] = torch.from_numpy(np.ascontiguousarray(own))
    return one, _pictures(grey, pairs.second, VIEWS[0], side)


def _agreement(one: Tensor, other: Tensor, inside: Tensor) -> Tensor:
    """The mean of two correlations: of the details, and of the tones of what stands out from the background.

    Two shoes on white have much the same outline, which is most of the details, but seldom the same tones. A copy made
    brighter has lost what is burnt out, and has the other tones in proportion.
    """
    inside = _without_padding(one, other, inside)
    subject = torch.zeros_like(inside)
    for images in (one, other):
        background = _ring(images).median(1).values[:, None, None]
        subject = torch.maximum(subject, ((images - background).abs() > 12).float())
    subject = subject * inside * ((one < BURNT_OUT) & (other < BURNT_OUT))
    enough = subject.mean((1, 2), keepdim=True) > 0.05
    tones = _correlation(one, other, torch.where(enough, subject, inside), least=0.03)
    return (_correlation(details(one), details(other), inside) + tones) / 2


def _without_padding(one: Tensor, other: Tensor, inside: Tensor) -> Tensor:
    """Without what is black in either picture, and its edges: two rotated pictures may be padded alike."""
    black = ((one < BLACK) | (other < BLACK)).float()
    visible = inside * (BESIDE @ black @ BESIDE == 0)
    return torch.where(visible.mean((1, 2), keepdim=True) > 0.5, visible, inside)


def _ring(images: Tensor) -> Tensor:
    """(N, pixels) along the four sides of the pictures."""
    width = MARGIN // 2
    sides = images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]
    return torch.cat([side.flatten(1) for side in sides], 1)


def _pictures(grey: np.ndarray, rows: np.ndarray, view: tuple[float, float, float, float], side: int) -> Tensor:
    """(N, side, side) of the view of thumbnails."""
    top, bottom, left, right = view
    size = grey.shape[1]
    vertical, horizontal = (
        torch.from_numpy(area_weights(start, stop, size, side)) for start, stop in ((top, bottom), (left, right))
    )
    return vertical @ torch.from_numpy(grey[rows]).float() @ horizontal.T


def blur_matrix(side: int, sigma: float) -> Tensor:
    """(side, side): applied to rows and columns, a Gaussian blur."""
    place = torch.arange(side, dtype=torch.float32)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    # Far from the centre they are too small for normal floats, with which processors calculate ten times as fast.
    weights[weights < 1e-6] = 0
    return weights / weights.sum(1, keepdim=True)


FINE, COARSE = blur_matrix(SIDE, 1), blur_matrix(SIDE, 4)
BESIDE = torch.ones(SIDE, SIDE).triu(-EDGE).tril(EDGE)  # (SIDE, SIDE): 1 where two rows are at most EDGE apart


def blur(images: Tensor, matrix: Tensor) -> Tensor:
    return matrix @ images @ matrix.T


def details(images: Tensor) -> Tensor:
    """The structures of 1 to 4 pixels in pictures (N, SIDE, SIDE), equally strong everywhere.

    Where a picture is flat, its noise is not made as strong as the rest.
    """
    band = blur(images, FINE) - blur(images, COARSE)
    local = blur(band.square(), COARSE).clamp(min=0).sqrt()
    overall = band.square().mean((1, 2), keepdim=True).sqrt()
    return band / (local + 0.3 * overall + 1e-3)


def _correlation(one: Tensor, other: Tensor, inside: Tensor, least: float = 0.4) -> Tensor:
    """Of the pixels that lie `inside` (1 or 0) of both; -1 where these are a smaller share than `least`."""
    centre = slice(MARGIN, SIDE - MARGIN)
    one, other, inside = (images[:, centre, centre].flatten(1) for images in (one, other, inside))
    number = inside.sum(1, keepdim=True) + 1e-6
    one = (one - (one * inside).sum(1, keepdim=True) / number) * inside
    other = (other - (other * inside).sum(1, keepdim=True) / number) * inside
    result = (one * other).sum(1) / ((one.square().sum(1) * other.square().sum(1)).sqrt() + 1e-6)
    return torch.where(inside.mean(1) > least, result, -1)


def move_onto(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, SIDE, SIDE), shifted, scaled, turned and sheared a little so that each fits its target best.

    The second value is 1 where the moved image has pixels, and 0 outside of it. Every second pixel of the blurred
    pictures is followed.
    """
    start = torch.eye(2, 3).expand(len(images), 2, 3)
    smooth, smooth_targets = (blur(each, FINE)[:, ::2, ::2] for each in (images, targets))
    motion = follow(smooth, smooth_targets, start, STEPS)
    moved, inside = sampled(images, motion)
    return moved, inside * is_near(motion)[:, None, None]


def is_near(motion: Tensor) -> Tensor:
    """(N,) whether a motion is small; farther, a picture was drawn to something else."""
    return (motion - torch.eye(2, 3)).abs().amax((1, 2)) < FARTHEST


def follow(images: Tensor, targets: Tensor, motion: Tensor, steps: int) -> Tensor:
    """(N, 2, 3) affine motions, as of `affine_grid`, that lay smooth pictures (N, S, S) onto their targets.

    Gauss-Newton steps from the motion given (Lucas and Kanade 1981), with the slopes of the target, so that these are
    calculated once (the inverse compositional algorithm of Baker and Matthews 2004).
    """
    number, side = len(images), images.shape[-1]
    image, target = _standardised(images), _standardised(targets)
    right, down = torch.zeros_like(target), torch.zeros_like(target)
    right[:, :, 1:-1] = (target[:, :, 2:] - target[:, :, :-2]) * (side / 4)  # per unit of the grid, which has 2
    down[:, 1:-1] = (target[:, 2:] - target[:, :-2]) * (side / 4)
    place = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    slopes = torch.stack([right * x, right * y, right, down * x, down * y, down], 1).flatten(2)  # (N, 6, pixels)
    normal = slopes @ slopes.mT
    damping = 1e-3 * (torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + torch.eye(6))
    solve = torch.linalg.inv(normal + damping)
    last_row = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(number, 1, 3)
    for _ in range(steps):
        now, inside = sampled(image, motion)
        error = (now - target) * inside
        error = (error - error.sum((1, 2), keepdim=True) / (inside.sum((1, 2), keepdim=True) + 1e-6)) * inside
        step = (solve @ (slopes @ error.flatten(1)[..., None])).reshape(number, 2, 3).clamp(-0.1, 0.1)
        back = torch.linalg.inv(torch.cat([step + torch.eye(2, 3), last_row], 1))
        motion = (torch.cat([motion, last_row], 1) @ back)[:, :2]
    return motion


def _standardised(images: Tensor) -> Tensor:
    images = images - images.mean((1, 2), keepdim=True)
    return images / (images.square().mean((1, 2), keepdim=True).sqrt() + 1e-3)


def sampled(images: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Moved images (N, S, S), and 1 where these have pixels, 0 outside."""
    layers = torch.stack([images, torch.ones_like(images)], 1)
    grid = affine_grid(motion, [*layers.shape], align_corners=False)
    moved, inside = grid_sample(layers, grid, align_corners=False).unbind(1)
    return moved, (inside > 0.99).float()
