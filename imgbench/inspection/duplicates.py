"""Images that show the same picture: as it is, or turned, recompressed, resized, brighter, cropped or framed."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgbench.data.look import digest
from imgbench.data.table import ImageTable
from imgbench.decode import open_image
from imgbench.files import cores
from imgbench.inspection.alignment import similarities
from imgbench.inspection.candidates import Candidates, find_candidates
from imgbench.inspection.file_facts import Header
from imgbench.inspection.thumbnails import Thumbnails, enlarged
from imgbench.inspection.verification import SIDE, verify

ALIKE = 0.85  # agreement of thumbnails, below which a pair is not looked at again
CLOSEST = 8  # pairs of an image that are, those that are most alike
# Agreement of details, from which on two pictures look like one; notebooks/audit.md says how it was chosen. Below it,
# down to the second figure, most pairs show one thing or one scene twice, or one model in two colours. No agreement is
# proof: two circuit boards with one printed motif reach 0.99.
COPY, SCENE = 0.84, 0.75
SIMPLE = 16  # pixels of the short side below which two drawings of one digit may be equal by chance


@dataclass(frozen=True)
class Pair:
    """Two rows of a table, `first` < `second`, that show the same picture or the same scene.

    `kind` is `exact` (the same pixels, whatever the format of the file), `near` (they look like one picture) or
    `scene` (they may be two pictures of one thing or scene). `similarity` is how far details agree, at most 1.
    """

    first: int
    second: int
    kind: str
    similarity: float

    @property
    def copies(self) -> bool:
        """Whether it is one picture, or looks like one."""
        return self.kind != "scene"


def find_duplicates(table: ImageTable, thumbnails: Thumbnails, headers: list[Header | None]) -> list[Pair]:
    """All pairs that look alike and that the index brings to light, and each exact copy with the first of its kind."""
    sizes = np.array([sorted((header.width, header.height)) if header else (0, 0) for header in headers], np.int32)
    pixels = np.concatenate([thumbnails.hashes.view(np.uint8).reshape(-1, 16), sizes.view(np.uint8)], 1)
    usable = sizes[:, 0] > 0
    _look_closer(table, pixels, usable)
    first_of = _first_rows(table.digests, pixels, usable)
    exact = [Pair(int(first), row, "exact", 1.0) for row, first in enumerate(first_of) if first != row]
    detailed = np.array([header is not None and min(header.width, header.height) >= SIMPLE for header in headers])
    originals = np.flatnonzero((first_of == np.arange(len(first_of))) & detailed)
    candidates = find_candidates(thumbnails.grey, originals)
    return exact + list(_near_pairs(table, thumbnails.grey, sizes[:, 0], candidates))


def _near_pairs(table: ImageTable, grey: np.ndarray, pixels: np.ndarray, candidates: Candidates) -> Iterator[Pair]:
    """Of thumbnails (N, T, T), and `pixels` (N,) of each image's short side."""
    likeness = similarities(grey, candidates)
    order = np.argsort(-likeness, kind="stable")
    candidates = candidates.take(order[likeness[order] >= ALIKE])
    candidates = candidates.take(_among_the_closest(np.stack([candidates.first, candidates.second], 1)))
    rows = np.unique(np.concatenate([candidates.first, candidates.second]))
    scores = verify(enlarged(table, rows, SIDE), pixels[rows], candidates.among(rows))
    found: dict[tuple[int, int], float] = {}
    for index in np.flatnonzero(scores >= SCENE):
        one, other = sorted((int(candidates.first[index]), int(candidates.second[index])))
        found[one, other] = max(found.get((one, other), 0), float(scores[index]))
    for (one, other), score in sorted(found.items()):
        yield Pair(one, other, "near" if score >= COPY else "scene", score)


def _among_the_closest(pairs: np.ndarray) -> np.ndarray:
    """(P,) whether each of the pairs (P, 2), the most alike first, is among the first few of either image."""
    images = pairs.ravel()
    order = np.argsort(images, kind="stable")
    ordered = images[order]
    rank = np.empty(len(images), np.int64)
    rank[order] = np.arange(len(images)) - np.searchsorted(ordered, ordered)
    return rank.reshape(-1, 2).min(1) < CLOSEST


def _look_closer(table: ImageTable, pixels: np.ndarray, usable: np.ndarray) -> None:
    """Of different files with equal keys `pixels` (N, D), which are of thumbnails, all pixels make new keys."""
    alike: dict[bytes, dict[bytes, list[int]]] = {}
    for row in np.flatnonzero(usable):
        alike.setdefault(pixels[row].tobytes(), {}).setdefault(table.digests[row].tobytes(), []).append(int(row))
    doubtful = [rows for files in alike.values() if len(files) > 1 for rows in files.values()]

    def look(rows: list[int]) -> None:
        shown = open_image(table.read(rows[0]), table.intensity)
        pixels[rows, :16] = np.frombuffer(digest(shown.tobytes()), np.uint8)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(look, doubtful))


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
