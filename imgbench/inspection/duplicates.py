"""Images that show the same picture: as it is, or turned, recompressed, resized, brighter, cropped or framed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgbench.data.table import ImageTable
from imgbench.inspection.alignment import similarities
from imgbench.inspection.candidates import find_candidates
from imgbench.inspection.thumbnails import make_thumbnails

# Copies of the potato photographs, made in each of the ways above, agree to 0.95 and more, photographs of one leaf
# taken twice to 0.8 and more, and two leaves to 0.85 at most. Two models of shoes, photographed alike, reach 0.89; and,
# where a part of one is compared, which gives chance more to choose from, 0.93.
NEAR, NEAR_PART = 0.9, 0.94
NO_HASH = np.zeros(16, np.uint8).view("V16")[0]


@dataclass(frozen=True)
class Pair:
    """Two rows of a table, `first` < `second`, that show the same picture.

    `kind` is `exact` (the same pixels, whatever the format of the file) or `near`. `similarity` is how far
    details and tones agree, at most 1.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_duplicates(table: ImageTable) -> list[Pair]:
    """All pairs of near duplicates that the index brings to light, and each exact copy with the first of its kind."""
    thumbnails = make_thumbnails(table)
    first_of = _first_rows(table.digests.view("V16").ravel(), thumbnails.hashes)
    exact = [Pair(int(first), row, "exact", 1.0) for row, first in enumerate(first_of) if first != row]
    originals = np.flatnonzero((first_of == np.arange(len(first_of))) & (thumbnails.hashes != NO_HASH))
    grey = thumbnails.grey[originals]
    candidates = find_candidates(grey)
    scores = similarities(grey, candidates)
    near: dict[tuple[int, int], float] = {}
    for index in np.flatnonzero(scores >= np.where(candidates.views == 0, NEAR, NEAR_PART)):
        one, other = sorted((int(originals[candidates.first[index]]), int(originals[candidates.second[index]])))
        near[one, other] = max(near.get((one, other), 0), float(scores[index]))
    return exact + [Pair(one, other, "near", score) for (one, other), score in sorted(near.items())]


def _first_rows(*keys: np.ndarray) -> np.ndarray:
    """(N,) the first row with the same bytes in the file, or else with the same pixels; damaged images have no copy."""
    first_of = np.arange(len(keys[0]))
    for hashes in keys:
        seen: dict[bytes, int] = {}
        for row, value in enumerate(keys[-1]):
            if value != NO_HASH:
                first_of[row] = first_of[seen.setdefault(hashes[row].tobytes(), int(first_of[row]))]
    return first_of


def connected(pairs: Iterable[tuple[int, int]], number: int) -> np.ndarray:
    """(number,) the same label for all rows that a chain of pairs connects."""
    links = np.array(list(pairs), np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), (number, number))
    return connected_components(graph, directed=False)[1]
