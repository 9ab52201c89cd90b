"""Whether images that come one after the other are still like those of a calibration: conformal test martingales.

Under the hypothesis that the calibration images and those that follow come in random order, the online conformal p
values of the latter are independent and uniform (Vovk, Nouretdinov and Gammerman 2003, "Testing exchangeability
on-line"). They are so only if each image is compared with the calibration and with all images before it: p values
against the calibration alone depend on each other by what that has by chance. Equal scores share their place by
random numbers.

A martingale is the capital of somebody who bets against the hypothesis at fair odds. That it ever reaches c times its
beginning has a probability of at most 1 / c (Ville 1939), however long it goes on.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RISK = 0.05  # of a false alarm, however long it goes on
# Two are watched, novelty and classes. Each is a martingale of what it sees itself, and their mean need not be one of
# what both see, so that the risk is divided between them.
ALARM = 2 / RISK
# Shares of the capital that are dealt out anew before each bet, as by the simple jumper of Vovk et al. 2021, "Retrain
# or not retrain" (https://arxiv.org/abs/2102.10439). The larger ones follow a change in time, the smaller ones keep the
# capital while nothing changes. The mean is taken (the composite jumper, https://arxiv.org/abs/2107.01726).
RATES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
CLASS_RATES = np.array([1e-3, 1e-2])  # with others beside these, fewer changes of the mix of classes were noticed
NEAR_ZERO = 1e-12  # of a p value, so that no bet wins an infinite sum
ODDS = np.array([1 / 4, 1 / 2, 2, 4])  # of a class, by which they may have been multiplied
# A p value is below the share of a class among the images compared if the class was predicted. A bet must not know that
# share, by which p values would depend on each other, but the share among the training images is near it.
NEAR = np.array([0.6, 0.8, 1, 1.25, 1.6])
SMALLEST, LARGEST = 0.001, 0.97  # share that is bet with


def novelty_bets(p: np.ndarray) -> np.ndarray:
    """(..., 5) what each way of betting makes of a unit of capital; of uniform p values (...,), 1 on average.

    The first stays out of it, the next two are the simple jumper's, and the others are power martingales, which win
    most by few extreme values (the power is 1/2).
    """
    p = np.clip(p, NEAR_ZERO, 1 - NEAR_ZERO)
    return np.stack([np.ones_like(p), 1.5 - p, 0.5 + p, 0.5 / np.sqrt(p), 0.5 / np.sqrt(1 - p)], -1)


def class_bets(p: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(..., k, 21) as `novelty_bets`, of a p value for each of k classes (..., k).

    The first stays out of it. Each other wins if a class comes more often, or more seldom, than its share foretells.

    Args:
        shares: (k,) of the classes, near to those among the images that p values are of.
    """
    below = np.clip(shares[:, None, None] * NEAR[:, None], SMALLEST, LARGEST)  # (k, 5, 1)
    then = ODDS * below / (1 + (ODDS - 1) * below)  # (k, 5, 4) the share, once the odds are multiplied
    won = np.where(p[..., None, None] < below, then / below, (1 - then) / (1 - below))
    won = won.reshape(*p.shape, NEAR.size * ODDS.size)
    return np.concatenate([np.ones_like(won[..., :1]), won], -1)


def shares_of(counts: np.ndarray) -> np.ndarray:
    """(k,) the shares of classes of which so many images were seen; none is 0 (Krichevsky and Trofimov 1981)."""
    return (counts + 0.5) / (counts.sum() + len(counts) / 2)


class Jumper:
    """The capitals of several bettors, of whom there is an array of the shape `bettors`."""

    def __init__(self, bettors: tuple[int, ...], ways: int, rates: np.ndarray) -> None:
        self._rates = rates[:, None]
        self._capital = np.full((*bettors, len(rates), ways), 1 / (ways * len(rates)))
        self._log = np.zeros(bettors)  # of what was taken out, so that numbers stay in range

    def step(self, won: np.ndarray) -> np.ndarray:
        """(*bettors,) the logarithms of the capitals after bets of which each way won so much: (*bettors, ways)."""
        dealt = self._capital.sum(-1, keepdims=True) / self._capital.shape[-1]
        self._capital = ((1 - self._rates) * self._capital + self._rates * dealt) * won[..., None, :]
        total = self._capital.sum((-1, -2))
        self._capital /= total[..., None, None]
        self._log += np.log(total)
        return self._log.copy()


class Bettors:
    """Who bets on the p values of `Comparison`, of several streams at once.

    Args:
        shares: (k,) of all classes among the training images.
    """

    def __init__(self, streams: int, shares: np.ndarray, knows_novelty: bool) -> None:
        self._shares = shares[: _bet_on(len(shares))]
        self._novelty = Jumper((streams, int(knows_novelty)), 5, RATES)
        self._classes = Jumper((streams, len(self._shares)), 1 + NEAR.size * ODDS.size, CLASS_RATES)

    def step(self, p: np.ndarray) -> np.ndarray:
        """(streams, bettors) the logarithms of the capitals after bets on p values (streams, bettors)."""
        novelty, classes = np.split(p, [p.shape[1] - len(self._shares)], 1)
        return np.concatenate(
            [self._novelty.step(novelty_bets(novelty)), self._classes.step(class_bets(classes, self._shares))], 1
        )


def _bet_on(num_classes: int) -> int:
    """The number of classes that are bet on; of two, one says all."""
    return num_classes if num_classes > 2 else 1


class Comparison:
    """Compares images that come one after the other with those of a calibration, each by several p values.

    The first is of the novelty, if that is known: small for an image further from the training images than most. There
    is one more for each class, of whether an image is predicted as it; of two classes, one says all.

    Args:
        novelty: (N,) of the calibration images, which must be independent of each other; None if it is not known.
        predicted: (N,) the indices of their predicted classes.
        seed: of the random numbers by which equal scores share their place.
    """

    def __init__(self, novelty: np.ndarray | None, predicted: np.ndarray, num_classes: int, seed: int) -> None:
        self._bag = None if novelty is None else sorted(novelty.tolist())
        self._counts = np.bincount(predicted, minlength=num_classes)
        self._number = len(predicted)
        self.classes = np.arange(_bet_on(num_classes))
        self._rng = np.random.default_rng(seed)

    def p_values(self, novelty: float, predicted: int) -> np.ndarray:
        """Those of the next image, which later ones are compared with too."""
        first, second = 1 - self._rng.random(2)  # above 0
        self._counts[predicted] += 1
        self._number += 1
        shares = self._counts[: len(self.classes)] / self._number
        of_classes = np.where(self.classes == predicted, second * shares, shares + second * (1 - shares))
        return of_classes if self._bag is None else np.append(_place(self._bag, novelty, first), of_classes)


def levels(logs: np.ndarray, classes: int) -> np.ndarray:
    """(..., 2) the martingales of novelty and classes as powers of ten, of the logarithms of capitals (..., bettors).

    With k classes, each has a k-th of the stake: the second is the largest of their capitals divided by k, which ever
    reaches c with a probability of at most 1 / c. The first is 0 where novelty is not known.
    """
    novelty = logs[..., 0] if logs.shape[-1] > classes else np.zeros(logs.shape[:-1])
    of_classes = logs[..., -classes:].max(-1) - math.log(classes)
    return np.stack([novelty, of_classes], -1) / math.log(10)


@dataclass(frozen=True)
class Seen:
    """What was found when an image came; the martingales are powers of ten."""

    p: float | None  # of its novelty; None if that is not known
    novelty: float
    classes: float
    moved_class: int  # the class by whose share `classes` is the largest

    @property
    def level(self) -> float:
        """The larger of both."""
        return max(self.novelty, self.classes)

    @property
    def alarm(self) -> bool:
        """Whether it has reached `ALARM`."""
        return self.level >= math.log10(ALARM)


class Watch:
    """A `Comparison` and the bets on it.

    Args:
        novelty, predicted, seed: as of that.
        shares: (k,) of the classes among the training images.
    """

    def __init__(self, novelty: np.ndarray | None, predicted: np.ndarray, shares: np.ndarray, seed: int) -> None:
        self.comparison = Comparison(novelty, predicted, len(shares), seed)
        self._knows_novelty = novelty is not None
        self._bettors = Bettors(1, shares, self._knows_novelty)

    def see(self, novelty: float, predicted: int) -> Seen:
        """The next image."""
        p = self.comparison.p_values(novelty, predicted)
        [logs] = self._bettors.step(p[None])
        classes = len(self.comparison.classes)
        level = levels(logs, classes)
        moved = int(self.comparison.classes[logs[-classes:].argmax()])
        return Seen(float(p[0]) if self._knows_novelty else None, float(level[0]), float(level[1]), moved)


def _place(bag: list[float], score: float, among_equals: float) -> float:
    """Adds a score to the sorted ones; the share of them all that is larger, equal ones counted by a random number."""
    bisect.insort(bag, score)
    above = len(bag) - bisect.bisect_right(bag, score)
    equal = len(bag) - above - bisect.bisect_left(bag, score)
    return (above + among_equals * equal) / len(bag)


def first_alarm(seen: Sequence[Seen]) -> int | None:
    """The number of the image, from 0, at which the alarm was raised."""
    return next((number for number, one in enumerate(seen) if one.alarm), None)


def pushes(seen: Sequence[Seen]) -> np.ndarray:
    """(N,) by how many powers of ten each image moved the martingale that is the larger at the end."""
    by_classes = seen[-1].classes > seen[-1].novelty
    path = np.array([one.classes if by_classes else one.novelty for one in seen])
    return np.diff(path, prepend=path[0] if by_classes else 0.0)
