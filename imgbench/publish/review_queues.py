"""Which photographs a person is asked to look at, and in which order: arrays in, lists out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imgbench.split_file import SPLITS

TEST = SPLITS.index("test")
UNSURE = 200  # photographs at most that are shown because the network is least sure of them
NAMES = ("suspects", "pairs", "mistakes", "files", "unsure", "blind", "all")


@dataclass(frozen=True)
class Item:
    """One photograph, or two beside each other; `why` is the name of a text, and `value` is put into it."""

    rows: tuple[int, ...]
    why: str
    value: str = ""


def build_queues(
    labels: np.ndarray,
    splits: np.ndarray,
    probabilities: np.ndarray,
    suspects: Sequence[int],
    pairs: Sequence[tuple[int, int, str, float]],
    damaged: Mapping[int, str],
    odd: Mapping[int, str],
    order: np.ndarray,
) -> dict[str, list[Item]]:
    """The items of each of NAMES.

    Test images are in `blind` and `pairs` alone. In `blind`, those that the network contradicts are hidden among as
    many others: that one is shown shall not tell what the network says.

    Args:
        labels: (N,) indices of classes.
        splits: (N,) indices into SPLITS.
        probabilities: (N, num_classes), NaN where nothing is known; of training images by a model that has not seen
            them, where there is one.
        suspects: rows, the most suspicious first.
        pairs: (row, row, kind, similarity).
        damaged: row -> why it cannot be decoded.
        odd: row -> the name of a text.
        order: (N,) in which blind photographs are shown, which must not tell anything of them.
    """
    tested = splits == TEST
    known = ~np.isnan(probabilities).any(1)
    best = np.where(known, np.nan_to_num(probabilities).argmax(1), labels)
    wrong = known & (best != labels)
    confidence = np.nan_to_num(probabilities).max(1, initial=0)
    own = [row for row in np.flatnonzero(wrong & ~tested) if row not in damaged]
    mistakes = sorted(own, key=lambda row: -confidence[row])
    return {
        "suspects": [Item((row,), "why_suspect") for row in suspects if not tested[row]],
        "pairs": _pairs(labels, splits, pairs),
        "mistakes": [Item((int(row),), "why_mistake", f"{100 * confidence[row]:.0f}") for row in mistakes],
        "files": [
            *(Item((row,), "why_damaged", reason) for row, reason in damaged.items()),
            *(Item((row,), why) for row, why in odd.items() if row not in damaged and not tested[row]),
        ],
        "unsure": [Item((row,), "why_unsure") for row in _least_sure(probabilities, known & ~tested)],
        "blind": [Item((row,), "why_blind") for row in _blind(tested, wrong, order)],
        "all": [Item((row,), "why_all") for row in np.flatnonzero(~tested).tolist()],
    }


def _pairs(labels: np.ndarray, splits: np.ndarray, pairs: Sequence[tuple[int, int, str, float]]) -> list[Item]:
    """Those across classes first, then those across splits; what is certain before what is likely."""
    asked = []
    for first, second, kind, similarity in pairs:
        other_class, other_split = labels[first] != labels[second], splits[first] != splits[second]
        if kind == "scene" or not (other_class or other_split):
            continue
        # Of a test image, the class must not be told, and so neither that it is another one.
        hidden = TEST in (splits[first], splits[second])
        why = "splits" if hidden or not other_class else "classes"
        why = f"why_same_{why}" if kind == "exact" else f"why_pair_{why}"
        item = Item((first, second), why, "" if kind == "exact" else f"{100 * similarity:.0f}")
        asked.append((hidden or not other_class, -similarity, item))
    return [item for _, _, item in sorted(asked, key=lambda one: one[:2])]


def _least_sure(probabilities: np.ndarray, chosen: np.ndarray) -> list[int]:
    """The rows where the two most probable classes are nearest to each other, the nearest first."""
    rows = np.flatnonzero(chosen)
    if not len(rows) or probabilities.shape[1] < 2:
        return []
    two = np.sort(probabilities[rows], 1)[:, -2:]
    return rows[np.argsort(two[:, 1] - two[:, 0], kind="stable")][:UNSURE].tolist()


def _blind(tested: np.ndarray, wrong: np.ndarray, order: np.ndarray) -> list[int]:
    """The test images that the network contradicts, and as many others."""
    doubted = np.flatnonzero(tested & wrong)
    others = np.flatnonzero(tested & ~wrong)
    others = others[np.argsort(order[others], kind="stable")][: len(doubted)]
    rows = np.concatenate([doubted, others])
    return rows[np.argsort(order[rows], kind="stable")].tolist()
