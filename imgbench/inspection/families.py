"""Families of images that show in the names of their files: copies of one photograph, photographs of one patient.

A name alone is no proof. An expression is proposed only where the pixels support it (most near duplicates lie within
its groups, far more than chance would have it), or else the counts (groups of one size, as augmentation makes them).
Neighbours in a folder look alike where it holds a film or a series. Then any groups of neighbours, such as dates, hold
most near duplicates. So it is asked too whether these keep to the limits of the groups: fewer cross them than would
cross the same limits elsewhere along the files.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from imgbench.data.split import assign_splits
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.inspection.duplicates import Pair

SEPARATORS = "_-. ()"
LONGEST = 4  # parts of a name that make a group
MOST = 0.2  # share of all images that one group may have
HUGE = 100  # times the usual size: a group that is no family; patients of radiographs reach 16
PAIRS = 5  # at least, within groups
SHARE = 0.5  # of all pairs, within groups
BEYOND_CHANCE = 10  # times
KEPT_TO = 0.65  # of the pairs that would cross the limits elsewhere, at most so many cross them where they are
SHIFTS = 32  # places along the files at which the limits are tried
SURE = 0.01  # probability that as few would cross by chance
EQUAL = 0.95  # share of the images in groups of the usual size
COPY = r"^(.+?)(?:[ _-]*(?:\(\d+\)|copy|aug\w*|flip\w*|rot\w*|mirror\w*|crop\w*))+\.\w+$"


@dataclass(frozen=True)
class Family:
    """An expression for `data.split.group`, and what speaks for it."""

    expression: str
    groups: list[str]  # of each row
    number: int  # of groups of more than one image
    images: int  # in them
    support: str  # "pixels" or "counts"
    evidence: str

    def moves(self, table: ImageTable) -> int | None:
        """How many images come into another split if these groups are kept together; None if they cannot be."""
        plan = replace(table.plan, group=self.expression)
        before = table.decided or table  # images are divided by the labels before corrections
        try:
            new = assign_splits(table.given, before.labels, table.class_names, plan, self.groups, table.errors)
        except UserError:
            return None
        return int((new != before.splits).sum())


def find_family(table: ImageTable, pairs: Sequence[Pair]) -> Family | None:
    """The expression that has most support; of several equally good ones that with the smallest groups.

    None where names tell nothing, or no more than the expression that `data.split.group` states.
    """
    names = [path.rsplit("/", 1)[-1] for path in table.paths]
    rows = np.setdiff1d(np.arange(len(names)), list(table.errors))
    links = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    supported: list[tuple[float, Family, np.ndarray]] = []
    for expression in expressions([names[row] for row in rows]):
        groups, codes, sizes = _groups(expression, names, rows)
        usual = float(np.median(sizes[sizes > 1])) if (sizes > 1).any() else 1.0
        if prefixes := [groups[int(np.flatnonzero(codes == code)[0])] for code in np.flatnonzero(sizes > HUGE * usual)]:
            # What so many images have in common is the beginning of all names of a source: there the name goes on.
            expression = f"^({''.join(f'{re.escape(name)}.*|' for name in prefixes)}{expression[2:]}"
            groups, codes, sizes = _groups(expression, names, rows)
        if sizes.max() > max(MOST * len(rows), 2) or len(rows) == (sizes > 0).sum():
            continue
        within = codes[links[:, 0]] == codes[links[:, 1]]
        kept_to, elsewhere = _keep_to_groups(table, codes, links, usual)
        chance = float((sizes * (sizes - 1.0)).sum() / (len(rows) * (len(rows) - 1.0)))
        number, images = int((sizes > 1).sum()), int(sizes[sizes > 1].sum())
        if kept_to and within.sum() >= PAIRS and within.mean() > max(SHARE, min(BEYOND_CHANCE * chance, 0.9)):
            evidence = (
                f"{within.sum():,} of {len(links):,} pairs of images that look alike lie within these groups "
                f"({within.mean():.0%}; by chance {chance:.1%})"
            )
            family = Family(expression, groups, number, images, "pixels", evidence)
        elif (kept_to or elsewhere < PAIRS) and (usual := _usual_size(table, codes, sizes, rows)):
            family = Family(
                expression, groups, number, images, "counts", f"nearly all groups have {usual} images, of one class"
            )
        else:
            continue
        supported.append((float(within.mean()) if len(within) else 0.0, family, codes))
    best = _choose(supported, links)
    known = table.groups if table.plan.group not in (None, "auto") else None
    if best is None or (known and len(set(zip(best.groups, known, strict=True))) == len(set(best.groups))):
        return None
    return best


def _keep_to_groups(table: ImageTable, codes: np.ndarray, links: np.ndarray, usual: float) -> tuple[bool, float]:
    """Whether pairs heed the limits of groups; and how many would cross the same limits elsewhere along the files.

    Pairs of one class are asked, and limits are moved within it: those of classes are no merit of names. No neighbours
    are two images of different classes: of these it is enough that most lie within groups.
    """
    labels = np.unique(table.labels, return_inverse=True)[1]  # photographs without a label are one class here
    same = labels[links[:, 0]] == labels[links[:, 1]]
    crossing = codes[links[:, 0]] != codes[links[:, 1]]
    order = np.argsort(labels, kind="stable")
    place = np.argsort(order)
    first = np.searchsorted(labels[order], labels[order])
    number = np.bincount(labels)[labels[order]]
    one, other = place[links[same]].T
    counts = []
    for shift in np.unique(np.linspace(1, max(2 * usual, 4), SHIFTS).round().astype(int)):
        moved = codes[order[first + (np.arange(len(order)) - first + shift) % number]]
        counts.append((moved[one] != moved[other]).sum())
    elsewhere = float(np.mean(counts))
    few = binom.cdf(crossing[same].sum(), max(same.sum(), 1), elsewhere / max(same.sum(), 1)) < SURE
    across = crossing[~same]
    kept_to = (few and crossing[same].sum() <= KEPT_TO * elsewhere) or (
        (~across).sum() >= PAIRS and across.mean() < 1 - SHARE
    )
    return bool(kept_to), elsewhere


def _choose(supported: list[tuple[float, Family, np.ndarray]], links: np.ndarray) -> Family | None:
    """Pixels before counts; the finest that explains the pairs, or a coarser one where pairs cross its groups too."""
    by_pixels = [one for one in supported if one[1].support == "pixels"]
    if not by_pixels:
        finest = max(supported, key=lambda one: len(set(one[1].groups)), default=None)
        return finest and finest[1]
    most = max(share for share, _, _ in by_pixels)
    explaining = [one for one in by_pixels if one[0] > 0.95 * most]
    _, best, codes = max(explaining, key=lambda one: len(set(one[1].groups)))
    crossing = links[codes[links[:, 0]] != codes[links[:, 1]]]
    for _, coarser, other in sorted(by_pixels, key=lambda one: -len(set(one[1].groups))):
        nested = len(np.unique(np.stack([codes, other]), axis=1).T) == codes.max() + 1
        within = other[crossing[:, 0]] == other[crossing[:, 1]]
        if nested and other.max() < codes.max() and within.sum() >= PAIRS and within.mean() > 0.3:
            return coarser
    return best


def expressions(names: Sequence[str]) -> Iterator[str]:
    """Regular expressions that match all names: their first parts, and what stands before a mark of copies."""
    for separator in SEPARATORS:
        escaped = re.escape(separator)
        stop = rf"[^{escaped}]+"
        least = min((name.rpartition(".")[0].count(separator) for name in names), default=0)
        for parts in range(1, min(least, LONGEST) + 1):
            repeated = "" if parts == 1 else f"(?:{stop}{escaped}){{{parts - 1}}}"
            yield f"^({repeated}{stop}){escaped}"
    for expression in (r"^(\D*\d+)\D+\d", COPY.replace("))+", "))*")):
        if all(re.search(expression, name) for name in names):
            yield expression


def _groups(expression: str, names: Sequence[str], rows: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The name and the number of the group of each image, and how many of the images `rows` each group has."""
    found = (re.search(expression, name) for name in names)  # damaged files need not match
    groups = [match[1] if match else name for match, name in zip(found, names, strict=True)]
    codes = np.unique(groups, return_inverse=True)[1]
    return groups, codes, np.bincount(codes[rows], minlength=codes.max() + 1)


def _usual_size(table: ImageTable, codes: np.ndarray, sizes: np.ndarray, rows: np.ndarray) -> int | None:
    """The size that nearly all groups have, each of one class; None if there is none, or if groups are the classes."""
    used = sizes[sizes > 0]
    usual, number = Counter(used.tolist()).most_common(1)[0]
    pure = len(np.unique(np.stack([codes[rows], table.labels[rows]]), axis=1).T) == len(used)
    many = len(used) >= max(10, 3 * len(table.class_names))
    return usual if usual > 1 and many and pure and number * usual >= EQUAL * len(rows) else None
