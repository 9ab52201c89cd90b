"""Which images may show the same picture: nearest neighbours by coarse features, from an index.

A thumbnail is described by its low frequencies (a discrete cosine transform of 8 x 8), without the mean and divided by
their norm, so that brightness and contrast cancel. Turning or mirroring a picture only swaps the two axes and changes
signs; combinations of coefficients that such changes leave as they are make features that all eight orientations share.
A crop of a picture has the features of the same part of the whole, so parts of each image are looked up too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans

FREQUENCIES = 8
SAMPLES = 32  # pixels of each side of what the transform is made of
# Top, bottom, left and right end of the part of an image that is looked up: the whole; what a crop leaves or lies
# within a frame; what remains without a strip of text below or above.
VIEWS = ((0, 1, 0, 1), (0.05, 0.95, 0.05, 0.95), (0.1, 0.9, 0.1, 0.9), (0, 0.9, 0, 1), (0.1, 1, 0, 1))
ORIENTATIONS = [(swap, rows, columns) for swap in (0, 1) for rows in (0, 1) for columns in (0, 1)]
NEIGHBOURS = 8  # of each view of each image
LOOKS = 2  # at a pair, each with another view or orientation
FARTHEST = 0.7  # between vectors of length 1; copies made brighter, so that highlights are cut off, reach 0.5
FLAT = 2.0  # grey levels of standard deviation below which an image shows nothing that could be recognised
BLOCK = 4096


@dataclass
class Candidates:
    """Entry i: in orientation `orientations[i]`, the view of image `first[i]` may show what image `second[i]` shows."""

    first: np.ndarray
    second: np.ndarray
    views: np.ndarray  # indices into VIEWS
    orientations: np.ndarray  # indices into ORIENTATIONS

    def take(self, which: np.ndarray | slice) -> "Candidates":
        return Candidates(self.first[which], self.second[which], self.views[which], self.orientations[which])

    def among(self, rows: np.ndarray) -> "Candidates":
        """With each image called by its place in the sorted `rows`."""
        return replace(self, first=np.searchsorted(rows, self.first), second=np.searchsorted(rows, self.second))


def area_weights(start: float, stop: float, size: int, samples: int) -> np.ndarray:
    """(samples, size) matrix that averages a part of `size` pixels, given by its ends in 0 to 1, into `samples`."""
    edges = np.linspace(start, stop, samples + 1) * size
    pixel = np.arange(size)
    overlap = np.clip(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)


def _frequencies(grey: np.ndarray, rows: np.ndarray, view: tuple[float, float, float, float]) -> np.ndarray:
    """(len(rows), 8, 8) coefficients of the cosine transform of a view of thumbnails, without the mean."""
    cosine = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * (np.arange(SAMPLES) + 0.5) / SAMPLES)
    top, bottom, left, right = view
    down = (cosine @ area_weights(top, bottom, grey.shape[1], SAMPLES)).astype(np.float32)
    across = (cosine @ area_weights(left, right, grey.shape[2], SAMPLES)).astype(np.float32)
    result = np.empty((len(rows), FREQUENCIES, FREQUENCIES), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = grey[rows[start : start + BLOCK]].astype(np.float32)
        result[start : start + BLOCK] = down @ block @ across.T
    result[:, 0, 0] = 0
    return result


def _unit(coefficients: np.ndarray) -> np.ndarray:
    return coefficients / np.maximum(np.linalg.norm(coefficients, axis=(1, 2), keepdims=True), 1e-6)


def turned(images: np.ndarray, orientation: int) -> np.ndarray:
    """(N, H, W) pictures mirrored and turned."""
    swap, rows, columns = ORIENTATIONS[orientation]
    images = images.transpose(0, 2, 1) if swap else images
    return images[:, :: -1 if rows else 1, :: -1 if columns else 1]


def _turned_frequencies(coefficients: np.ndarray, orientation: int) -> np.ndarray:
    """The transform of the turned picture: mirroring changes the sign of the odd frequencies."""
    swap, rows, columns = ORIENTATIONS[orientation]
    alternating = (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)
    coefficients = coefficients.transpose(0, 2, 1) if swap else coefficients
    signs = (alternating[:, None] if rows else 1) * (alternating if columns else 1)
    return coefficients * signs


def invariants(coefficients: np.ndarray) -> np.ndarray:
    """(N, 63) features that are equal for all orientations, and no farther apart than the coefficients at their best.

    Coefficient (u, v) changes sign with u odd or v odd, and becomes (v, u) when the axes are swapped.
    """
    u, v = np.triu_indices(FREQUENCIES, 1)
    like = u % 2 == v % 2
    both, swapped = coefficients[:, u[like], v[like]], coefficients[:, v[like], u[like]]
    total = (both + swapped) / np.sqrt(2)
    one, other = np.abs(coefficients[:, u[~like], v[~like]]), np.abs(coefficients[:, v[~like], u[~like]])
    diagonal = np.diagonal(coefficients, axis1=1, axis2=2)[:, 1:]
    odd = np.arange(1, FREQUENCIES) % 2 == 1
    features = [
        np.where(odd, np.abs(diagonal), diagonal),
        np.where(u[like] % 2 == 1, np.abs(total), total),
        np.abs(both - swapped) / np.sqrt(2),
        np.maximum(one, other),
        np.minimum(one, other),
    ]
    return np.concatenate(features, 1).astype(np.float32)


class NeighbourIndex:
    """Nearest neighbours among vectors that k-means has put into lists. Only the nearest few lists are searched."""

    def __init__(self, vectors: np.ndarray, probes: int = 8) -> None:
        number = max(1, round(np.sqrt(len(vectors)))) if len(vectors) > BLOCK else 1
        self.vectors, self.probes = vectors, min(probes, number)
        self.centres: np.ndarray = vectors[:1]
        if number > 1:
            sample = vectors[np.random.default_rng(0).permutation(len(vectors))[: 64 * number]]
            clusters: Any = MiniBatchKMeans
            self.centres = clusters(number, random_state=0, n_init=1, batch_size=4096).fit(sample).cluster_centers_
        own = np.concatenate([_nearest(block, self.centres, 1)[1][:, 0] for block in _blocks(vectors)])
        order = np.argsort(own, kind="stable")
        self.lists = np.split(order, np.searchsorted(own[order], np.arange(1, number)))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances and rows (N, k) of the nearest vectors; infinite where fewer were found."""
        distances = np.full((len(queries), k), np.inf, np.float32)
        found = np.full((len(queries), k), -1)
        probed = np.concatenate([_nearest(block, self.centres, self.probes)[1] for block in _blocks(queries)])
        for number, members in enumerate(self.lists):
            asking = np.flatnonzero((probed == number).any(1))
            for rows in np.split(asking, range(BLOCK, len(asking), BLOCK)):
                if not len(members) or not len(rows):
                    continue
                near, which = _nearest(queries[rows], self.vectors[members], min(k, len(members)))
                near, which = np.hstack([distances[rows], near]), np.hstack([found[rows], members[which]])
                best = np.argsort(near, 1, kind="stable")[:, :k]
                distances[rows], found[rows] = np.take_along_axis(near, best, 1), np.take_along_axis(which, best, 1)
        return distances, found


def _blocks(vectors: np.ndarray) -> list[np.ndarray]:
    return np.split(vectors, range(BLOCK, len(vectors), BLOCK))


def _nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and rows of the `k` nearest, in no order."""
    distances = (queries**2).sum(1, keepdims=True) - 2 * queries @ vectors.T + (vectors**2).sum(1)
    rows = np.argpartition(distances, k - 1, 1)[:, :k]
    return np.take_along_axis(distances, rows, 1), rows


def find_candidates(grey: np.ndarray, rows: np.ndarray | None = None) -> Candidates:
    """Pairs of thumbnails (N, T, T) where a view of the first resembles the second; in time N^1.5.

    Args:
        rows: which of them are compared; None: all. Thumbnails, four kilobytes each, are never copied as a whole.
    """
    rows = np.arange(len(grey)) if rows is None else rows
    rows = rows[np.concatenate([grey[block].std((1, 2)) for block in _blocks(rows)]) > FLAT]
    empty = np.zeros(0, np.int64)
    if len(rows) < 2:
        return Candidates(empty, empty, empty, empty)
    whole = _frequencies(grey, rows, VIEWS[0])
    # High frequencies are faint in every photograph, yet they tell pictures apart: each counts by its usual strength.
    usual = np.sqrt((_unit(whole) ** 2).mean(0))
    weights = 1 / np.maximum((usual + usual.T) / 2, 0.02 * usual.max())
    whole = _unit(whole * weights)
    index = NeighbourIndex(invariants(whole))
    found = []
    for number, view in enumerate(VIEWS):
        own = whole if number == 0 else _unit(_frequencies(grey, rows, view) * weights)
        distances, neighbours = index.search(invariants(own), min(NEIGHBOURS + 1, len(rows)))
        first, place = np.nonzero(distances < FARTHEST**2)
        second = neighbours[first, place]
        first, second = first[first != second], second[first != second]
        for block in np.split(np.arange(len(first)), range(BLOCK, len(first), BLOCK)):
            one, other = own[first[block]], whole[second[block]]
            products = [(_turned_frequencies(one, turn) * other).sum((1, 2)) for turn in range(len(ORIENTATIONS))]
            likeness = np.max(products, 0)
            near = likeness > 1 - FARTHEST**2 / 2
            columns = first[block], second[block], np.full(len(block), number), np.argmax(products, 0), likeness
            found.append([column[near] for column in columns])
    first, second, views, orientations, likeness = (np.concatenate(column) for column in zip(*found, strict=True))
    # The same pair is found by several views, and from both sides: the best few are worth a second look.
    order = np.lexsort((-likeness, np.minimum(first, second) * len(rows) + np.maximum(first, second)))
    pair = np.stack([np.minimum(first, second), np.maximum(first, second)])[:, order]
    repeated = (pair[:, LOOKS:] == pair[:, :-LOOKS]).all(0)
    kept = np.sort(order[np.concatenate([np.ones(min(LOOKS, len(order)), bool), ~repeated])])
    return Candidates(rows[first[kept]], rows[second[kept]], views[kept], orientations[kept])


def in_blocks(candidates: Candidates, size: int) -> Iterator[Candidates]:
    for start in range(0, len(candidates.first), size):
        yield candidates.take(slice(start, start + size))
