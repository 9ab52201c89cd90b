"""Which photographs to label next, and whether more labels will help: arrays in, rows out.

notebooks/labelling.md says how these methods were chosen, and what they save.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

FIRST = 20  # labels before anything is learnt
COMPONENTS = 256  # of features: with more, little is told apart better, and all takes ten times as long
STRENGTH = 100.0  # inverse, of the regularisation; see experiment.last_layer.STRENGTHS
TAKEN = 10  # times as many that are least sure as are proposed of them
NEIGHBOURS = 20  # by which it is judged how typical a photograph is
CLUSTERS = 500  # at most
GROWTH = 1.25  # of the number of labels from round to round, once a quarter more are more than FIRST
SETTLED, ROUNDS = 0.02, 3  # share of the photographs in each round, and how many rounds

Learnt = Callable[[np.ndarray], np.ndarray]  # features (N, D) -> probabilities (N, num_classes)


def reduced(features: np.ndarray) -> np.ndarray:
    """(N, at most COMPONENTS) float32: the main components of standardised features (N, D), of total variance 1."""
    if len(features) < 2:
        return np.zeros((len(features), 1), np.float32)
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    standard = (features - mean) / np.where(std > 1e-6 * np.abs(mean) + 1e-12, std, np.inf)  # a constant tells nothing
    with threadpool_limits(1):
        model = PCA(min(COMPONENTS, *features.shape), svd_solver="randomized", random_state=0)
        values = model.fit_transform(standard)
    return (values / max(float(np.sqrt(values.var(0).sum())), 1e-12)).astype(np.float32)


def learn(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Learnt:
    """Logistic regression on features of `reduced`, of the photographs that have labels."""
    known = np.unique(labels)
    if len(known) == 1:
        return lambda values: np.eye(num_classes)[np.full(len(values), known[0])]
    model = LogisticRegression(C=STRENGTH, max_iter=200, tol=1e-3)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)

    def probabilities(values: np.ndarray) -> np.ndarray:
        found = np.zeros((len(values), num_classes))
        found[:, known] = model.predict_proba(values)
        return found

    return probabilities


def propose(
    features: np.ndarray, labelled: np.ndarray, probabilities: np.ndarray | None, number: int, rng: np.random.Generator
) -> np.ndarray:
    """The rows to label next, at most so many; the most wanted first.

    Args:
        features: (N, D), see `reduced`.
        labelled: rows that need no label any more.
        probabilities: (N, num_classes) by what has been learnt from the labels; None: nothing has.
    """
    if probabilities is None or probabilities.shape[1] < 2:
        return most_typical(features, labelled, number, rng)
    return least_sure(features, labelled, probabilities, number, rng)


def margins(probabilities: np.ndarray) -> np.ndarray:
    """(N,) by how much the most probable class leads."""
    two = np.sort(probabilities, 1)[:, -2:]
    return two[:, 1] - two[:, 0]


def least_sure(
    features: np.ndarray, labelled: np.ndarray, probabilities: np.ndarray, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Of clusters among the least sure, one each: that of the smallest margin (Zhdanov 2019, arXiv:1901.05954)."""
    others = np.setdiff1d(np.arange(len(features)), labelled)
    margin = margins(probabilities[others])
    first = np.argsort(margin, kind="stable")[: TAKEN * number]
    if not len(first):
        return others
    codes = clusters(features[others[first]], number, rng)
    places = np.sort(np.unique(codes, return_index=True)[1])  # the first of each cluster, and so the least sure
    return others[first[places]]


def most_typical(features: np.ndarray, labelled: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Of each of the largest clusters without a label the photograph in its middle.

    TypiClust (Hacohen et al. 2022, https://arxiv.org/abs/2202.02794).
    """
    wanted = min(len(labelled) + number, CLUSTERS, len(features))
    codes = clusters(features, wanted, rng)
    has_label = np.zeros(len(codes), bool)
    has_label[labelled] = True
    sizes = np.bincount(codes, minlength=wanted)
    chosen: list[int] = []
    while len(chosen) < number and not has_label.all():
        covered = np.bincount(codes[has_label], minlength=wanted)
        best = np.lexsort((-sizes, np.where(covered == sizes, len(codes), covered)))[0]
        own = np.flatnonzero((codes == best) & ~has_label)
        apart = np.sort(distances(features[own], features[codes == best]), 1)[:, 1 : NEIGHBOURS + 1]
        row = own[np.argmin(apart.mean(1))] if apart.shape[1] else own[0]
        has_label[row] = True
        chosen.append(int(row))
    return np.array(chosen, np.int64)


def clusters(features: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) the cluster of each."""
    number = min(number, len(features))
    options: Any = {"batch_size": 1024, "n_init": 1, "max_iter": 50, "random_state": int(rng.integers(2**31))}
    model: Any = MiniBatchKMeans(number, **options)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer different photographs than clusters
        return model.fit(features).labels_


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.sqrt(squares.clip(0))


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of photographs of which another class is said, by two probabilities (N, num_classes).

    The accuracy on them cannot have changed by more.
    """
    return float((before.argmax(1) != after.argmax(1)).mean()) if len(before) else 0.0


def is_settled(shares: Sequence[float]) -> bool:
    """Whether more labels will hardly help, by what `changed` gave after each round.

    Stabilising predictions (Bloodgood and Vijay-Shanker 2009, https://aclanthology.org/W09-1107).
    """
    return len(shares) >= ROUNDS and max(shares[-ROUNDS:]) <= SETTLED
