"""Divides images into train, val and test: by fraction or number, stratified, and with groups kept together."""

import re
from collections import defaultdict
from collections.abc import Collection, Container
from dataclasses import dataclass

import numpy as np

from imgbench.errors import UserError
from imgbench.split_file import SPLITS, cross_validating

TRAIN, VAL, TEST = range(3)  # indices into SPLITS
NO_SPLIT = -1
MOST_NAMED = 12  # classes, in a message
WEIGHED = 2000  # groups, from which those are chosen that have the number of images wanted


@dataclass(frozen=True)
class SplitPlan:
    """How images are divided where the folders do not say.

    `val` and `test` are fractions of all images (below 1) or numbers of images; `val="test"` selects the model on the
    test images, as the posts did, and gives up an independent estimate. `group` is a regular expression searched in the
    file name: images with the same match (of its first parenthesis, if it has one) stay on one side. `group="auto"`
    finds out which images belong together.

    With `folds`, the images are divided into so many parts. Part `fold`, counted from 0, is the test images; the
    share of `val` is drawn from the others, so that nothing is chosen on the images that are tested on. Without `fold`
    there are no test images: it is the plan of the network that is kept by a run that cross-validates.

    Where the folders divide, images in val and test that belong to a group of the training images are only named with
    `leaks="warn"`, and left out with `leaks="drop"`.
    """

    val: float | int | str = 0.15
    test: float | int = 0.15
    seed: int = 42
    stratify: bool = True
    group: str | None = None
    folds: int | None = None
    fold: int | None = None
    leaks: str = "warn"

    @property
    def selects_on_test(self) -> bool:
        return self.val == "test"

    @property
    def cross_validates(self) -> bool:
        """Whether every image is tested on once, by one of as many networks as there are folds."""
        return cross_validating(vars(self)) is not None


def group_names(paths: list[str], pattern: str | None, without: Container[int] = ()) -> list[str]:
    """The group of each path; "" without a pattern, and in the rows `without`.

    Raises:
        UserError: the pattern is no regular expression, or finds no group in a file's name.
    """
    if pattern is None:
        return [""] * len(paths)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.split.group={pattern!r} is not a regular expression: {error}.") from error
    groups = []
    for row, path in enumerate(paths):
        name = path.rsplit("/", 1)[-1]
        match = regex.search(name)
        group = match and match[1 if regex.groups else 0]
        if not group and row not in without:
            found = "does not match" if group is None else "finds only an empty group in"
            raise UserError(
                f"data.split.group={pattern!r} {found} {name!r}; every file needs a group, so "
                f"{'widen the expression' if group is None else 'have it match a character at least'} "
                "or rename the file."
            )
        groups.append("" if row in without else group or "")
    return groups


def assign_splits(
    given: np.ndarray,
    labels: np.ndarray,
    class_names: list[str],
    plan: SplitPlan,
    groups: list[str],
    without: Collection[int] = (),
) -> np.ndarray:
    """(N,) int8 of indices into SPLITS; what the folders have `given` is kept, what is missing is carved out of train.

    The rows `without` come into no split.

    Raises:
        UserError: a class or the whole has too few images for the splits asked for.
    """
    splits = np.where(given == NO_SPLIT, TRAIN, given).astype(np.int8)
    splits[list(without)] = NO_SPLIT
    undivided = int(((given == NO_SPLIT) & (splits != NO_SPLIT)).sum())
    # Shares are of the whole that the folders left undivided, so that val=0.15 means the same with or without test.
    whole = undivided or int((splits == TRAIN).sum())
    rng = np.random.default_rng(plan.seed)
    _check_plan(plan)
    if plan.folds is not None:
        _check_folds(given, plan)
        rows = np.flatnonzero(splits == TRAIN)
        splits[rows[draw_folds(labels[rows], [groups[row] for row in rows], plan.folds, rng) == plan.fold]] = TEST
    elsewhere = TEST if plan.cross_validates else VAL if plan.selects_on_test else None
    for split, share in ((TEST, plan.test), (VAL, plan.val)):
        if (splits == split).any() or split == elsewhere:
            continue
        assert not isinstance(share, str)
        wanted = share if isinstance(share, int) else round(share * whole)
        candidates = np.flatnonzero(splits == TRAIN)
        if _any_together(groups, candidates):
            classes = labels if plan.stratify else np.zeros_like(labels)
            chosen = _draw_groups(candidates, classes, groups, wanted, rng)
        elif plan.stratify:
            chosen = draw_stratified(candidates, labels, wanted, rng)
        else:
            chosen = rng.permutation(candidates)[:wanted]
        splits[chosen] = split
    drawn = [TRAIN, *(split for split in (VAL, TEST) if split not in given)]
    if elsewhere in drawn:
        drawn.remove(elsewhere)
    _require_every_class(drawn, splits, labels, class_names, groups)
    return splits


def _check_plan(plan: SplitPlan) -> None:
    """What can be told without images.

    Raises:
        UserError: a share, a fold or `leaks` is none.
    """
    if plan.leaks not in ("warn", "drop"):
        raise UserError(f"data.split.leaks={plan.leaks!r}, but it is warn or drop.")
    for name, share in (("val", plan.val), ("test", plan.test)):
        if name == "val" and plan.selects_on_test:
            continue
        if not isinstance(share, int | float) or isinstance(share, bool) or share <= 0:
            allowed = "a fraction between 0 and 1 or a number of images" + (', or "test"' if name == "val" else "")
            raise UserError(f"data.split.{name}={share!r}, but it takes {allowed}.")
    if plan.folds is None and plan.fold is not None:
        raise UserError(f"data.split.fold={plan.fold} is one of how many? Set data.split.folds too, for example to 5.")
    fractions = [share for share in (plan.val, plan.test) if isinstance(share, float)]
    if plan.folds is None and sum(fractions) >= 1:
        raise UserError(
            f"data.split.val={plan.val} and data.split.test={plan.test} leave nothing to train on; "
            "lower them, for example data.split.val=0.15 data.split.test=0.15."
        )


def number_of_folds(folds: object) -> int:
    """`data.split.folds`.

    Raises:
        UserError: it is no number of parts.
    """
    if not isinstance(folds, int) or isinstance(folds, bool) or folds < 2:
        raise UserError(f"data.split.folds={folds!r}, but it is a number of parts, 2 or more.")
    return folds


def _check_folds(given: np.ndarray, plan: SplitPlan) -> None:
    folds, fold = number_of_folds(plan.folds), plan.fold
    if fold is not None and (not isinstance(fold, int) or isinstance(fold, bool) or not 0 <= fold < folds):
        raise UserError(f"data.split.fold={fold!r}, but of data.split.folds={folds} they are 0 to {folds - 1}.")
    if plan.selects_on_test:
        raise UserError("data.split.val=test would choose the epoch on the fold that is tested on. Set a share: 0.15")
    if others := [name for split, name in enumerate(SPLITS) if split != TRAIN and split in given]:
        raise UserError(
            f"data.split.folds={folds} divides images, but these are divided by folders or a table of labels: "
            f"train and {' and '.join(others)}. Put the class folders side by side, set data.columns.split=null, or "
            "leave data.split.folds out."
        )


def draw_folds(labels: np.ndarray, groups: list[str], folds: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) the fold of each image: groups stay whole, and each class is divided as evenly as they allow.

    The groups of a class (of a group's most frequent one), largest first, each come into the fold that has the fewest
    images of the class, and of those the one that has the fewest of all.
    """
    fold_of, total = np.empty(len(labels), np.int64), np.zeros(folds, np.int64)
    for own in _groups_by_class(np.arange(len(labels)), labels, groups):
        taken = np.zeros(folds, np.int64)
        for rows in sorted((own[i] for i in rng.permutation(len(own))), key=len, reverse=True):
            fold = np.lexsort((total, taken))[0]
            fold_of[rows] = fold
            taken[fold] += len(rows)
            total[fold] += len(rows)
    return fold_of


def _members(rows: np.ndarray, groups: list[str]) -> list[list[int]]:
    """The rows of each group; those of no group are alone."""
    members: dict[object, list[int]] = defaultdict(list)
    for row in rows.tolist():
        members[groups[row] or row].append(row)
    return list(members.values())


def _groups_by_class(rows: np.ndarray, labels: np.ndarray, groups: list[str]) -> list[list[list[int]]]:
    """For each class the groups where it is the most frequent one, each as its rows."""
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for group in _members(rows, groups):
        by_class[int(np.bincount(labels[group]).argmax())].append(group)
    return [by_class[label] for label in sorted(by_class)]


def _any_together(groups: list[str], rows: np.ndarray) -> bool:
    names = [groups[row] for row in rows]
    return len(set(names) - {""}) + names.count("") < len(names)


def draw_stratified(candidates: np.ndarray, labels: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` of the candidates with the classes in proportion: largest remainders, at least one of each class."""
    classes, counts = np.unique(labels[candidates], return_counts=True)
    exact = counts * wanted / max(len(candidates), 1)
    quota = np.maximum(np.floor(exact).astype(int), 1)
    for index in np.argsort(quota - exact, kind="stable")[: max(wanted - quota.sum(), 0)]:
        quota[index] += 1
    chosen = [
        rng.permutation(candidates[labels[candidates] == label])[:number]
        for label, number in zip(classes, quota, strict=True)
    ]
    return np.concatenate(chosen) if chosen else candidates[:0]


def _draw_groups(
    candidates: np.ndarray, labels: np.ndarray, groups: list[str], wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """Whole groups, drawn class by class (of a group's most frequent class) until each class has its share."""
    chosen: list[int] = []
    for own in _groups_by_class(candidates, labels, groups):
        target = wanted * sum(map(len, own)) / max(len(candidates), 1)
        order = [own[index] for index in rng.permutation(len(own))]
        number = taken = 0
        # Take a group if that brings the class nearer to its share; leave one group at least to train on.
        while number < len(order) - 1 and (not taken or taken + len(order[number]) / 2 <= target):
            taken += len(order[number])
            number += 1
        drawn = order[:number]
        if abs(taken - target) >= 1:
            drawn = min(drawn, _nearest(order, target), key=lambda groups: abs(sum(map(len, groups)) - target))
        chosen += [row for group in drawn for row in group]
    return np.array(chosen, dtype=np.int64)


def _nearest(order: list[list[int]], target: float) -> list[list[int]]:
    """Those of the groups, the first in `order` where there is a choice, that have as nearly as can be `target` images.

    Neither none nor all of them. Of very many groups the first `WEIGHED` are enough to choose from.
    """
    order = order[:WEIGHED]
    sizes = [len(group) for group in order]
    most = max(int(2 * target), min(sizes)) + 1
    reachable = [1]  # bit n is set where the first groups, as many as the place in the list, can give n images
    for size in sizes:
        reachable.append((reachable[-1] | reachable[-1] << size) & ((1 << most) - 1))
    numbers = [number for number in range(1, min(most, sum(sizes))) if reachable[-1] >> number & 1]
    left = min(numbers, key=lambda number: abs(number - target), default=0)
    chosen = []
    for place in range(len(order) - 1, -1, -1):
        if not reachable[place] >> left & 1:
            chosen.append(order[place])
            left -= sizes[place]
    return chosen


def _require_every_class(
    drawn: list[int], splits: np.ndarray, labels: np.ndarray, class_names: list[str], groups: list[str]
) -> None:
    """Every class has images in train, and in what is carved out of train; a folder for val or test may lack some."""
    lacking: dict[int, int] = {}  # class -> the first of the splits in which it has no image
    for split in drawn:
        counts = np.bincount(labels[splits == split], minlength=len(class_names))
        for label in np.flatnonzero(counts == 0).tolist():
            lacking.setdefault(label, split)
    for label, split in lacking.items():
        rows = np.flatnonzero((labels == label) & (splits != NO_SPLIT))
        number = len(_members(rows, groups))
        unit, thing = "images" if len(rows) > 1 else "image", "image"
        if number < len(rows):
            unit += f" in {number} group{'s' if number > 1 else ''}, which data.split.group keeps together"
            thing = "group"
        needed = ", ".join(SPLITS[one] for one in drawn)
        other = ", change data.split.seed, or use data.split.stratify=true" if number >= len(drawn) else ""
        leave = f"{'' if other else 'or '}leave the class out (remove its folder, or its name from the table of labels)"
        others = [f"{class_names[one]!r} ({(labels == one).sum()})" for one in lacking if one != label]
        more = f", and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        too = f"\nSo it is with {len(others)} more: {', '.join(others[:MOST_NAMED])}{more}." if others else ""
        raise UserError(
            f"data.split: class {class_names[label]!r} has {len(rows)} {unit}, and none of them came into "
            f"{SPLITS[split]!r}.{too}\nEach class needs at least one {thing} for each of {needed}: "
            f"add images, {leave}{other}."
        )
