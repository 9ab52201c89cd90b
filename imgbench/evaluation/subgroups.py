"""Whether a model is as good in every part of the images: at each site, of each device, in each band of ages."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from imgbench.evaluation.statistics import DRAWS, holm
from imgbench.number import Number, share

FEWEST = 10  # images of a part, and
FEWEST_GROUPS = 5  # independent groups of it, from which its accuracy is worth a line
MOST_PARTS = 12  # of a column: more are names or numbers of single images
BANDS = 4  # into which numbers are divided
SIGNIFICANT = 0.05
DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.]\d{1,2}")


@dataclass(frozen=True)
class Subgroups:
    """The accuracy in each part of the images by a column, the lowest first.

    `p` is that parts differ by chance, corrected for the number of columns that were looked at.
    """

    column: str
    parts: dict[str, Number]
    p: float

    @property
    def differ(self) -> bool:
        """Whether parts differ by more than chance."""
        return self.p < SIGNIFICANT

    @property
    def sentence(self) -> str:
        """The worst and the best part, in words that need no explanation."""
        (worst, low), *_, (best, high) = self.parts.items()
        return (
            f"{self.column} {worst!r}: {100 * low.value:.1f} % of {low.n:,} right, {best!r}: "
            f"{100 * high.value:.1f} % of {high.n:,}; they differ by more than chance"
        )


def to_json(found: Sequence[Subgroups]) -> str:
    """As a run keeps them."""
    content = [
        {"column": one.column, "p": one.p, "parts": {name: number.to_dict() for name, number in one.parts.items()}}
        for one in found
    ]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Subgroups]:
    """Reads `to_json`.

    Raises:
        AttributeError, KeyError, RecursionError, TypeError, ValueError: it is none.
    """
    found = []
    for one in json.loads(text):
        parts = {str(name): Number.from_dict(number) for name, number in one["parts"].items()}
        if len(parts) < 2:
            raise ValueError(f"{one['column']} has {len(parts)} parts")
        found.append(Subgroups(str(one["column"]), parts, float(one["p"])))
    return found


def subgroups(
    correct: np.ndarray, codes: np.ndarray, columns: Mapping[str, Sequence[str]], networks: int = 1
) -> list[Subgroups]:
    """Those of each column that divides the images into a few parts; the surest to differ first.

    Numbers are divided into bands, dates into years, or else months. Images without a value, and those of parts that
    are too small, count in none.

    Args:
        correct: (N,) bool.
        codes: (N,) the group of each image.
        columns: (N,) texts each, "" where there is none.
        networks: that answered, each for other images.
    """
    found = []
    for column, values in columns.items():
        parts = _parts(values)
        large = [part for part in dict.fromkeys(parts.tolist()) if part and _is_large(parts, part, codes)]
        if 2 <= len(large) <= MOST_PARTS:
            own = np.isin(parts, large)
            p = difference_test(correct[own], parts[own], codes[own])
            numbers = {part: share(correct, parts == part, codes).of_networks(networks) for part in large}
            order = sorted(numbers, key=lambda part: numbers[part].value)
            found.append(Subgroups(column, {part: numbers[part] for part in order}, p))
    corrected = holm([one.p for one in found])
    return sorted((replace(one, p=float(p)) for one, p in zip(found, corrected, strict=True)), key=lambda one: one.p)


def difference_test(correct: np.ndarray, parts: np.ndarray, codes: np.ndarray, draws: int = DRAWS) -> float:
    """The p value of accuracies that differ between parts (N,), by permutation of whole groups.

    Of a group that has images in several parts, the images of each part are permuted as one: they have at most as much
    in common with each other as those of a group, so that differences are found rather too seldom.
    """
    _, part_of, sizes_of_parts = np.unique(parts, return_inverse=True, return_counts=True)
    _, first, unit = np.unique(np.stack([codes, part_of]), axis=1, return_index=True, return_inverse=True)
    unit = unit.ravel()
    sizes, hits, labels = np.bincount(unit), np.bincount(unit, correct), part_of[first]
    accuracy = correct.mean()

    def spread(labels: np.ndarray) -> float:
        images = np.bincount(labels, sizes, len(sizes_of_parts))
        right = np.bincount(labels, hits, len(sizes_of_parts))
        return float(((right - accuracy * images) ** 2 / np.maximum(images, 1)).sum())

    rng = np.random.default_rng(0)
    observed = spread(labels) - 1e-9  # rounding errors shall not part what is equal
    return (1 + sum(spread(rng.permutation(labels)) >= observed for _ in range(draws))) / (1 + draws)


def _is_large(parts: np.ndarray, part: str, codes: np.ndarray) -> bool:
    own = parts == part
    return int(own.sum()) >= FEWEST and len(np.unique(codes[own])) >= FEWEST_GROUPS


def _parts(values: Sequence[str]) -> np.ndarray:
    """(N,) the part of each image, "" where there is none."""
    texts = np.array([value.strip() for value in values])
    there = texts != ""
    if len(np.unique(texts[there])) <= MOST_PARTS:
        return texts
    dates = [DATE.match(text) for text in texts]
    if all(found for found, known in zip(dates, there, strict=True) if known):
        years = np.array([found[1] if found else "" for found in dates])
        months = np.array([f"{found[1]}-{int(found[2]):02}" if found else "" for found in dates])
        return years if len(np.unique(years[there])) > 1 else months
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return texts
    edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, BANDS + 1)))
    if len(edges) < 3 or not np.isfinite(edges).all():
        return texts
    band = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    own = [numbers[there & (band == i)] for i in range(len(edges) - 1)]
    names = np.array([f"{part.min():g} to {part.max():g}" for part in own])
    return np.where(there, names[band], "")
