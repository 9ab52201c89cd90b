"""What predictions are worth: each number with its 95 % interval."""

from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_f1_score

from imgbench.evaluation.predictions import Predictions

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
Number = dict[str, Any]


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927); unlike p +- 1.96 s it holds near 0 and 1.

    https://doi.org/10.1080/01621459.1927.10502953
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    # At 0 and n successes the interval ends there exactly; rounding must not leave it short.
    return (0.0 if successes == 0 else float(center - half)), (1.0 if successes == n else float(center + half))


def proportion(successes: int, n: int) -> Number:
    low, high = wilson_interval(successes, n)
    return {"value": successes / n if n else None, "low": low, "high": high, "n": n}


def paired_difference(correct: np.ndarray, reference: np.ndarray) -> Number:
    """Difference of two accuracies on the same images (N,), bool, with its 95 % interval.

    Agresti and Min 2005, https://doi.org/10.1002/sim.1781: half an image is added to each of the four outcomes, so that
    the interval has a width even where the two never disagree.
    """
    n = len(correct)
    gained, lost = int((correct & ~reference).sum()), int((~correct & reference).sum())
    total, plus, minus = n + 2, gained + 0.5, lost + 0.5
    center = (plus - minus) / total
    half = Z * np.sqrt(plus + minus - (plus - minus) ** 2 / total) / total
    value = (gained - lost) / n
    return {"value": value, "low": float(center - half), "high": float(center + half), "n": n,
            "gained": gained, "lost": lost}  # fmt: skip


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """(num_classes, num_classes) counts: row the true class, column the predicted."""
    targets, predicted = torch.from_numpy(predictions.targets), torch.from_numpy(predictions.predicted)
    return multiclass_confusion_matrix(predicted, targets, len(predictions.class_names)).numpy()


def macro_f1_interval(confusion: np.ndarray, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap: resampling images is a multinomial draw of the confusion matrix' cells."""
    n, k = int(confusion.sum()), len(confusion)
    rng = np.random.default_rng(seed)
    cells = np.flatnonzero(confusion)
    draws = rng.multinomial(n, confusion.ravel()[cells] / n, size=samples)
    true, predicted = np.divmod(cells, k)
    hits = draws @ ((true == predicted)[:, None] * np.eye(k)[true])
    there = draws @ np.eye(k)[true]  # TP + FN of each class
    seen = there + draws @ np.eye(k)[predicted]  # 2 TP + FP + FN
    # As in the value itself, a class that a draw does not contain does not count; as 0 it would pull the interval down.
    f1 = np.divide(2 * hits, seen, out=np.full_like(hits, np.nan), where=there > 0)
    low, high = np.percentile(np.nanmean(f1, 1), [2.5, 97.5])
    return float(low), float(high)


def classification_metrics(predictions: Predictions, split: str) -> dict[str, Number]:
    """Accuracy, macro F1, and precision and recall of each class, named `<split>/...`.

    A class without images is not measured: it does not count in macro F1, and its precision and recall are undefined.
    Intervals: Wilson for proportions, bootstrap over images for macro F1. They assume independent images.
    """
    confusion = confusion_matrix(predictions)
    n, k = len(predictions.paths), len(predictions.class_names)
    targets = torch.from_numpy(predictions.targets)
    predicted = torch.from_numpy(predictions.predicted)
    low, high = macro_f1_interval(confusion)
    images = confusion.sum(1)  # of each class
    macro_f1 = float(multiclass_f1_score(predicted, targets, k, average="none").numpy()[images > 0].mean())
    metrics = {
        f"{split}/acc": proportion(int(np.trace(confusion)), n),
        f"{split}/macro_f1": {"value": macro_f1, "low": low, "high": high, "n": n},
    }
    for i, name in enumerate(predictions.class_names):
        hits = int(confusion[i, i])
        metrics[f"{split}/precision/{name}"] = proportion(hits, int(confusion[:, i].sum()) if images[i] else 0)
        metrics[f"{split}/recall/{name}"] = proportion(hits, int(images[i]))
    return metrics


def unmeasured_classes(metrics: dict[str, Number], split: str) -> list[str]:
    """The classes of which there were no images."""
    recall = f"{split}/recall/"
    return [
        name.removeprefix(recall) for name, number in metrics.items() if name.startswith(recall) and not number["n"]
    ]


def describe(number: Number) -> str:
    """For example `98.3 % (95 % interval 96.4 to 99.3 %, n = 360)`."""
    if number["value"] is None:
        return "undefined (n = 0)"
    return (
        f"{100 * number['value']:.2f} % (95 % interval {100 * number['low']:.1f} to {100 * number['high']:.1f} %, "
        f"n = {number['n']})"
    )
