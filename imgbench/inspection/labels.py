"""Images whose label is probably wrong: named in order of suspicion, never moved or deleted.

Confident learning (Northcutt, Jiang and Chuang 2021, https://doi.org/10.1613/jair.1.12125): held-out predictions tell
how many images of each class are likely to be of another, and the least believable so many are named. The library of
its authors, cleanlab, names the same images (the tests compare), but brings pandas and is no longer worked on.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from imgbench.data.table import ImageTable
from imgbench.inspection.simple_features import group_codes, predicted_by_looks
from imgbench.language import counted, probability

if TYPE_CHECKING:
    from imgbench.evaluation.predictions import Predictions

AT_ONCE = 5_000  # images that share a classifier: bounds the memory, and the time of finding out that it is no good
# Share of the labels that predictions must agree with, to have a say about the others. With 5 % of the labels changed,
# a third of the suspects was right after all where simple features agreed with 0.82 of the labels, and a twentieth
# where they agreed with 0.91.
GOOD_ENOUGH = 0.88
UNLIKELY = 0.1  # a label that is more probable than this is not suspect, whatever the counts say
FEWEST = 5  # independent images of a class from which its labels are judged


@dataclass(frozen=True)
class Suspect:
    """An image whose label the predictions contradict, with the probability of its label and of the likelier one."""

    path: str
    label: str
    likelier: str
    label_probability: float
    likelier_probability: float

    @property
    def sentence(self) -> str:
        return (
            f"{self.path} is labelled {self.label!r} ({probability(self.label_probability)}), but predicted as "
            f"{self.likelier!r} ({probability(self.likelier_probability)})"
        )


@dataclass(frozen=True)
class LabelReview:
    """Suspects, the most suspicious first; `agreement` is the share of labels that the predictions agree with."""

    suspects: list[Suspect]
    agreement: float
    n: int

    def __iter__(self) -> Iterator[Suspect]:
        return iter(self.suspects)

    def __len__(self) -> int:
        return len(self.suspects)

    def without(self, paths: Collection[str]) -> "LabelReview":
        """As if these images, at which somebody has looked, were not suspect."""
        return replace(self, suspects=[suspect for suspect in self.suspects if suspect.path not in paths])

    @property
    def conclusive(self) -> bool:
        """Whether the predictions were good enough to judge labels by."""
        return self.agreement >= GOOD_ENOUGH

    @property
    def sentence(self) -> str:
        """What was found, in words that need no explanation."""
        agreement = f"{100 * self.agreement:.1f} % of {self.n} labels"
        if not self.conclusive:
            return (
                f"No label was judged: predictions agree with {agreement} only, {100 * GOOD_ENOUGH:.0f} % are needed."
            )
        if not self.suspects:
            return f"No label is suspect: predictions agree with {agreement}."
        return (
            f"{counted(len(self.suspects), 'label is', 'labels are')} suspect: a wrong label or an unusual image, the "
            f"most doubtful first. Predictions agree with {agreement}."
        )


def label_suspects(table: ImageTable, groups: Sequence[str] | None = None) -> LabelReview:
    """Before training: by colours, edges and thumbnails of the training and validation images.

    Each is predicted by linear classifiers that saw neither it nor another image of its group. Classes that these
    cannot tell apart are not judged at all: a trained network's predictions may be.

    Args:
        groups: which rows of the table belong together ("" is alone); by default the groups of `data.split.group`.
    """
    rows = np.sort(np.concatenate([table.rows("train"), table.rows("val")]))
    codes = np.unique(group_codes(table.groups if groups is None else groups)[rows], return_inverse=True)[1]
    labels = table.labels[rows].astype(np.int64)
    probabilities = np.empty((len(rows), len(table.class_names)), np.float32)
    order = np.random.default_rng(0).permutation(codes.max() + 1)[codes]  # of whole groups
    parts = [np.sort(part) for part in _parts(order)]
    for part in parts:
        predicted = _predict(table, rows[part], labels[part], codes[part])
        agreement = float((predicted.argmax(1) == labels[part]).mean()) if predicted is not None else 0.0
        # The first shows what the others would.
        if predicted is None or (part is parts[0] and agreement < GOOD_ENOUGH - 0.02):
            return LabelReview([], agreement, len(part))
        probabilities[part] = predicted
    paths = [table.paths[row] for row in rows]
    return _review(paths, labels, probabilities, codes, table.class_names).without(looked_at(table))


def looked_at(table: ImageTable) -> set[str]:
    """The paths of the images that people have decided on."""
    return {table.paths[row] for row in table.looked_at}


def suspects_of_predictions(predictions: "Predictions") -> LabelReview:
    """After training: by a run's own predictions, of images that it was not trained on."""
    codes = group_codes(predictions.groups)
    labels, probabilities = predictions.targets, predictions.probabilities
    return _review(predictions.paths, labels, probabilities, codes, predictions.class_names)


def _parts(order: np.ndarray) -> list[np.ndarray]:
    """Positions of whole groups, in the order given for each image, in equal parts of about AT_ONCE images."""
    number = max(1, round(len(order) / AT_ONCE))
    sizes = np.bincount(order)
    part = ((np.cumsum(sizes) - sizes / 2) * number / len(order)).astype(np.int64)[order]
    return [np.flatnonzero(part == index) for index in np.unique(part)]


def _predict(table: ImageTable, rows: np.ndarray, labels: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """(N, num_classes) by three classifiers. Each looks at another feature."""
    predicted = predicted_by_looks(table, rows, labels, codes, len(table.class_names))
    return None if predicted is None else _pooled(predicted, labels)


def _pooled(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, K) of (classifiers, N, K): their logarithms, each weighted as suits the labels best.

    A product is sure only where no classifier objects that has anything to say; the weights mend those that have not,
    and those that are too sure or not sure enough.
    """
    logarithms = np.log(np.maximum(probabilities, 1e-6)).astype(np.float64)

    def pooled(weights: np.ndarray) -> np.ndarray:
        return log_softmax(np.tensordot(weights, logarithms, 1), axis=1)

    def loss(weights: np.ndarray) -> float:
        return -float(pooled(weights)[np.arange(len(labels)), labels].mean())

    number = len(probabilities)
    found = minimize(loss, np.full(number, 1 / number), bounds=[(0, 3)] * number, method="L-BFGS-B")
    return np.exp(pooled(found.x)).astype(np.float32)


def _review(
    paths: list[str], labels: np.ndarray, probabilities: np.ndarray, codes: np.ndarray, class_names: list[str]
) -> LabelReview:
    agreement = float((probabilities.argmax(1) == labels).mean())
    if agreement < GOOD_ENOUGH:
        return LabelReview([], agreement, len(labels))
    pairs = np.unique(np.stack([labels, codes]), axis=1)
    judged = np.bincount(pairs[0], minlength=len(class_names)) >= FEWEST
    suspects = []
    for i in confident_learning(labels, probabilities).tolist():
        likelier = int(probabilities[i].argmax())
        own, other = float(probabilities[i, labels[i]]), float(probabilities[i, likelier])
        if judged[labels[i]] and own < UNLIKELY:
            suspects.append(Suspect(paths[i], class_names[labels[i]], class_names[likelier], own, other))
    return LabelReview(suspects, agreement, len(labels))


def confident_learning(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Positions of suspect labels, the least probable first.

    An image is confidently of a class if its probability is at least the mean that the images labelled so have. What
    images of each label are confidently of, scaled to all of them, estimates how many labels of each kind are wrong.
    Suspect is who is both among the least probable of a label, as many as it has wrong ones, and among those that lean
    most to the class that its wrong ones are of.

    Args:
        labels: (N,) indices of classes.
        probabilities: (N, num_classes), by models that have not seen the image.
    """
    n, k = probabilities.shape
    own = probabilities[np.arange(n), labels]
    number = np.bincount(labels, minlength=k)
    thresholds = np.divide(np.bincount(labels, own, k), number, out=np.full(k, np.inf), where=number > 0)
    confident = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    sure = confident.max(1) >= 0
    joint = np.zeros((k, k))  # row: the label, column: what the image confidently is
    np.add.at(joint, (labels[sure], confident.argmax(1)[sure]), 1)
    empty = joint.sum(1) == 0
    joint[empty, empty] = 1
    joint *= (number / joint.sum(1))[:, None]
    unlikely, leaning = np.zeros(n, bool), np.zeros(n, bool)
    for label in range(k):
        members = np.flatnonzero(labels == label)
        wrong = round(number[label] - joint[label, label])
        unlikely[members[np.argsort(own[members], kind="stable")[:wrong]]] = True
        for other in np.flatnonzero(joint[label].round()):
            if other != label:
                margin = probabilities[members, other] - own[members]
                leaning[members[np.argsort(-margin, kind="stable")[: round(joint[label, other])]]] = True
    suspects = np.flatnonzero(unlikely & leaning & (probabilities.argmax(1) != labels))
    return suspects[np.argsort(own[suspects], kind="stable")]
