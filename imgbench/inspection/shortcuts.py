"""Probes for shortcuts: how well colours, borders or facts of the files alone predict the labels.

A network takes the easiest way. Where eight pixels of the border tell the classes apart, its accuracy may say more
about how the photographs were taken than about what they show (Noyan 2022, https://arxiv.org/abs/2206.04374).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from imgbench.data.table import ImageTable
from imgbench.inspection.simple_features import (
    border_pixels,
    colours,
    compute,
    cross_validated,
    draw_groups,
    group_codes,
)
from imgbench.language import counted
from imgbench.number import Number, share

CAP = 10_000  # images drawn at most: enough for an interval of one per cent to either side
# Share of the errors of always answering the largest class that a probe avoids, from which on it is worth a warning.
# The eight pixels of arXiv 2206.04374 avoid 0.43 of them (49 % are right, 10 % are of the largest class); in the
# handwritten digits, where nothing is wrong, the border avoids 0.26 and the amount of ink 0.33.
SUSPICIOUS = 0.4

LARGEST = "largest class"
MEANING = {
    LARGEST: "Always answering {largest!r} is right in {accuracy}.",
    "colours": "A probe that sees only colours is right in {accuracy}.",
    "border pixels": "A probe that sees only eight pixels of the border is right in {accuracy}.",
    "file sizes": "A probe that sees only file sizes is right in {accuracy}.",
    "dimensions": "A probe that sees only width and height is right in {accuracy}.",
    "file names": "A probe that sees only file names is right in {accuracy}.",
    "file times": "A probe that sees only the times of the files is right in {accuracy}.",
}
CAUTION = {
    "colours": "A network may learn colours or lighting instead of the object. Test it on photographs of all "
    "classes taken in the same light.",
    "border pixels": "The background may give the class away. A network that learns it may fail on photographs taken "
    "elsewhere. Test it on some.",
    "file sizes": "The classes differ in sharpness, compression, detail or size. A network may learn that instead of "
    "the object. Save all images in the same way, and compare.",
    "dimensions": "The classes differ in shape or resolution. A network may learn that instead of the object. Crop all "
    "images to the same shape.",
}


@dataclass(frozen=True)
class Probe:
    """What can be told by looking at one thing only.

    `accuracy` is cross-validated, except that of always answering the largest class. `skill` is the share of the
    largest class's errors that the probe avoids: 0 if it knows nothing, 1 if it makes no error.
    """

    name: str
    accuracy: Number
    largest: str  # the class with the most images
    skill: float

    @property
    def sentence(self) -> str:
        """What was found, in words that need no explanation."""
        number = self.accuracy
        together = f" in {counted(number.groups, 'group')}" if number.groups < number.n else ""
        accuracy = (
            f"{100 * number.value:.1f} % of {number.n} images{together} "
            f"(95 % interval {100 * number.low:.1f} to {100 * number.high:.1f} %)"
        )
        nothing = f", no better than always answering {self.largest!r}"
        return MEANING[self.name].format(
            largest=self.largest, accuracy=accuracy + (nothing if self.skill == 0 and self.name != LARGEST else "")
        )

    @property
    def warning(self) -> str | None:
        """What may be wrong if the probe knows more than it should. No network sees names and times: never of these."""
        return CAUTION.get(self.name) if self.skill >= SUSPICIOUS else None


def probe(table: ImageTable, groups: Sequence[str] | None = None, cap: int = CAP) -> list[Probe]:
    """The largest class first, then what each probe reaches; the test images are not touched.

    Only the largest class comes back where too few classes have images that are independent of each other.

    Args:
        groups: which rows of the table belong together ("" is alone); by default the groups of `data.split.group`.
        cap: images that are looked at: of more, whole groups are drawn.
    """
    rows = np.sort(np.concatenate([table.rows("train"), table.rows("val")]))
    all_codes = group_codes(table.groups if groups is None else groups)[rows]
    drawn = draw_groups(np.unique(all_codes, return_inverse=True)[1], cap)
    rows, codes = rows[drawn], all_codes[drawn]
    labels = table.labels[rows].astype(np.int64)
    largest = int(np.bincount(labels).argmax())
    name = table.class_names[largest]
    everything = np.ones(len(rows), bool)
    reference = share(labels == largest, everything, codes)
    probes = [Probe(LARGEST, reference, name, 0.0)]
    colour, border = compute(table, rows, (colours, border_pixels))
    seen = table.looks.facts[rows]
    border[~seen["deep"]] = seen["border"][~seen["deep"]].reshape(-1, border.shape[1])
    features = {"colours": colour, "border pixels": border, **file_facts(table, rows)}
    predicted = cross_validated(features, labels, codes, len(table.class_names)) or {}
    for key, probabilities in predicted.items():
        number = share(probabilities.argmax(1) == labels, everything, codes)
        # A gain that may be chance is none.
        gained = number.value - reference.value if number.low > reference.value else 0.0
        probes.append(Probe(key, number, name, gained / (1 - reference.value) if gained else 0.0))
    return probes


def file_facts(table: ImageTable, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of the files of these rows without their pixels; (N, D) each."""
    looks = table.looks.facts[rows]
    size, width, height = (
        column.astype(np.float64) for column in (table.stamps[rows, 0], looks["width"], looks["height"])
    )
    return {
        "file sizes": _bins(size),
        "dimensions": np.hstack([_bins(width), _bins(height), _bins(width / np.maximum(height, 1))]),
        "file names": _names([PurePosixPath(table.paths[row]).stem for row in rows]),
        "file times": _bins(table.source.written(table.stamps[rows])),
    }


def _bins(values: np.ndarray, number: int = 32) -> np.ndarray:
    """(N, D) which of up to 32 equally full bins a value is in, so that a linear classifier can learn any curve."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, number + 1)[1:-1]))
    return np.eye(len(edges) + 1, dtype=np.float32)[np.searchsorted(edges, values)]


def _names(stems: Sequence[str]) -> np.ndarray:
    """(N, D) the last number in a name, its length, and which runs of up to three characters it has."""
    from sklearn.feature_extraction.text import HashingVectorizer  # scikit-learn takes a second to import

    numbers = [float((re.findall(r"\d{1,15}", stem) or ["-1"])[-1]) for stem in stems]
    runs = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=512, binary=True, alternate_sign=False)
    texts = [re.sub(r"\d", "0", f"^{stem}$").encode("utf-8", "replace").decode() for stem in stems]
    found = runs.transform(texts).toarray().astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    return np.hstack([found, _bins(np.array(numbers)), _bins(np.array([float(len(stem)) for stem in stems]))])
