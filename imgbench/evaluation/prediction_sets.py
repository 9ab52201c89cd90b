"""The classes of an image that cannot be ruled out, in place of a single one that may be wrong."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from imgbench.evaluation.calibration import threshold_for_sensitivity
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import one_of_each_group


@dataclass(frozen=True)
class PredictionSets:
    """Sets that hold the class of a further image with a stated probability, whichever class it is of.

    Each class has a threshold of its own, from which on it is in the set: so the promise holds for each class by
    itself, also for a rare one (class-conditional conformal prediction, Vovk 2012, https://arxiv.org/abs/1209.2673). It
    holds on average over validation images that are like the images to come. Of a group one image is taken, so that it
    holds for images of further groups.

    The most probable class is always in the set: where a model is nearly always right, the share of right ones is
    higher than promised, and no set is empty.
    """

    coverage: float
    class_names: list[str]
    thresholds: np.ndarray  # (num_classes,) float32; 0 for a class that is never ruled out
    images: np.ndarray  # (num_classes,) the independent validation images of each class

    @classmethod
    def of(cls, validation: Predictions, coverage: float) -> "PredictionSets":
        chosen = np.zeros(len(validation.paths), bool)
        for label in range(len(validation.class_names)):
            rows = np.flatnonzero(validation.targets == label)
            chosen[rows[one_of_each_group([validation.groups[row] for row in rows])]] = True
        independent = validation.subset(chosen)
        thresholds = [
            threshold_for_sensitivity(independent, label, coverage) for label in range(len(validation.class_names))
        ]
        return cls(
            coverage,
            validation.class_names,
            np.array([threshold or 0 for threshold in thresholds], np.float32),
            np.bincount(independent.targets, minlength=len(validation.class_names)),
        )

    @property
    def never_ruled_out(self) -> list[str]:
        """The classes of which validation has too few images."""
        return [name for name, least in zip(self.class_names, self.thresholds, strict=True) if least == 0]

    def promise(self) -> str:
        """In a sentence, what the sets hold, and where they say nothing."""
        rest = ""
        if names := self.never_ruled_out:
            few = ", ".join(f"{name!r}" for name in names)
            rest = (
                f"\nnever ruled out: {few}, of which there are fewer than {fewest_of_class(self.coverage)} independent "
                "validation images"
            )
        return (
            f"of further photographs of each class, at least {100 * self.coverage:g} % on average have it among the "
            f"classes named first, for photographs like those it was trained on{rest}"
        )

    def members(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., num_classes) bool, of probabilities of that shape."""
        inside = probabilities.astype(np.float32) >= self.thresholds
        return inside | (probabilities == probabilities.max(-1, keepdims=True))

    def names(self, probabilities: np.ndarray) -> list[str]:
        """The classes in the set of one image with these probabilities (num_classes,), the most probable first."""
        inside = self.members(probabilities)
        return [self.class_names[i] for i in np.argsort(-probabilities, kind="stable") if inside[i]]


def fewest_of_class(coverage: float) -> int:
    """How many independent validation images of a class it takes for the class to be ruled out anywhere."""
    return math.ceil(1 / (1 - Fraction(str(coverage)))) - 1
