"""Runs that differ in the seed or the fold alone: one configuration, its numbers, and how far they spread."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from imgbench.evaluation.metrics import ClassMean, balanced_accuracy, macro_f1, mean_auroc
from imgbench.evaluation.predictions import Predictions
from imgbench.number import Number, group_codes, mean_of_classes, mean_of_images, mean_of_runs, share
from imgbench.run import Run

# Entries in which repetitions of a configuration differ.
REPEATED = ("seed", "data.split.fold")
Image = tuple[str, str]  # path below the data's folder, hash of the content
Metric = Literal["acc", "balanced_acc", "macro_f1", "auroc"]  # as metrics.json calls them
METRICS: tuple[Metric, ...] = get_args(Metric)
MEANS: dict[str, Callable[[Predictions], ClassMean]] = {
    "balanced_acc": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": mean_auroc,
}


def by_number(path: Path) -> tuple[int, str]:
    """The order of the jobs of a sweep: the tenth does not come before the second."""
    number = re.match(r"\d{1,9}", path.name)
    return (int(number[0]) if number else -1, path.name)


@dataclass(frozen=True)
class Tested:
    """A finished run and what it answered on its test images."""

    run: Run
    settings: dict[str, Any]  # flat: `optimizer.lr`
    predictions: Predictions  # judged by the labels that all runs are judged by
    hashes: list[str]  # of the content of each image
    seconds: float | None
    corrected: int = 0  # how many of its test images have another label now, or are left out

    @cached_property
    def images(self) -> list[Image]:
        return list(zip(self.predictions.paths, self.hashes, strict=True))

    @cached_property
    def correct(self) -> dict[Image, bool]:
        right = (self.predictions.predicted == self.predictions.targets).tolist()
        return dict(zip(self.images, right, strict=True))

    @property
    def groups(self) -> dict[Image, str]:
        return dict(zip(self.images, self.predictions.groups, strict=True))

    @property
    def accuracy(self) -> float:
        return float(np.mean(list(self.correct.values())))

    @property
    def repetition(self) -> tuple[Any, ...]:
        return tuple(self.settings.get(name) for name in REPEATED)

    def value(self, metric: Metric) -> float | None:
        """None of an AUROC where all images are of one class."""
        if metric == "acc":
            return self.accuracy
        return float(MEANS[metric](self.predictions).values.mean()) if measures(metric, self.predictions) else None


def measures(metric: Metric, predictions: Predictions) -> bool:
    """Whether a metric can be told of these images: to rank them, there have to be two classes."""
    return metric != "auroc" or len(np.unique(predictions.targets)) > 1


class Spread(NamedTuple):
    """Of a number over seeds or folds."""

    mean: float
    sd: float  # the standard deviation of single runs
    low: float  # the 95 % interval of the mean
    high: float


class Answers(NamedTuple):
    """What the runs of a configuration answer to a photograph."""

    right: float  # the share of the runs
    predicted: str  # by most
    probability: float  # of the true class, the mean


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed or the fold alone."""

    name: str
    runs: list[Tested]
    cost: dict[str, Any] | None = None  # of the first run: parameters, multiply_adds, size_mb, latency_ms, threads
    seconds: float | None = None  # of training, the mean

    @cached_property
    def metrics(self) -> dict[str, Number]:
        """Those of METRICS that can be told, over the images of these very networks."""
        metrics = {name: number for name in METRICS if (number := self._number(name)) is not None}
        if "auroc" in metrics:
            metrics["auroc"] = replace(metrics["auroc"], percent=False)
        return metrics

    @cached_property
    def spread(self) -> dict[str, Spread]:
        """Of the numbers over the runs; empty of a single run."""
        found = {}
        for name in METRICS:
            values = self.values(name)
            if len(values) > 1:
                mean, low, high = mean_of_runs(values)
                found[name] = Spread(mean, float(np.std(values, ddof=1)), max(low, 0.0), min(high, 1.0))
        return found

    def values(self, metric: Metric) -> list[float]:
        """That of each run; none where one of them cannot tell it."""
        values = [tested.value(metric) for tested in self.runs]
        return [value for value in values if value is not None] if None not in values else []

    @property
    def accuracy(self) -> Number:
        return self.metrics["acc"]

    @property
    def accuracies(self) -> list[float]:
        return self.values("acc")

    @property
    def folds(self) -> bool:
        return any(tested.settings.get("data.split.fold") is not None for tested in self.runs)

    @cached_property
    def correct(self) -> dict[Image, float]:
        """The share of the runs that have each image right; of those that were tested on it."""
        answers: dict[Image, list[bool]] = {}
        for tested in self.runs:
            for image, right in tested.correct.items():
                answers.setdefault(image, []).append(right)
        return {image: float(np.mean(rights)) for image, rights in answers.items()}

    @property
    def groups(self) -> dict[Image, str]:
        return {image: group for tested in self.runs for image, group in tested.groups.items()}

    @property
    def test_sets(self) -> set[frozenset[Image]]:
        return {frozenset(tested.correct) for tested in self.runs}

    @cached_property
    def answers(self) -> dict[Image, Answers]:
        said: dict[Image, list[tuple[str, float]]] = {}
        for tested in self.runs:
            found = tested.predictions
            own = np.take_along_axis(found.probabilities, found.targets[:, None], 1)[:, 0].clip(0)
            for image, predicted, probability in zip(tested.images, found.predicted, own.tolist(), strict=True):
                said.setdefault(image, []).append((found.class_names[predicted], probability))
        return {
            image: Answers(
                self.correct[image],
                max(names := [name for name, _ in answers], key=names.count),
                float(np.mean([probability for _, probability in answers])),
            )
            for image, answers in said.items()
        }

    @cached_property
    def parts(self) -> list[tuple[Predictions, list[Image]]]:
        """What a metric is measured of, and then averaged: each run, or the images of all folds together."""
        if self.folds or len(self.test_sets) > 1:
            whole = [tested.predictions for tested in self.runs]
            together = Predictions(
                [path for one in whole for path in one.paths],
                [group for one in whole for group in one.groups],
                np.concatenate([one.targets for one in whole]),
                np.concatenate([one.probabilities for one in whole]),
                whole[0].class_names,
            )
            return [(together, [image for tested in self.runs for image in tested.images])]
        return [(tested.predictions, tested.images) for tested in self.runs]

    def additions(self, metric: Metric, images: Sequence[Image]) -> np.ndarray:
        """(N,) how much more the metric is for each of the images: its derivative by the image's weight."""
        place = {image: row for row, image in enumerate(images)}
        found = np.zeros(len(images))
        for predictions, of in self.parts:
            np.add.at(found, [place[image] for image in of], MEANS[metric](predictions).additions / len(self.parts))
        return found

    def f1_counts(self, images: Sequence[Image], codes: np.ndarray) -> np.ndarray:
        """(G, 2K) for each group and class of the images: right answers, and answers plus images; the mean of the runs.

        Args:
            codes: (N,) the group of each image.
        """
        place = dict(zip(images, codes.tolist(), strict=True))
        classes = np.unique(np.concatenate([predictions.targets for predictions, _ in self.parts]))
        columns = np.full(len(self.runs[0].predictions.class_names), -1)
        columns[classes] = np.arange(len(classes))
        right, both = np.zeros((2, codes.max() + 1, len(classes)))
        for predictions, of in self.parts:
            groups = np.array([place[image] for image in of])
            true, found = columns[predictions.targets], columns[predictions.predicted]
            for counts, rows, label in (
                (right, true == found, true),
                (both, true >= 0, true),
                (both, found >= 0, found),
            ):
                np.add.at(counts, (groups[rows], label[rows]), 1 / len(self.parts))
        return np.concatenate([right, both], 1)

    def _number(self, metric: Metric) -> Number | None:
        images, groups = list(self.correct), self.groups
        codes = group_codes([groups[image] for image in images])
        single = self.runs[0].run.folds or 1 if len(self.runs) == 1 else 1
        if metric == "acc":
            values = np.array(list(self.correct.values()))
            if len(self.runs) == 1:
                return share(values == 1, np.ones(len(values), bool), codes).of_networks(single)
            number = mean_of_images(values, codes)
            return number if self.folds else replace(number, value=mean_of_runs(self.values("acc"))[0])
        if not all(measures(metric, predictions) for predictions, _ in self.parts):
            return None
        first, of = self.parts[0]
        target = dict(zip(of, first.targets.tolist(), strict=True))
        targets = np.array([target[image] for image in images])
        # Of several networks the variance does not follow from the value alone, as that of independent counts does.
        counts = metric != "auroc" and len(self.parts) == 1
        means = np.mean([MEANS[metric](predictions).values for predictions, _ in self.parts], 0)
        return mean_of_classes(means, self.additions(metric, images), targets, codes, counts).of_networks(single)
