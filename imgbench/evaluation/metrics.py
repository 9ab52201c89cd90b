"""What predictions are worth: each number with its 95 % interval, the images and independent groups it rests on."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from imgbench.evaluation.calibration import TemperatureScaling, brier_score, calibration_error
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.ranking import auroc, average_precision
from imgbench.language import counted
from imgbench.number import Number, group_codes, mean_of_classes, share

TOP = 5  # how many guesses the target is looked for among
MANY_CLASSES = 20  # in more than these, whether it is among them is worth knowing


class ClassMean(NamedTuple):
    """A number between 0 and 1 that is a mean over the classes with images, before it has an interval."""

    values: np.ndarray  # (K,) of each class
    additions: np.ndarray  # (N,) how much more the mean is for each image: its derivative by the image's weight


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """(num_classes, num_classes) counts: row the true class, column the predicted."""
    k = len(predictions.class_names)
    return np.bincount(predictions.targets * k + predictions.predicted, minlength=k * k).reshape(k, k)


def classification_metrics(
    predictions: Predictions, split: str, temperature: TemperatureScaling | None = None
) -> dict[str, Number]:
    """All that is measured of predictions, named `<split>/...` and `<split>/.../<class>`.

    A class without images is not measured: it counts in no mean, and its own numbers are undefined.

    Args:
        temperature: fitted on other images; how well calibrated it makes the probabilities is measured too.
    """
    codes = group_codes(predictions.groups)
    targets, predicted = predictions.targets, predictions.predicted
    everything = np.ones(len(targets), bool)
    metrics = {
        "acc": share(targets == predicted, everything, codes),
        "majority": _majority(predictions, codes),
        "balanced_acc": _of_classes(balanced_accuracy(predictions), predictions, codes),
        "macro_f1": _of_classes(macro_f1(predictions), predictions, codes),
    }
    if len(predictions.class_names) > MANY_CLASSES:
        metrics[f"top{TOP}_acc"] = share(_rank_of_target(predictions) < TOP, everything, codes)
    if len(np.unique(targets)) > 1:
        metrics |= _ranking(predictions, codes)
    metrics["ece"] = calibration_error(predictions.probabilities, targets, codes)
    if temperature is not None:
        metrics["ece_scaled"] = calibration_error(temperature.apply(predictions.probabilities), targets, codes)
    metrics["brier"] = brier_score(predictions.probabilities, targets, codes)
    for i, name in enumerate(predictions.class_names):
        true, found = targets == i, predicted == i
        there = true.any()  # else nothing is measured
        metrics[f"precision/{name}"] = share(true, found & there, codes)
        metrics[f"recall/{name}"] = share(found, true, codes)
        metrics[f"specificity/{name}"] = share(~found, ~true & there, codes)
        metrics[f"f1/{name}"] = _f1(share(true & found, (true | found) & there, codes))
    return {f"{split}/{name}": number.of_networks(predictions.networks) for name, number in metrics.items()}


def _majority(predictions: Predictions, codes: np.ndarray) -> Number:
    """What always answering the class with most of these images would reach: any accuracy has to be held against it."""
    largest = int(np.bincount(predictions.targets, minlength=len(predictions.class_names)).argmax())
    number = share(predictions.targets == largest, np.ones(len(codes), bool), codes)
    return replace(number, of_class=predictions.class_names[largest])


def balanced_accuracy(predictions: Predictions) -> ClassMean:
    """The mean recall: every class counts alike, however many images it has."""
    targets, correct = predictions.targets, predictions.targets == predictions.predicted
    classes, class_of, images = np.unique(targets, return_inverse=True, return_counts=True)
    recalls = np.bincount(class_of, correct) / images
    return ClassMean(recalls, (correct - recalls[class_of]) / (len(classes) * images[class_of]))


def macro_f1(predictions: Predictions) -> ClassMean:
    """The mean F1 of the classes that have images."""
    targets, predicted = predictions.targets, predictions.predicted
    confusion = confusion_matrix(predictions)
    there = confusion.sum(1) > 0
    found_or_true = confusion.sum(0) + confusion.sum(1)
    f1 = 2 * np.diagonal(confusion) / np.maximum(found_or_true, 1)
    # By the weight of an image: F1 = 2 TP / S grows by (2 [right] - F1 per part in S) / S; a class not there is left.
    costs = np.where(there, f1 / np.maximum(found_or_true, 1), 0)
    gains = np.where(targets == predicted, 2 / found_or_true[targets], 0)
    return ClassMean(f1[there], (gains - costs[targets] - costs[predicted]) / there.sum())


def mean_auroc(predictions: Predictions) -> ClassMean:
    """Each class against the rest; there are images of two classes at least."""
    return _mean_ranking(predictions, auroc)


def _mean_ranking(
    predictions: Predictions, score: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
) -> ClassMean:
    classes = np.unique(predictions.targets)
    values, additions = np.empty(len(classes)), np.zeros(len(predictions.targets))
    for i, label in enumerate(classes):
        values[i], gains = score(predictions.probabilities[:, label], predictions.targets == label)
        additions += gains / len(classes)
    return ClassMean(values, additions)


def _of_classes(mean: ClassMean, predictions: Predictions, codes: np.ndarray, counts: bool = True) -> Number:
    return mean_of_classes(*mean, predictions.targets, codes, counts)


def _f1(jaccard: Number) -> Number:
    """F1 = 2J / (1 + J) of J = TP / (TP + FP + FN), which is a proportion, so its interval is mapped alike.

    Flores et al. 2022, "Assessing methods for confidence intervals of F1", https://arxiv.org/abs/2309.14621
    """
    low, high = (2 * j / (1 + j) for j in (jaccard.low, jaccard.high))
    value = 2 * jaccard.value / (1 + jaccard.value) if jaccard.n else math.nan
    return Number(value, low, high, jaccard.n, jaccard.groups)


def _rank_of_target(predictions: Predictions) -> np.ndarray:
    """(N,) how many classes come before the true one; equal probabilities in the order of the classes."""
    own = np.take_along_axis(predictions.probabilities, predictions.targets[:, None], 1)
    before = np.arange(len(predictions.class_names)) < predictions.targets[:, None]
    return ((predictions.probabilities > own) | ((predictions.probabilities == own) & before)).sum(1)


def _ranking(predictions: Predictions, codes: np.ndarray) -> dict[str, Number]:
    """AUROC and average precision: each class against the rest, the mean over classes."""
    scores = {"auroc": auroc, "ap": average_precision}
    means = {name: _mean_ranking(predictions, score) for name, score in scores.items()}
    return {name: replace(_of_classes(mean, predictions, codes, False), percent=False) for name, mean in means.items()}


def unmeasured_classes(metrics: dict[str, Number], split: str) -> list[str]:
    """The classes without an image."""
    recall = f"{split}/recall/"
    return [name.removeprefix(recall) for name, number in metrics.items() if name.startswith(recall) and not number.n]


def describe(number: Number) -> str:
    """For example `88.2 % (67 of 76; 95 % interval 79 to 94 %)`, and of many images `98.32 % (95 % interval ...)`."""
    value, low, high, n, groups = number.value, number.low, number.high, number.n, number.groups
    if not n:
        return "undefined (n = 0)"
    if not number.percent:
        rests_on = f"n = {n}" if groups == n else f"n = {n} in {counted(groups, 'group')}"
        return f"{value:.3f} (95 % interval {low:.3f} to {high:.3f}, {rests_on})"
    small = groups < 100
    interval = f"95 % interval {100 * low:.{0 if small else 1}f} to {100 * high:.{0 if small else 1}f} %"
    if number.hits is not None and n < 1000:
        grouped = "" if groups == n else f" in {counted(groups, 'group')}"
        return f"{100 * value:.1f} % ({number.hits} of {n}{grouped}; {interval})"
    rests_on = f"n = {n:,}" if groups == n else f"n = {n:,} in {counted(groups, 'group')}"
    if number.if_calibrated is not None:
        rests_on += f"; by chance alone about {100 * number.if_calibrated:.1f} %"
    return f"{100 * value:.{1 if small else 2}f} % ({interval}, {rests_on})"


def describe_accuracy(metrics: dict[str, Number], split: str) -> str:
    """The accuracy, and beside it what the largest class alone would reach."""
    majority = metrics[f"{split}/majority"]
    return f"{describe(metrics[f'{split}/acc'])}; always {majority.of_class!r}: {100 * majority.value:.1f} %"
