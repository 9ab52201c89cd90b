"""How well scores rank the images of a class above the others: area under the ROC curve and average precision.

Both come with how much more they are for each image (the derivative by its weight). Intervals rest on that.
"""

import numpy as np
from scipy import stats


def auroc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The probability that a positive image scores above a negative one, ties being half; and (N,) its components.

    DeLong et al. 1988, https://doi.org/10.2307/2531595
    """
    ranks = stats.rankdata(scores)
    beaten = np.empty(len(scores))  # the share of the images of the other kind that are on the right side of it
    there, others = int(positive.sum()), int((~positive).sum())
    beaten[positive] = (ranks[positive] - stats.rankdata(scores[positive])) / others
    beaten[~positive] = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / there
    value = float(beaten[positive].mean())
    return value, (beaten - value) / np.where(positive, there, others)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean, over the positive images, of the precision among all that score as high; and (N,) its derivatives."""
    order = np.argsort(-scores, kind="stable")
    hit, falling = positive[order], -scores[order]
    first = np.searchsorted(falling, falling, side="left")  # of the images of the same score
    seen = np.searchsorted(falling, falling, side="right")
    hits, there = np.cumsum(hit)[seen - 1], int(positive.sum())
    precision = hits / seen
    value = float(precision[hit].mean())

    def sum_from_here(values: np.ndarray) -> np.ndarray:
        """Over the positive images that score no higher."""
        return np.cumsum(np.where(hit, values, 0)[::-1])[::-1][first]

    gains = np.where(hit, precision - value + sum_from_here((seen - hits) / seen**2), -sum_from_here(hits / seen**2))
    additions = np.empty(len(scores))
    additions[order] = gains / there
    return value, additions
