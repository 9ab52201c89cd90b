"""The last layer of a network that is frozen otherwise: solved for, in seconds, in the place of training."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.inference.cached_features import image_features
from imgbench.inspection.simple_features import draw_groups, folds, group_codes
from imgbench.run import Run
from imgbench.training.callbacks import epoch_row, write_epochs
from imgbench.training.checkpoint import save_weights
from imgbench.training.classifier import ImageClassifier

# Inverse strengths of the regularisation, times the number of features. Cross-validation takes one of them.
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FEWEST_LEARNT, FEWEST_OF_CLASS = 100, 20  # images that are learnt from, however little time there is
AT_MOST = 3_000  # images on which the strength is chosen
ABSENT = -30.0  # logit of a class that no image to learn from has


def fit_head(
    run: Run, classifier: ImageClassifier, data: ImageFolderDataModule, end: float = math.inf
) -> tuple[float, int]:
    """Solves for the last layer, and leaves best.ckpt and metrics.csv as training does.

    Args:
        end: moment of `time.monotonic()` after which it learns from what has been seen until then of the training
            images, in random order.

    Returns:
        The monitored value, and the number of training images that were learnt from.

    Raises:
        UserError: the objective is no classification of images by their labels.
    """
    start = time.perf_counter()
    if type(classifier) is not ImageClassifier:
        raise UserError("model=pretrained solves for its last layer, from labels alone: take objective=classify.")
    rows = {split: data.rows(split) for split in ("train", "val")}
    judged = np.concatenate([rows["val"], data.rows("test")])
    drawn = np.random.default_rng(data.seed).permutation(rows["train"])
    least = len(judged) + max(FEWEST_LEARNT, FEWEST_OF_CLASS * len(data.class_names))
    seen = len(image_features(classifier, data, np.concatenate([judged, drawn]), end, least))  # all in one go
    rows["train"] = np.sort(drawn[: seen - len(judged)])
    solve_last_layer(classifier, data, rows["train"])
    metrics = {
        f"{split}/{name}": value
        for split, own in rows.items()
        for name, value in _measure(classifier, image_features(classifier, data, own), data.table.labels[own]).items()
    }
    seconds = time.perf_counter() - start
    speed = {"epoch_seconds": seconds, "images_per_second": len(rows["train"]) / seconds}
    write_epochs(run.path / "metrics.csv", [epoch_row(1, {**metrics, **speed})])  # as if trained for an epoch
    save_weights(classifier, run.best, epoch=0)  # there is no last.ckpt, since nothing can be resumed
    return metrics[str(classifier.hparams["monitor"])], len(rows["train"])


def solve_last_layer(classifier: ImageClassifier, data: ImageFolderDataModule, rows: np.ndarray | None = None) -> None:
    """Gives the last layer the weights that serve best if all others stay as they are.

    From a last layer of chance, the first steps of training would spoil what a pretrained network knows (Kumar et al.
    2022, https://arxiv.org/abs/2202.10054).

    Args:
        rows: of the table, to learn from; None: all training images.
    """
    rows = data.rows("train") if rows is None else rows
    features = image_features(classifier, data, rows)
    codes = group_codes([data.table.groups[row] for row in rows])
    labels = data.table.labels[rows].astype(np.int64)
    weight, bias = solve(features, labels, codes, len(data.class_names), classifier.hparams["class_weights"])
    network: Any = classifier.model
    last = network.get_classifier()
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(bias)


@torch.inference_mode()
def _measure(classifier: ImageClassifier, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    network: Any = classifier.model
    last, targets = network.get_classifier(), torch.from_numpy(labels.astype(np.int64))
    logits = torch.from_numpy(features) @ last.weight.cpu().T + last.bias.cpu()
    loss = F.cross_entropy(logits, targets)
    return {"loss": float(loss), "acc": float((logits.argmax(1) == targets).float().mean())}


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    num_classes: int,
    class_weights: list[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weight (num_classes, D) and bias (num_classes,) of logistic regression on standardised features.

    The strength of its regularisation is that of the lowest loss in cross-validation, in which images of one group stay
    together.

    Args:
        codes: (N,) the group of each image.
    """
    with warnings.catch_warnings(), threadpool_limits(1):  # small problems: threads would wait for each other
        warnings.simplefilter("ignore")  # of folds without a rare class, and of last digits that do not matter
        sampled = draw_groups(codes, AT_MOST)
        divisions = [
            (sampled[train], sampled[held_out])
            for train, held_out in folds(labels[sampled], codes[sampled], num_classes)
        ]

        def loss(strength: float) -> float:
            total = 0.0
            for train, held_out in divisions:
                weight, bias = _regress(features[train], labels[train], strength, num_classes, class_weights)
                logits = torch.from_numpy(features[held_out]) @ weight.T + bias
                total += float(F.cross_entropy(logits, torch.from_numpy(labels[held_out]), reduction="sum"))
            return total / len(sampled)

        strength = lowest(loss, STRENGTHS) if divisions else STRENGTHS[len(STRENGTHS) // 2]
        return _regress(features, labels, strength, num_classes, class_weights)


def lowest(function: Callable[[float], float], candidates: Sequence[float]) -> float:
    """The candidate of the lowest value, if values fall towards it from both sides: found without computing all."""
    known: dict[int, float] = {}

    def value(index: int) -> float:
        if index not in known:
            known[index] = function(candidates[index]) if 0 <= index < len(candidates) else float("inf")
        return known[index]

    best = len(candidates) // 2
    while (near := min((best - 1, best + 1), key=value)) != best and value(near) < value(best):
        best = near
    return candidates[best]


def _regress(
    features: np.ndarray, labels: np.ndarray, strength: float, num_classes: int, class_weights: list[float] | None
) -> tuple[Tensor, Tensor]:
    """Weight and bias for features as they are: the standardisation is folded in."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # a constant feature gets no weight
    scaled = ((features - mean) / scale).astype(np.float32)
    known = np.unique(labels)
    importance = None if class_weights is None else np.asarray(class_weights)[labels]
    weight, bias = np.zeros((num_classes, features.shape[1])), np.full(num_classes, ABSENT)
    if len(known) == 1:
        bias[known] = 0
    else:
        model = LogisticRegression(C=strength / features.shape[1], max_iter=300, tol=1e-3)
        model.fit(scaled, labels, importance)
        found, offset = model.coef_, model.intercept_
        if len(known) == 2:  # the logit of the second class, halved between the two
            found, offset = np.concatenate([-found, found]) / 2, np.concatenate([-offset, offset]) / 2
        weight[known] = found / scale
        bias[known] = offset - weight[known] @ mean
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
