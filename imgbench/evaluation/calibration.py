"""Whether probabilities can be believed, and what mends them: bins, temperature, and a threshold to act upon."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy import stats
from scipy.special import softmax

from imgbench.evaluation.predictions import Predictions
from imgbench.number import (
    Number,
    group_codes,
    group_sums,
    mean_of_images,
    number_if_alike,
    share,
    student_quantile,
)

BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose highest probability lies between the edges of a bin."""

    confidence: float  # its mean over them
    accuracy: Number


def _bins(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the highest probability of each image, and the number of its bin of `BINS` of equal width."""
    confidence = probabilities.max(1).astype(float)
    return confidence, np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def reliability(predictions: Predictions) -> list[ReliabilityBin]:
    """Confidence and accuracy of the bins that have images, what a reliability diagram shows."""
    confidence, bins = _bins(predictions.probabilities)
    correct = predictions.predicted == predictions.targets
    codes = group_codes(predictions.groups)
    found = []
    for i in np.unique(bins):
        mean = float(confidence[bins == i].mean())
        found.append(ReliabilityBin(mean, share(correct, bins == i, codes)))
    return found


def calibration_error(
    probabilities: np.ndarray, targets: np.ndarray, codes: np.ndarray, draws: int = 2000, seed: int = 0
) -> Number:
    """Expected calibration error: the mean distance of accuracy from confidence in bins (Guo et al. 2017).

    Chance alone moves accuracies away from confidence, the more the fewer images there are, so a perfectly calibrated
    model has an error too: `if_calibrated` is what it would have. In the bins the differences of correct and confidence
    sum to a vector S, nearly normal around the true one, with the covariance of the groups' sums; the error is |S|, the
    sum of absolute values. The interval begins at the least |t S| for which |t S + noise| reaches what was found in
    2.5 % of draws, which is 0 where a calibrated model would do. It ends a Student's interval above the value, which is
    too high rather than too low already: so it holds the true error in at least 95 % of cases, not in just as many.
    """
    confidence, bins = _bins(probabilities)
    correct = probabilities.argmax(1) == targets
    differences = (correct - confidence) / len(targets)
    by_group = np.stack([group_sums(differences * (bins == i), codes) for i in np.unique(bins)], 1)  # (G, bins)
    sums, groups = by_group.sum(0), len(by_group)
    value = float(np.abs(sums).sum())
    if groups < 2:
        return Number(value, 0.0, 1.0, len(targets), groups)
    centred = by_group - sums / groups
    covariance = centred.T @ centred * groups / (groups - 1) + np.diag(_unseen_variance(bins, correct, codes))
    roots, directions = np.linalg.eigh(covariance)
    normal = np.random.default_rng(seed).standard_normal((draws, len(sums)))
    noise = (normal * np.sqrt(np.maximum(roots, 0))) @ directions.T
    low = _least_length(sums, noise)
    signs = np.where(sums < 0, -1, 1)
    half = float(stats.t.ppf(0.975, groups - 1) * np.sqrt(signs @ covariance @ signs))
    expected = float(np.abs(noise).sum(1).mean())
    return Number(value, low, min(value + half, 1.0), len(targets), groups, if_calibrated=expected)


def _unseen_variance(bins: np.ndarray, correct: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """For each bin that has images, all of them right or all wrong, the variance that half an error more would show."""
    unseen = []
    for i in np.unique(bins):
        inside = bins == i
        size = float(number_if_alike(np.bincount(codes[inside])))
        missed = 0.5 / (size + 1)
        unanimous = correct[inside].all() or not correct[inside].any()
        unseen.append(inside.mean() ** 2 * missed * (1 - missed) / size if unanimous else 0)
    return np.array(unseen)


def _least_length(sums: np.ndarray, noise: np.ndarray) -> float:
    """The least |t S| for which |t S + noise| reaches |S| in 2.5 % of the draws; |.| is the sum of absolute values."""
    value = float(np.abs(sums).sum())

    def reaching(t: float) -> float:
        return float((np.abs(t * sums + noise).sum(1) >= value).mean()) - 0.025

    return 0.0 if reaching(0) >= 0 else value * _crossing(reaching, 0, 1)


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that grows becomes positive, to 1e-6; an end of the interval where it does not."""
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2


def brier_score(probabilities: np.ndarray, targets: np.ndarray, codes: np.ndarray) -> Number:
    """Half the squared distance of the probabilities from the truth, 0 to 1; of two classes that of either (Brier)."""
    truth = np.eye(probabilities.shape[1])[targets]
    return replace(mean_of_images(((probabilities - truth) ** 2).sum(1) / 2, codes), percent=False)


@dataclass(frozen=True)
class TemperatureScaling:
    """Logits divided by a temperature (Guo et al. 2017): above 1 a model was too sure of itself."""

    temperature: float

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (N, num_classes) as they would be."""
        return softmax(_log(probabilities) / self.temperature, 1)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(float), 1e-38))  # what float32 rounded to 0


def fit_temperature(predictions: Predictions) -> Number:
    """The temperature of the highest likelihood, from 0.05 to 20.

    Its interval is where twice what the log-likelihood loses stays below Student's square, times the ratio of the
    groups' squared scores to the curvature, which is 1 for independent images and an exact model (White 1982).
    """
    logits, targets = _log(predictions.probabilities), predictions.targets
    own = logits[np.arange(len(targets)), targets]

    def scores(x: float) -> np.ndarray:
        """(N,) the derivatives of the images' losses by the inverse temperature exp(x)."""
        return (softmax(np.exp(x) * logits, 1) * logits).sum(1) - own

    def loss(x: float) -> float:
        return -float(_log(softmax(np.exp(x) * logits, 1)[np.arange(len(targets)), targets]).sum())

    limit = float(np.log(20))
    best = _crossing(lambda x: float(scores(x).sum()), -limit, limit)
    q = softmax(np.exp(best) * logits, 1)
    curvature = float(((q * logits**2).sum(1) - (q * logits).sum(1) ** 2).sum())
    by_group = group_sums(scores(best), group_codes(predictions.groups))
    groups = len(by_group)
    low, high = -limit, limit
    if groups > 1 and curvature > 0:
        # Half of Student's square is what the likelihood may lose where images are independent and the model is exact.
        ratio = (by_group**2).sum() * groups / (groups - 1) / curvature
        allowed = float(student_quantile(by_group) ** 2 / 2 * ratio)
        least = loss(best)
        low = _crossing(lambda x: least + allowed - loss(x), low, best)
        high = _crossing(lambda x: loss(x) - least - allowed, best, high)
    temperature, low, high = (float(np.exp(-x)) for x in (best, high, low))
    return Number(temperature, low, high, len(targets), groups, percent=False)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the probability of one class, chosen on validation images and measured on others."""

    class_name: str
    threshold: float
    validation_images: int  # of the class; the threshold was chosen on them
    validation_groups: int
    sensitivity: Number
    specificity: Number
    precision: Number


def threshold_for_sensitivity(validation: Predictions, positive: int, sensitivity: float) -> float | None:
    """The highest threshold at which a further image of the class is found with this probability; None: too few images.

    It leaves out the (n + 1)(1 - sensitivity) lowest of n scores, which is what keeps the promise on average over new
    images (split conformal prediction, Vovk et al. 2005), where the quantile of the n itself falls short.
    """
    scores = np.sort(validation.probabilities[validation.targets == positive, positive])
    rank = int((len(scores) + 1) * (1 - Fraction(str(sensitivity))))
    return float(scores[rank - 1]) if rank >= 1 else None


def operating_point(
    validation: Predictions, test: Predictions, positive: int, sensitivity: float
) -> OperatingPoint | None:
    """What the threshold for this sensitivity of a class amounts to; None: too few validation images."""
    threshold = threshold_for_sensitivity(validation, positive, sensitivity)
    if threshold is None:
        return None
    chosen_on = share(validation.targets == positive, validation.targets == positive, group_codes(validation.groups))
    codes = group_codes(test.groups)
    found, true = test.probabilities[:, positive] >= np.float32(threshold), test.targets == positive
    return OperatingPoint(
        test.class_names[positive],
        threshold,
        chosen_on.n,
        chosen_on.groups,
        share(found, true, codes),
        share(~found, ~true, codes),
        share(true, found, codes),
    )
