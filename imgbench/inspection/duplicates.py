"""Images that show the same picture: as it is, or turned, recompressed, resized, brighter, cropped or framed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgbench.data.table import ImageTable
from imgbench.inspection.alignment import similarities
from imgbench.inspection.candidates import find_candidates
from imgbench.inspection.file_facts import Header
from imgbench.inspection.thumbnails import Thumbnails

# Copies of the potato photographs, made in each of the ways above, agree to 0.95 and more, photographs of one leaf
# taken twice to 0.8 and more, and two leaves to 0.85 at most. Two models of shoes, photographed alike, reach 0.89; and,
# where a part of one is compared, which gives chance more to choose from, 0.93.
NEAR, NEAR_PART = 0.9, 0.94
# Where so many images are chained to each other, they are simple or of one scene, and chance makes pairs as good: only
# what hardly differs counts among them, as the frames of one film.
CROWD, CROWD_SHARE, NEAR_IN_A_CROWD = 50, 0.05, 0.99
SIMPLE = 16  # pixels of the short side below which two drawings of one digit may be equal by chance


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


def find_duplicates(table: ImageTable, thumbnails: Thumbnails, headers: list[Header | None]) -> list[Pair]:
    """All pairs of near duplicates that the index brings to light, and each exact copy with the first of its kind."""
    sizes = np.array([sorted((header.width, header.height)) if header else (0, 0) for header in headers], np.int32)
    pixels = np.concatenate([thumbnails.hashes.view(np.uint8).reshape(-1, 16), sizes.view(np.uint8)], 1)
    first_of = _first_rows(table.digests, pixels, sizes[:, 0] > 0)
    exact = [Pair(int(first), row, "exact", 1.0) for row, first in enumerate(first_of) if first != row]
    detailed = np.array([header is not None and min(header.width, header.height) >= SIMPLE for header in headers])
    originals = np.flatnonzero((first_of == np.arange(len(first_of))) & detailed)
    near = _near_pairs(thumbnails.grey[originals], originals)
    group_of = connected([(pair.first, pair.second) for pair in near], len(first_of))
    crowded = (np.bincount(group_of) > max(CROWD, CROWD_SHARE * len(first_of)))[group_of]  # (N,) of each image
    return exact + [pair for pair in near if pair.similarity >= NEAR_IN_A_CROWD or not crowded[pair.first]]


def _near_pairs(grey: np.ndarray, rows: np.ndarray) -> list[Pair]:
    """Of thumbnails (N, T, T) that belong to `rows`."""
    candidates = find_candidates(grey)
    scores = similarities(grey, candidates)
    found: dict[tuple[int, int], float] = {}
    for index in np.flatnonzero(scores >= np.where(candidates.views == 0, NEAR, NEAR_PART)):
        one, other = sorted((int(rows[candidates.first[index]]), int(rows[candidates.second[index]])))
        found[one, other] = max(found.get((one, other), 0), float(scores[index]))
    return [Pair(one, other, "near", score) for (one, other), score in sorted(found.items())]


def _first_rows(files: np.ndarray, pixels: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(N,) the first row with the same bytes in the file, or else with the same pixels; damaged images have no copy."""
    first_of = np.arange(len(files))
    for hashes in (files, pixels):
        seen: dict[bytes, int] = {}
        for row in np.flatnonzero(usable):
            first_of[row] = first_of[seen.setdefault(hashes[row].tobytes(), int(first_of[row]))]
    return first_of


def connected(pairs: Iterable[tuple[int, int]], number: int) -> np.ndarray:
    """(number,) the same label for all rows that a chain of pairs connects."""
    links = np.array(list(pairs), np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), (number, number))
    return connected_components(graph, directed=False)[1]
