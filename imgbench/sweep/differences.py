"""How far two configurations differ on the same test images, whether chance explains it, and on which images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from imgbench.evaluation.statistics import (
    difference_test,
    exchange_test,
    holm,
    mcnemar,
    means_test,
    permutation_test,
)
from imgbench.number import Number, group_codes, group_sums, paired_difference, variance_of_classes
from imgbench.sweep.configurations import Answers, Configuration, Image, Metric

LEVEL = 0.05  # adjusted p values below it count as a difference


@dataclass(frozen=True)
class Difference:
    """Of two configurations: the metric of the first minus that of the second, on the same images."""

    first: str
    second: str
    number: Number
    tests: tuple[str, ...]  # their names in the catalogue; p is the largest of theirs
    p: float
    adjusted: float  # for the number of pairs (Holm)

    @property
    def distinguishable(self) -> bool:
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Disagreement:
    """A photograph that most runs of one configuration have right, and of the other by more than half fewer."""

    image: Image
    target: str
    first: Answers
    second: Answers

    @property
    def first_is_right(self) -> bool:
        return self.first.right > self.second.right


def differences_of(configurations: Sequence[Configuration], metric: Metric) -> list[Difference]:
    """Of all pairs that were tested on the same images."""
    pairs = [(a, b) for a, b in combinations(configurations, 2) if a.test_sets == b.test_sets]
    found = [_difference(a, b, metric) for a, b in pairs]
    adjusted = holm([p for _, _, p in found])
    return [
        Difference(a.name, b.name, number, tests, p, float(corrected))
        for (a, b), (number, tests, p), corrected in zip(pairs, found, adjusted, strict=True)
    ]


def disagreements(a: Configuration, b: Configuration) -> list[Disagreement]:
    """The images on which one is right and the other wrong; first those about which they are most of another mind."""
    targets = {
        image: tested.predictions.class_names[target]
        for tested in a.runs
        for image, target in zip(tested.images, tested.predictions.targets, strict=True)
    }
    theirs = b.answers
    found = [
        Disagreement(image, targets[image], ours, theirs[image])
        for image, ours in a.answers.items()
        if image in theirs and abs(ours.right - theirs[image].right) > 0.5
    ]
    return sorted(found, key=lambda one: (-abs(one.first.probability - one.second.probability), one.image))


def _difference(a: Configuration, b: Configuration, metric: Metric) -> tuple[Number, tuple[str, ...], float]:
    """The metric of `a` minus that of `b` with its 95 % interval, the tests, and their p value.

    Where both have several runs, the difference has to be larger than both the choice of images and that of the seeds
    explain: p is the larger one of the two tests, and the interval has the variances of both.
    """
    images, groups = list(a.correct), a.groups
    codes = group_codes([groups[image] for image in images])
    independent = len(np.unique(codes)) == len(codes)
    if metric == "acc":
        x, y = (np.array([one.correct[image] for image in images]) for one in (a, b))
        if len(a.runs) == len(b.runs) == 1 and independent:
            return paired_difference(x == 1, y == 1), ("compare_mcnemar",), mcnemar(x == 1, y == 1)
        value, variance, freedom, p = _by_images(x, y, codes)
    else:
        value, variance, freedom, p = _by_classes(a, b, metric, images, codes)
    tests = [
        "compare_delong"
        if metric == "auroc"
        else "compare_permutation_image"
        if independent
        else "compare_permutation_group"
    ]
    count = int(codes.max()) + 1
    if min(len(a.values(metric)), len(b.values(metric))) > 1:
        by_fold = a.folds and b.folds
        first, second = a.values(metric), b.values(metric)
        if by_fold:
            order = [dict(zip((t.repetition for t in c.runs), c.values(metric), strict=True)) for c in (a, b)]
            shared = [key for key in order[0] if key in order[1]]
            first, second = ([values[key] for key in shared] for values in order)
        p = max(p, means_test(first, second, paired=by_fold))
        tests.append("compare_over_folds" if by_fold else "compare_over_seeds")
        if not by_fold:
            parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
            terms = [(variance, freedom), *((part, len(c.runs) - 1) for part, c in zip(parts, (a, b), strict=True))]
            total = variance + sum(parts)
            weights = sum(term**2 / max(f, 1) for term, f in terms)
            freedom, variance = (total**2 / weights if weights else freedom), total
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    number = Number(
        value, max(value - half, -1.0), min(value + half, 1.0), len(images), count, percent=metric != "auroc"
    )
    return number, tuple(tests), p


def _by_images(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> tuple[float, float, float, float]:
    """Difference of the means (N,), its variance with the degrees of freedom, and the p value."""
    sums = group_sums(x - y, codes)
    count, value = len(sums), float((x - y).mean())
    centred = group_sums(x - y - value, codes)
    variance = (centred**2).sum() * count / max(count - 1, 1) / len(x) ** 2
    return value, variance, float(max(count - 1, 1)), permutation_test(sums)


def _by_classes(
    a: Configuration, b: Configuration, metric: Metric, images: Sequence[Image], codes: np.ndarray
) -> tuple[float, float, float, float]:
    """As `_by_images`, of a mean over classes."""
    predictions, of = a.parts[0]
    target = dict(zip(of, predictions.targets.tolist(), strict=True))
    targets = np.array([target[image] for image in images])
    value = a.metrics[metric].value - b.metrics[metric].value
    additions = a.additions(metric, images) - b.additions(metric, images)
    variance, freedom = variance_of_classes(additions, targets, codes)
    if metric == "auroc":
        p = difference_test(value, variance, freedom) if codes.max() else 1.0
        return value, variance, freedom, p
    if metric == "macro_f1":
        return value, variance, freedom, exchange_test(a.f1_counts(images, codes), b.f1_counts(images, codes), _f1)
    # Of the recalls' mean, an image has the weight 1 / (classes * images of its class).
    classes, class_of, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    x, y = (np.array([one.correct[image] for image in images]) for one in (a, b))
    weighted = (x - y) / (len(classes) * sizes[class_of])
    return value, variance, freedom, permutation_test(group_sums(weighted, codes))


def _f1(counts: np.ndarray) -> np.ndarray:
    """Macro F1 of counts (..., 2K), see `Configuration.f1_counts`."""
    right, both = np.split(counts, 2, axis=-1)
    return (2 * right / np.maximum(both, 1e-12)).mean(-1)
