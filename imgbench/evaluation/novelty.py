"""How far images lie from those that a network was trained on, by its features."""

from dataclasses import dataclass

import numpy as np

# Directions that are told apart, those of the largest variances. With all of them, files of networks with thousands of
# features would be twice as large, and pictures of other kinds hardly better told: see notebooks/results.md.
MOST = 128
LEAST = 1e-10  # smaller shares, of the largest variance or of shrinkage, are rounding errors


@dataclass(frozen=True)
class FeatureDistribution:
    """The normal distribution of the features of training images; what lies far out is unlike them.

    The distance is that of Mahalanobis, as in Lee et al. 2018 (https://arxiv.org/abs/1807.03888) but from one mean
    instead of one of each class: so it needs no labels, and classes of few images do no harm.

    N images vary in at most N directions, and what is known of these is all there is: the covariance and its inverse,
    which of thousands of features would take longer than to solve for a last layer, are never computed.
    """

    mean: np.ndarray  # (D,) float32
    directions: np.ndarray  # (R, D) float32, orthonormal
    precisions: np.ndarray  # (R,) float32, inverses of the variances in these directions
    elsewhere: float  # inverse of the variance in all other directions; 0: they do not count

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureDistribution":
        """Fitted to (N, D), where N may be less than D.

        The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004, "A well-conditioned
        estimator for large-dimensional covariance matrices", lemma 3.3 for the amount).
        """
        number, size = features.shape
        mean = features.mean(0, dtype=np.float64)
        centred = features - mean
        if number < size:  # the smaller of two products has all that the other has
            variances, mixtures = np.linalg.eigh(centred @ centred.T / number)
            directions = mixtures.T @ centred
        else:
            variances, mixtures = np.linalg.eigh(centred.T @ centred / number)
            directions = mixtures.T
        varying = variances > LEAST * max(variances[-1], np.finfo(np.float32).tiny)
        variances, directions = variances[varying], directions[varying]
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)

        average = variances.sum() / size
        squares = (variances**2).sum()
        spread = squares / size - average**2  # of the variances in all directions
        noise = ((centred**2).sum(1) ** 2).sum() / number - squares
        shrinkage = min(noise / (number * size * spread), 1.0) if spread > 0 else 0.0
        floor = shrinkage * average if shrinkage > LEAST else 0.0
        rest = variances[:-MOST].sum() / max(size - MOST, 1)  # on average over the directions that are not told apart
        rest = (1 - shrinkage) * rest + floor
        precisions = 1 / ((1 - shrinkage) * variances[-MOST:] + floor)
        arrays = (array.astype(np.float32) for array in (mean, directions[-MOST:], precisions))
        return cls(*arrays, elsewhere=1 / rest if rest > 0 else 0.0)

    @classmethod
    def of_precision(cls, mean: np.ndarray, precision: np.ndarray) -> "FeatureDistribution":
        """Of a mean (D,) and the inverse of a covariance (D, D)."""
        precisions, directions = np.linalg.eigh(precision.astype(float))
        return cls(mean, directions.T, np.maximum(precisions, 0), 0.0)

    @property
    def is_whole(self) -> bool:
        """Whether the arrays fit each other."""
        shapes = [np.shape(array) for array in (self.mean, self.directions, self.precisions, self.elsewhere)]
        return shapes == [(self.mean.size,), (self.precisions.size, self.mean.size), (self.precisions.size,), ()]

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(N,) of features (N, D)."""
        centred = features.astype(float) - self.mean
        along = centred @ self.directions.T  # (N, R)
        rest = centred - along @ self.directions
        return np.sqrt(along**2 @ self.precisions + self.elsewhere * (rest**2).sum(1))


def apart(value: float, values: np.ndarray) -> float:
    """The middle between one of these values and the next above it; any other value as it is.

    What is compared with one of them would fall to either side of it, as a runtime rounds, where it is computed again.
    """
    above = values[values > value]
    return (value + float(above.min())) / 2 if value in values and above.size else value
