"""Which predictions to accept, so that those accepted are seldom wrong: selective classification.

A prediction is accepted where its highest probability lies above a threshold. The threshold is chosen on validation
images, and looking for a good one finds lucky ones too. So thresholds are tested one after the other from the highest
down, each by the exact binomial (Clopper-Pearson) test of "more than `max_error` of what it accepts is wrong", and the
first that cannot refute this ends the search: fixed-sequence testing, where searching costs no confidence
(Angelopoulos et al. 2021, Learn then Test, https://arxiv.org/abs/2110.01052). Selection with guaranteed risk (Geifman
and El-Yaniv 2017, https://arxiv.org/abs/1705.08500) promises the same, but divides the confidence among all thresholds
that it looks at, and accepts less.

The thresholds are the images' own probabilities, and a test counts the images strictly above. Given their threshold
these are independent draws from what it accepts, so that each test is exact; that of the whole search is where errors
grow more frequent as the probability falls.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from imgbench.evaluation.novelty import apart
from imgbench.evaluation.predictions import Predictions
from imgbench.number import Number, group_codes, share

RISK = 0.05  # that the promise is broken: it has 95 % confidence
UNLIKE = 0.05  # share of images like those of validation that may be taken for unlike them
ERRORS = (0.01, 0.02, 0.05, 0.1)  # of each, it is said how much has to be left unsure
FEWEST = 20  # validation images, from which it can be told what is unlike them
FARTHEST = 0.01  # the same where nothing is promised: these are called unlike whatever else is asked


@dataclass(frozen=True)
class Selection:
    """Which predictions are accepted: of images nearer than `limit`, with a probability above `threshold`.

    `threshold` is None where none can be promised; then `errors` among the `surest` images are what stands against it.
    """

    max_error: float
    threshold: float | None
    limit: float
    images: int  # independent validation images nearer than the limit, one of each group
    surest: int  # of these, with the highest probabilities: what the last test counted
    errors: int
    coverage: Number  # share of all validation images that is accepted
    refuted: tuple[int, int] | None = None  # wrong, and accepted, of the test images, where these stand against it

    def to_dict(self) -> dict[str, Any]:
        """As an ONNX file says it: JSON knows no infinity, which is None, or 0 of a threshold that accepts all."""
        limit = None if math.isinf(self.limit) else self.limit
        threshold = None if self.threshold is None else max(self.threshold, 0.0)
        refuted = self.refuted and list(self.refuted)
        coverage = self.coverage.to_dict()
        return {**vars(self), "threshold": threshold, "limit": limit, "coverage": coverage, "refuted": refuted}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Selection":
        """Reads `to_dict`."""
        limit = math.inf if content["limit"] is None else content["limit"]
        refuted = tuple(content["refuted"]) if content["refuted"] else None
        coverage = Number.from_dict(content["coverage"])
        return cls(**{**content, "limit": limit, "coverage": coverage, "refuted": refuted})

    def accepts(self, probabilities: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """(N,) bool, of the highest probability of each image and its distance from the training images (N,)."""
        return _accepted(probabilities, distances, self.threshold, self.limit)


def _accepted(probabilities: np.ndarray, distances: np.ndarray, threshold: float | None, limit: float) -> np.ndarray:
    if threshold is None:
        return np.zeros(len(probabilities), bool)
    return (probabilities > threshold) & (distances < limit)


def select(validation: Predictions, distances: np.ndarray, max_error: float) -> Selection:
    """Accepts as much as can be promised, with 95 % confidence, to be wrong in a share of at most `max_error`.

    The promise is for new images drawn as the validation images were. Images of a group are not independent, so one of
    each group is counted, drawn at random: the promise then is for an image of a new group.

    Args:
        distances: (N,) of each validation image from the training images. Those from the limit on, `UNLIKE` of them at
            most, are not accepted whatever their probability.
    """
    rows = one_of_each_group(validation.groups)
    limit = distance_limit(distances[rows])
    # Given the limit, one of the distances, those below it are independent draws from all images below it.
    rows = rows[distances[rows] < limit]
    probabilities = validation.probabilities.max(1)
    wrong = validation.predicted != validation.targets
    threshold, surest, errors = search_threshold(probabilities[rows], wrong[rows], max_error)
    accepted = _accepted(probabilities, distances, threshold, limit)
    coverage = share(accepted, np.ones(len(wrong), bool), group_codes(validation.groups))
    return Selection(max_error, threshold, limit, len(rows), surest, errors, coverage)


def checked(selection: Selection, test: Predictions) -> Selection:
    """Without its threshold, where of the test images that it accepts more are wrong than its promise and chance allow.

    Photographs to come may be as unlike the validation images as the test images are. One image of each group is
    counted, and the distances from the training images are not looked at.
    """
    if selection.threshold is None:
        return selection
    rows = one_of_each_group(test.groups)
    rows = rows[test.probabilities.max(1)[rows] > selection.threshold]
    errors = int((test.predicted != test.targets)[rows].sum())
    if stats.binom.sf(errors - 1, len(rows), selection.max_error) >= RISK:
        return selection
    return replace(selection, threshold=None, refuted=(errors, len(rows)))


def apart_from(selection: Selection, validation: Predictions, distances: np.ndarray) -> Selection:
    """The same selection, with a threshold and a limit that are not the values of a validation image, but `apart`."""
    threshold = selection.threshold
    if threshold is not None:
        threshold = apart(threshold, validation.probabilities.max(1))
    return replace(selection, threshold=threshold, limit=-apart(-selection.limit, -distances))


def risk_coverage(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the share of images that is left unsure, from nearly all to none, and of the others the share that is wrong.

    The least sure are left first; images that are equally sure stay together.
    """
    confidence = predictions.probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    errors = np.cumsum((predictions.predicted != predictions.targets)[order])
    last = np.append(confidence[order][:-1] > confidence[order][1:], True)
    return 1 - counts[last] / len(order), errors[last] / counts[last]


def novelty_limit(distances: np.ndarray) -> float:
    """Beyond which an image is called unlike those of training: a share of `FARTHEST` of images like these (N,).

    Of fewer than a hundred it lies as far beyond the farthest of them as that is from the one in the middle; of fewer
    than `FEWEST` nothing is called unlike.
    """
    if len(distances) < FEWEST or distances.min() == distances.max():  # as of a model without features
        return math.inf
    limit = distance_limit(distances, FARTHEST)
    return limit if limit < math.inf else float(2 * distances.max() - np.median(distances))


def distance_limit(distances: np.ndarray, share: float = UNLIKE) -> float:
    """What on average at most this share of further images like these (N,) reach; infinite where they are too few.

    The quantile of split conformal prediction (Vovk et al. 2005).
    """
    beyond = int((len(distances) + 1) * share)
    limit = float(np.sort(distances)[-beyond]) if beyond else math.inf
    return limit if (distances < limit).any() else math.inf  # of distances that are all equal


def search_threshold(probabilities: np.ndarray, wrong: np.ndarray, max_error: float) -> tuple[float | None, int, int]:
    """The lowest threshold for which it is sure that at most `max_error` of the predictions above it are wrong.

    Args:
        probabilities: (N,) the highest of each of N independent images.
        wrong: (N,) bool.

    Returns:
        The threshold, -inf where all are accepted and None where there is none; how many images it accepts, or would
        have had to accept; and how many of these are wrong.
    """
    starts = search_starts(len(wrong), max_error)
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.append(probabilities[order], -np.inf)
    counts = np.flatnonzero(ranked[:-1] > ranked[1:]) + 1  # of images above a threshold: equal ones stand together
    errors = np.cumsum(wrong[order])[counts - 1]
    refuted = stats.binom.cdf(errors, counts, max_error) <= RISK / max(len(starts), 1)
    best = -1
    for start in starts:
        first = int(np.searchsorted(counts, start))
        passed = int(np.argmin(np.append(refuted[first:], False)))
        best = max(best, first + passed - 1 if passed else -1)
    if best >= 0:
        return float(ranked[counts[best]]), int(counts[best]), int(errors[best])
    if not starts:
        return None, len(wrong), int(wrong.sum())
    first = int(np.searchsorted(counts, starts[0]))
    return None, int(counts[first]), int(errors[first])


def fewest_images(max_error: float, risk: float = RISK) -> int:
    """How many images without an error promise it."""
    return math.ceil(math.log(risk) / math.log1p(-max_error))


def least_error(images: int) -> float:
    """What so many images without an error promise; near 3 / images (the rule of three)."""
    return 1 - RISK ** (1 / images) if images else 1.0


def search_starts(images: int, max_error: float) -> list[int]:
    """How many images the thresholds accept at which a search starts.

    The fewest that can promise anything may hold one error, and the search would end before it began; so there are
    further searches from twice as many, four times, ... as far as images suffice. They share the confidence.
    """
    starts: list[int] = []
    while (first := fewest_images(max_error, RISK / (len(starts) + 1))) * 2 ** len(starts) <= images:
        starts = [first * 2**i for i in range(len(starts) + 1)]
    return starts


def one_of_each_group(groups: Sequence[str], seed: int = 0) -> np.ndarray:
    """Rows of one image of each group, drawn at random; an image without a group is one of its own."""
    order = np.random.default_rng(seed).permutation(len(groups))
    _, first = np.unique(group_codes(groups)[order], return_index=True)
    return np.sort(order[first])
