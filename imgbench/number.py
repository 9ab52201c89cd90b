"""95 % intervals of numbers that rest on images, some of which belong together.

Images of one group (a patient, the copies of a photograph) are not independent. Each number is followed back to what
every group adds to it, and its variance is that of these contributions. Wilson's interval then takes the number of
independent images that would have this variance (Korn and Graubard 1998, Survey Methodology 24, 193). Images without a
group are groups of one. Their proportion has Wilson's own interval.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from imgbench.errors import UserError

Z = float(stats.norm.ppf(0.975))
# How many times as wide as of independent answers: the networks of a cross-validation have learnt from mostly the same
# images. See notebooks/results.md for how often intervals with it and without it hold the truth.
CROSS_VALIDATED = 1.25
FEWEST_WITH_ERRORS = 3  # groups; from fewer it cannot be seen whether errors come together


@dataclass(frozen=True)
class Number:
    """A value with its 95 % interval, and what it rests on.

    Without images (`n` is 0) the value is `math.nan`, and the interval is everything.
    """

    value: float
    low: float
    high: float
    n: int  # images
    groups: int  # of images that are independent of each other
    hits: int | None = None  # of a proportion, how many of the n
    if_calibrated: float | None = None  # of a calibration error, what chance alone would make of it
    percent: bool = True  # whether it is written in per cent
    of_class: str | None = None  # the class that it is about, where its name does not say so

    def of_networks(self, networks: int) -> "Number":
        """With the interval that it has if the images were divided among so many networks of a cross-validation."""
        if networks == 1 or not self.n:
            return self
        low, high = (self.value + CROSS_VALIDATED * (end - self.value) for end in (self.low, self.high))
        return replace(self, low=max(low, min(self.low, 0.0)), high=min(high, max(self.high, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` holds it; what a number does not have is left out."""
        further = {"hits": self.hits, "if_calibrated": self.if_calibrated, "percent": None if self.percent else False,
                   "class": self.of_class}  # fmt: skip
        return {
            "value": None if math.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "groups": self.groups,
            **{name: value for name, value in further.items() if value is not None},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Number":
        """Reads `to_dict`; entries of another version are passed over, and missing groups are single images.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if not all(math.isfinite(content.get(name, 0)) for name in ("n", "groups")):
            raise ValueError("a number of images is none")
        value, n = content["value"], int(content["n"])
        return cls(
            math.nan if value is None else float(value),
            float(content["low"]),
            float(content["high"]),
            n,
            int(content.get("groups", n)),
            content.get("hits"),
            content.get("if_calibrated"),
            content.get("percent", True),
            content.get("class"),
        )


def read_metrics(path: Path) -> dict[str, Number]:
    """The numbers of a `metrics.json` by their names.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged.
    """
    try:
        return {name: Number.from_dict(content) for name, content in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged: {reason}. Restore it from a copy, or train again.") from error


def group_codes(groups: Sequence[str]) -> np.ndarray:
    """(N,) the number of each image's group, from 0; an image without a group is one of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(groups)], np.int64)


def group_sums(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(G,) the sum of the values (N,) of each group's images."""
    return np.bincount(codes, np.asarray(values, float))


def wilson(value: Any, n: Any) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a proportion of n, elementwise; unlike p +- 1.96 s it holds near 0 and 1.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    value, n = np.asarray(value, float), np.asarray(n, float)
    some = np.where(n > 0, n, 1)
    center = (value + Z**2 / (2 * some)) / (1 + Z**2 / some)
    variance = np.maximum(value * (1 - value), 0) / some + Z**2 / (4 * some**2)
    half = Z / (1 + Z**2 / some) * np.sqrt(variance)
    # At 0 and 1 the interval ends there exactly; rounding must not leave it short. Of nothing it is everything.
    low = np.where((value <= 0) | (n <= 0), 0, np.clip(center - half, 0, 1))
    high = np.where((value >= 1) | (n <= 0), 1, np.clip(center + half, 0, 1))
    return low, high


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """The interval of so many successes of n independent trials."""
    low, high = wilson(successes / n if n else 0, n)
    return float(low), float(high)


def share(hits: np.ndarray, counted: np.ndarray, codes: np.ndarray) -> Number:
    """The proportion of hits (N,) bool among the images that are counted (N,) bool."""
    hits = hits & counted
    successes, sizes = group_sums(hits, codes), group_sums(counted, codes)
    there = sizes > 0
    low, high = ratio_interval(successes[there], sizes[there])
    number, n = int(hits.sum()), int(counted.sum())
    return Number(number / n if n else math.nan, float(low), float(high), n, int(there.sum()), number)


def ratio_interval(successes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a proportion, of the successes and images (..., G) of each group; no group is empty.

    Where too few groups have an error (or, of a proportion near 0, a success) to see whether errors come together, it
    is taken that all images of a group are alike.
    """
    total = sizes.sum(-1)
    value = successes.sum(-1) / np.maximum(total, 1)
    additions = (successes - value[..., None] * sizes) / np.maximum(total, 1)[..., None]
    alike = number_if_alike(sizes)
    seen = np.minimum((successes < sizes).sum(-1), (successes > 0).sum(-1))
    # Images of a group cannot be worth less than if they are all alike.
    effective = np.maximum(effective_number(value, additions), alike)
    return wilson(value, np.where(seen < FEWEST_WITH_ERRORS, alike, effective))


def number_if_alike(sizes: np.ndarray) -> np.ndarray:
    """How many independent images groups of sizes (..., G) are worth, if those of a group are all alike.

    Kish 1965, Survey Sampling: that of groups of equal size is their number.
    """
    return sizes.sum(-1) ** 2 / np.maximum((sizes**2).sum(-1), 1)


def effective_number(
    value: np.ndarray, additions: np.ndarray, unseen: float = 0, exact_variance: bool = False
) -> np.ndarray:
    """How many independent images a number between 0 and 1 is worth; 0 where it has no variance.

    Args:
        additions: (..., G) what each group adds to the value over its expectation: they sum to 0.
        unseen: a further variance.
        exact_variance: the variance is no estimate, but follows from the value, as that of independent counts does.
    """
    count = additions.shape[-1]
    if count < 2:
        return np.zeros_like(value)
    squares = (additions**2).sum(-1)
    variance = squares * count / (count - 1) + unseen
    factor = 1.0
    if not exact_variance:
        factor = (Z / student_quantile(additions)) ** 2
    return np.where(variance > 0, value * (1 - value) * factor / np.where(variance > 0, variance, 1), 0)


def student_quantile(additions: np.ndarray) -> np.ndarray:
    """Student's 97.5 % quantile for what the groups (..., G), two or more, add to a number; for the normal one."""
    return stats.t.ppf(0.975, degrees_of_freedom(additions))


def degrees_of_freedom(additions: np.ndarray) -> np.ndarray:
    """Of the variance that what the groups (..., G), two or more, add to a number is an estimate of.

    It is as good as that of so many normal values as its own spread tells (Satterthwaite 1946).
    """
    count = additions.shape[-1]
    relative = additions**2 / np.maximum((additions**2).sum(-1, keepdims=True), 1e-300)
    spread = (relative**2).sum(-1) - 1 / count
    freedom = 2 / np.maximum(spread, 1e-12)
    return np.clip(freedom, min(2, count - 1), count - 1)


def mean_of_classes(
    values: np.ndarray, additions: np.ndarray, targets: np.ndarray, codes: np.ndarray, counts: bool = False
) -> Number:
    """The mean of a number between 0 and 1 over the classes that have images.

    Args:
        values: (K,) the number of each class.
        additions: (N,) how much more the mean is for each image: its derivative by the image's weight.
        targets: (N,) class of each image. How many images a class has is taken as given.
        counts: the number is made of counts alone.
    """
    classes, class_of = np.unique(targets, return_inverse=True)
    images = np.bincount(class_of)
    totals = _within_classes(additions, class_of, codes)
    independent = len(totals) == len(targets)
    sizes = images.astype(float)
    if not independent:
        sizes = np.array([number_if_alike(np.bincount(codes[class_of == i])) for i in range(len(classes))])
    # In a class that is all right (or all wrong) no variance is seen; it gets that of half an error more.
    missed = 0.5 / (sizes + 1)
    unseen = (missed * (1 - missed) / sizes)[(values <= 0) | (values >= 1)].sum() / len(values) ** 2
    value = float(values.mean())
    if_equal = len(values) ** 2 / (1 / sizes).sum()  # what the images are worth if the classes are equally hard
    if value in (0, 1):
        effective = if_equal
    else:
        exact = counts and independent
        effective = effective_number(np.asarray(value), totals, unseen, exact)
        if not counts:
            # Unlike a mean of counts, it comes arbitrarily near to 1, where hardly any variance is left to divide by:
            # what was not seen must not outweigh what was.
            effective = max(effective, min(effective_number(np.asarray(value), totals, 0, exact), if_equal))
    low, high = wilson(value, effective)
    return Number(value, float(low), float(high), len(targets), len(totals))


def _within_classes(additions: np.ndarray, class_of: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(G,) what each group adds to a number over its expectation, where the size of each class is given."""
    images = np.bincount(class_of)
    centred = additions - (np.bincount(class_of, additions) / images)[class_of]
    centred *= np.sqrt(images / np.maximum(images - 1, 1))[class_of]
    return group_sums(centred, codes)


def variance_of_classes(additions: np.ndarray, targets: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Of a difference of two means over classes (see `mean_of_classes`): its variance and the degrees of freedom."""
    totals = _within_classes(additions, np.unique(targets, return_inverse=True)[1], codes)
    count = len(totals)
    if count < 2:  # of which nothing can be told: with this the interval is everything
        return 1.0, 1.0
    return float((totals**2).sum()) * count / (count - 1), float(degrees_of_freedom(totals))


def mean_of_images(values: np.ndarray, codes: np.ndarray) -> Number:
    """The mean of values (N,) between 0 and 1."""
    value, n = float(values.mean()), len(values)
    effective = float(effective_number(np.asarray(value), group_sums((values - value) / n, codes)))
    low, high = wilson(value, effective or float(number_if_alike(np.bincount(codes))))
    return Number(value, float(low), float(high), n, int(codes.max()) + 1)


def standard_error(values: np.ndarray, codes: np.ndarray) -> float:
    """Of the mean of values (N,). Those of one group are not independent."""
    sums = group_sums(values - values.mean(), np.unique(codes, return_inverse=True)[1])
    return float(np.sqrt((sums**2).sum() * len(sums) / max(len(sums) - 1, 1))) / len(values)


def grouped_difference(correct: np.ndarray, reference: np.ndarray, codes: np.ndarray) -> Number:
    """As `paired_difference`; where images of one group are not independent, with Student's interval over groups."""
    groups = len(np.unique(codes))
    if groups == len(codes):
        return paired_difference(correct, reference)
    found = mean_of_groups(correct.astype(float) - reference, codes)
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def mean_of_groups(values: np.ndarray, codes: np.ndarray) -> Number:
    """The mean of any values (N,), with Student's interval over groups; at least two groups."""
    value, groups = float(values.mean()), len(np.unique(codes))
    half = float(stats.t.ppf(0.975, max(groups - 1, 1))) * standard_error(values, codes)
    return Number(value, value - half, value + half, len(values), groups)


def independent_difference(one: Number, other: Number) -> Number:
    """One proportion minus another of other images; of its images and groups, the fewer.

    Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10
    """
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Number(value, low, high, min(one.n, other.n), min(one.groups, other.groups))


def mean_of_runs(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean over seeds or folds and Student's interval, which of a single run is endless."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, -np.inf, np.inf
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def paired_difference(correct: np.ndarray, reference: np.ndarray) -> Number:
    """Difference of two accuracies on the same independent images (N,), bool.

    Agresti and Min 2005, https://doi.org/10.1002/sim.1781: half an image is added to each of the four outcomes, so that
    the interval has a width even where the two never disagree.
    """
    n = len(correct)
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    total, plus, minus = n + 2, gained + 0.5, lost + 0.5
    center = (plus - minus) / total
    half = Z * np.sqrt(plus + minus - (plus - minus) ** 2 / total) / total
    return Number((gained - lost) / n, float(center - half), float(center + half), n, n)
