"""Which images a page shows: the most confident mistakes, and the classes that are most often confused."""

from dataclasses import dataclass

import numpy as np

from imgbench.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ConfusedPair:
    """Images of class `true` that are taken for `predicted`."""

    true: int
    predicted: int
    rows: np.ndarray  # the surest first

    @property
    def count(self) -> int:
        return len(self.rows)


def confident_mistakes(predictions: Predictions, number: int) -> np.ndarray:
    """Rows of at most so many images that are classified wrongly, the surest first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    return wrong[np.argsort(-_confidence(predictions)[wrong], kind="stable")][:number]


def least_sure(predictions: Predictions, number: int) -> np.ndarray:
    """Rows of at most so many images that are classified rightly, the least sure first."""
    right = np.flatnonzero(predictions.predicted == predictions.targets)
    return right[np.argsort(_confidence(predictions)[right], kind="stable")][:number]


def confused_pairs(predictions: Predictions, number: int) -> list[ConfusedPair]:
    """At most so many pairs of classes that are confused, those with most images first."""
    wrong = confident_mistakes(predictions, len(predictions.targets))
    pairs = np.stack([predictions.targets[wrong], predictions.predicted[wrong]], 1)
    kinds, which, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:number]
    return [ConfusedPair(int(kinds[i][0]), int(kinds[i][1]), wrong[which.ravel() == i]) for i in order]


def _confidence(predictions: Predictions) -> np.ndarray:
    return predictions.probabilities.max(1)
