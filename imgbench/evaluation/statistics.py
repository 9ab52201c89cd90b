"""Whether two configurations differ: paired tests on the same images, tests over runs, and their correction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from imgbench.number import Number

DRAWS = 10_000  # of a permutation test; its smallest p value is 1 / (DRAWS + 1)
BATCH = 500  # draws that are in memory at once


@dataclass(frozen=True)
class Change:
    """From one run to another on the same test images."""

    first: Number
    second: Number
    difference: Number  # the accuracy of the second minus that of the first
    p: float
    distinguishable: bool


def mcnemar(correct: np.ndarray, reference: np.ndarray) -> float:
    """The exact two-sided p value for two classifiers on the same independent images (N,) bool (McNemar 1947).

    Of the images that only one of them has right, each has half of them by chance.
    """
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def permutation_test(differences: np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """The two-sided p value of a sum of differences (G,) between two classifiers, one for each independent group.

    Were both alike, each difference could as well have the other sign. All ways are tried where there are no more of
    them than draws.
    """
    differences = differences[differences != 0]
    if len(differences) < 2:  # whose other sign is as far from 0
        return 1.0

    def distance(values: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(values.sum(axis)).round(9)  # rounding errors shall not part what is equal

    return _over_signs(differences, distance, draws, seed)


def exchange_test(
    first: np.ndarray,
    second: np.ndarray,
    metric: Callable[[np.ndarray], np.ndarray],
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """The two-sided p value of the difference of a metric of counts (G, D) that each independent group adds to.

    Were both classifiers alike, their answers to each group could as well be exchanged: "approximate randomization"
    (Noreen 1989; for F1 Yeh 2000, https://aclanthology.org/C00-2137). All ways are tried where there are no more of
    them than draws.

    Args:
        metric: of sums of counts (..., D).
    """
    half = (first - second) / 2
    differ = half.any(1)
    half, mean = half[differ], (first.sum(0) + second.sum(0)) / 2
    if len(half) < 2:
        return 1.0

    def distance(values: np.ndarray, axis: int) -> np.ndarray:
        exchanged = np.sign(np.moveaxis(values, axis, -1)) @ half
        return np.abs(metric(mean + exchanged) - metric(mean - exchanged)).round(9)

    return _over_signs(np.arange(1.0, len(half) + 1), distance, draws, seed)


def _over_signs(values: np.ndarray, distance: Callable[[np.ndarray, int], np.ndarray], draws: int, seed: int) -> float:
    """How often the values with other signs are as far from 0 as these."""
    found = stats.permutation_test(
        (values,), distance, permutation_type="samples", vectorized=True, n_resamples=draws,
        alternative="greater", batch=BATCH, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def difference_test(difference: float, variance: float, freedom: float) -> float:
    """The two-sided p value of a difference by Student's t test; of two AUROCs, that of DeLong et al. (1988)."""
    if variance < 1e-24:
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(difference) / np.sqrt(variance), freedom))


def means_test(first: Sequence[float], second: Sequence[float], paired: bool = False) -> float:
    """The two-sided p value for accuracies of runs: Welch's t test over seeds, Student's over folds that are paired.

    1 where a side has a single run, from which nothing is learnt of how much runs vary.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if min(len(a), len(b)) < 2:
        return 1.0
    difference = a.mean() - b.mean()
    if paired:
        variance, freedom = (a - b).var(ddof=1) / len(a), float(len(a) - 1)
    else:
        parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
        variance = parts.sum()
        freedom = variance**2 / (parts**2 / [len(a) - 1, len(b) - 1]).sum() if variance else 1.0
    return difference_test(difference, variance, freedom)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p values: one false alarm among all tests is then as rare as in a single one (Holm 1979)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
