"""How many labels it takes where the photographs to be labelled are chosen, and where they are drawn by chance."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig
from scipy import stats
from threadpoolctl import threadpool_limits

from imgbench.data.split import draw_folds
from imgbench.experiment.build import build_classifier, build_data, with_facts
from imgbench.experiment.compose import with_model
from imgbench.inference.active_learning import (
    FIRST,
    GROWTH,
    changed,
    is_settled,
    learn,
    least_sure,
    margins,
    most_typical,
    reduced,
)
from imgbench.inference.cached_features import image_features
from imgbench.inspection.audit import group_names
from imgbench.training import fast

log = logging.getLogger(__name__)

MOST = 800  # labels
NEAR = 0.01  # of the accuracy with all labels


class Pool(NamedTuple):
    """What a method chooses from: all photographs, of which some have labels."""

    features: np.ndarray  # (N, D), standardised
    labelled: np.ndarray  # rows
    probabilities: np.ndarray  # (N, num_classes) by what has been learnt from these; uniform before
    num_classes: int
    rng: np.random.Generator

    @property
    def others(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.features)), self.labelled)


Method = Callable[[Pool, int], np.ndarray]


def at_random(pool: Pool, number: int) -> np.ndarray:
    return pool.rng.permutation(pool.others)[:number]


def by_margin(pool: Pool, number: int) -> np.ndarray:
    others = pool.others
    return others[np.argsort(margins(pool.probabilities[others]), kind="stable")[:number]]


def by_entropy(pool: Pool, number: int) -> np.ndarray:
    others = pool.others
    shares = pool.probabilities[others].clip(1e-12)
    return others[np.argsort((shares * np.log(shares)).sum(1), kind="stable")[:number]]


def by_typicality(pool: Pool, number: int) -> np.ndarray:
    return most_typical(pool.features, pool.labelled, number, pool.rng)


def by_gradients(pool: Pool, number: int) -> np.ndarray:
    """BADGE (Ash et al. 2020, https://arxiv.org/abs/1906.03671): k-means++ on the gradients of the last layer."""
    others = pool.others
    errors = pool.probabilities[others].copy()
    errors[np.arange(len(others)), errors.argmax(1)] -= 1
    values = pool.features[others]
    norms = (errors**2).sum(1) * (values**2).sum(1)
    chosen = [int(norms.argmax())]
    nearest = np.full(len(others), np.inf)
    while len(chosen) < min(number, len(others)):
        last = chosen[-1]
        squares = norms + norms[last] - 2 * (errors @ errors[last]) * (values @ values[last])
        nearest = np.minimum(nearest, squares.clip(0))
        nearest[chosen] = 0
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        chosen.append(int(pool.rng.choice(len(others), p=weights)))
    return others[np.unique(chosen)]


def by_margin_in_clusters(pool: Pool, number: int) -> np.ndarray:
    return least_sure(pool.features, pool.labelled, pool.probabilities, number, pool.rng)


# How the first photographs are chosen, and how the others.
METHODS: dict[str, tuple[Method, Method]] = {
    "random": (at_random, at_random),
    "margin": (at_random, by_margin),
    "entropy": (at_random, by_entropy),
    "gradients": (at_random, by_gradients),
    "margin in clusters": (at_random, by_margin_in_clusters),
    "typicality, then margin": (by_typicality, by_margin),
    "typicality, then margin in clusters": (by_typicality, by_margin_in_clusters),
}


class Round(NamedTuple):
    labels: int
    accuracy: float
    changed: float  # share of the photographs without a label of which something else is said than a round before
    agreement: float  # share of the round's labels that were foreseen


def simulate(
    features: np.ndarray, labels: np.ndarray, tested: np.ndarray, methods: Sequence[str], num_classes: int, seed: int
) -> tuple[float, dict[str, list[Round]]]:
    """The accuracy with all labels, and the rounds of each method, on the rows `tested` of features (N, D)."""
    pool = np.flatnonzero(~tested)
    values = reduced(features)
    own, other = values[pool], values[tested]
    truth, targets = labels[pool], labels[tested]
    best = float((learn(own, truth, num_classes)(other).argmax(1) == targets).mean())
    rounds: dict[str, list[Round]] = {}
    for name in methods:
        rng = np.random.default_rng([seed, len(name)])
        start, step = METHODS[name]
        labelled = np.zeros(0, np.int64)
        probabilities = np.full((len(own), num_classes), 1 / num_classes)
        rounds[name] = []
        number = FIRST
        while len(labelled) < min(MOST, len(own)):
            state = Pool(own, labelled, probabilities, num_classes, rng)
            new = (step if len(labelled) else start)(state, min(number, len(own) - len(labelled)))
            foreseen = float((probabilities[new].argmax(1) == truth[new]).mean())
            labelled = np.concatenate([labelled, new])
            learnt = learn(own[labelled], truth[labelled], num_classes)
            before, probabilities = probabilities, learnt(own)
            rest = np.setdiff1d(np.arange(len(own)), labelled)
            share = changed(before[rest], probabilities[rest])
            accuracy = float((learnt(other).argmax(1) == targets).mean())
            rounds[name].append(Round(len(labelled), accuracy, share, foreseen))
            number = max(FIRST, round((GROWTH - 1) * len(labelled)))
    return best, rounds


def needed(rounds: Sequence[Round], best: float) -> int:
    """Labels from which on the accuracy is within a point of that with all, in two rounds that follow each other."""
    reached = [one.accuracy >= best - NEAR for one in rounds]
    for place, one in enumerate(rounds):
        if reached[place] and (place + 1 == len(rounds) or reached[place + 1]):
            return one.labels
    return rounds[-1].labels


def stopped(rounds: Sequence[Round]) -> Round:
    """The round after which it is said that more labels will hardly help; the last, where that is never said."""
    shares = [one.changed for one in rounds[1:]]
    return next((rounds[end] for end in range(1, len(rounds)) if is_settled(shares[:end])), rounds[-1])


def measure_labelling(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each method, over several divisions, the labels that it takes to come within a point of the accuracy of all
    labels on a third that is held out, and in terms of random choice, with a 95 % interval; by how much its mean
    accuracy over the rounds is below that of all; and after how many labels, and how far below, one is told to stop.
    """
    own = {"image_size": None, "normalize": None}  # what the weights expect
    config = with_model(DictConfig({**settings, "data": {**settings["data"], **own}}), "pretrained")
    data = build_data(config)
    config = with_facts(config, data)
    options, _ = fast.apply(fast.FastSettings(**settings["fast"]), "cpu")
    classifier = build_classifier(config, data.class_names, data.preprocessing, options, class_weights=None)
    table = data.table
    rows = np.setdiff1d(np.arange(len(table.paths)), list(table.errors))
    features = image_features(classifier, data, rows)
    labels = table.labels[rows].astype(np.int64)
    names = group_names(table)
    groups = [names[row] for row in rows]
    divisions: list[dict[str, dict[str, Any]]] = []
    with threadpool_limits(1):
        for seed in range(settings["divisions"]):
            tested = draw_folds(labels, groups, 3, np.random.default_rng(seed)) == 0
            best, rounds = simulate(features, labels, tested, list(METHODS), len(table.class_names), seed)
            log.info("Division %d: %.1f %% with all %d labels", seed, 100 * best, int((~tested).sum()))
            divisions.append(
                {
                    name: {
                        "needed": needed(own, best),
                        "below": 100 * float(np.mean([best - one.accuracy for one in own])),
                        "stop": stopped(own).labels,
                        "below at stop": 100 * (best - stopped(own).accuracy),
                        "all": best,
                        "pool": int((~tested).sum()),
                        "rounds": [[*one] for one in own],
                    }
                    for name, own in rounds.items()
                }
            )
    return {name: _row(name, divisions) for name in METHODS}


def _row(name: str, divisions: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    own = [division[name] for division in divisions]
    ratio = np.log([division[name]["needed"] / division["random"]["needed"] for division in divisions])
    half = stats.t.ppf(0.975, len(ratio) - 1) * ratio.std(ddof=1) / np.sqrt(len(ratio)) if len(ratio) > 1 else np.inf
    return {
        "value": float(np.exp(np.mean(np.log([one["needed"] for one in own])))),
        "in terms of random": float(np.exp(ratio.mean())),
        "low": float(np.exp(ratio.mean() - half)),
        "high": float(np.exp(ratio.mean() + half)),
        "points below all": float(np.mean([one["below"] for one in own])),
        "labels at stop": float(np.mean([one["stop"] for one in own])),
        "points below at stop": float(np.mean([one["below at stop"] for one in own])),
        "rounds": own,
    }
