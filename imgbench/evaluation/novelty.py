"""How far images lie from those that a network was trained on, by its features."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureDistribution:
    """The normal distribution of the features of training images; what lies far out is unlike them.

    The distance is that of Mahalanobis, as in Lee et al. 2018 (https://arxiv.org/abs/1807.03888) but from one mean
    instead of one of each class: so it needs no labels, and classes of few images do no harm.
    """

    mean: np.ndarray  # (D,) float32
    precision: np.ndarray  # (D, D) float32, the inverse of the covariance

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureDistribution":
        """Fitted to (N, D), where N may be less than D: the covariance is shrunk (Ledoit and Wolf 2004)."""
        from sklearn.covariance import ledoit_wolf  # scikit-learn takes a second to import

        values = features.astype(float)
        covariance, _ = ledoit_wolf(values)
        return cls(values.mean(0).astype(np.float32), np.linalg.pinv(covariance, hermitian=True).astype(np.float32))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(N,) of features (N, D)."""
        centred = features.astype(float) - self.mean
        return np.sqrt(np.maximum(((centred @ self.precision) * centred).sum(1), 0))
