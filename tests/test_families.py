"""Families of file names are proposed where pixels or counts support them, and not from names alone."""

from pathlib import Path

import numpy as np
import pytest

from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT, SplitPlan
from imgbench.data.table import ImageTable
from imgbench.inspection.duplicates import Pair
from imgbench.inspection.families import expressions, find_family


def make_table(names: dict[str, list[str]], **plan) -> ImageTable:
    """Of files that need not be there, one in five of them in test and one in five in val."""
    paths = [f"{label}/{name}" for label, own in names.items() for name in own]
    labels = np.repeat(np.arange(len(names)), [len(own) for own in names.values()]).astype(np.int32)
    splits = np.array([(0, 0, 0, 1, 2)[row % 5] for row in range(len(paths))], np.int8)
    groups = [""] * len(paths)
    digests = np.arange(16 * len(paths)).reshape(-1, 16).astype(np.uint8)
    return ImageTable(
        Path("photos"), list(names), paths, labels, np.full(len(paths), NO_SPLIT, np.int8),
        np.zeros((len(paths), 4), np.int64), Folder(Path("photos")), digests=digests, plan=SplitPlan(**plan),
        groups=groups, splits=splits,
    )  # fmt: skip


def copies(letter: str, patients: int, photographs: int, copies: int) -> list[str]:
    return [f"{letter}{p:02}_{f:02}_{c:02}.jpg" for p in range(patients) for f in range(photographs)
            for c in range(copies)]  # fmt: skip


def pairs_within(table: ImageTable, parts: int, every: int = 1) -> list[Pair]:
    """A pair of each image with the next, where both have the same first parts of the name."""
    stems = [Path(path).stem.split("_")[:parts] for path in table.paths]
    return [Pair(row, row + 1, "near", 0.95) for row in range(0, len(stems) - 1, every) if stems[row] == stems[row + 1]]


@pytest.fixture
def augmented():
    """Two photographs of each patient, in six copies each."""
    return make_table({"pox": copies("M", 12, 2, 6), "other": copies("NM", 12, 2, 6)})


def test_copies_of_a_photograph_are_proposed_where_pixels_show_them(augmented):
    family = find_family(augmented, pairs_within(augmented, 2, every=3))
    assert family is not None
    assert (family.support, family.expression) == ("pixels", "^((?:[^_]+_){1}[^_]+)_")
    assert (family.number, family.images) == (48, 288)
    assert "96 of 96 pairs of images that look alike" in family.evidence


def test_patients_are_proposed_where_their_photographs_are_alike_too(augmented):
    pairs = pairs_within(augmented, 2, every=3)
    pairs += [Pair(row, row + 6, "near", 0.92) for row in range(0, 120, 12)]  # across the photographs of a patient
    family = find_family(augmented, pairs)
    assert family is not None
    assert family.expression == "^([^_]+)_"
    assert family.number == 24


def test_groups_of_one_size_are_support_without_pixels(augmented):
    family = find_family(augmented, [])
    assert family is not None
    assert family.support == "counts"
    assert "6 images, of one class" in family.evidence


def test_how_many_images_change_sides_is_counted(augmented):
    family = find_family(augmented, pairs_within(augmented, 2))
    assert family is not None
    moved = family.moves(augmented)
    assert moved is not None
    assert 0 < moved < len(augmented.paths)


def test_names_alone_are_no_proof():
    rng = np.random.default_rng(0)
    names = [f"{rng.integers(40)}_{n}.jpg" for n in range(200)]  # days, for example
    assert find_family(make_table({"a": names[:100], "b": names[100:]}), []) is None


def test_pairs_that_cross_the_names_support_nothing():
    rng = np.random.default_rng(0)
    names = [f"{rng.integers(40)}_{n}.jpg" for n in range(200)]
    drawn = [rng.choice(200, 2, replace=False).tolist() for _ in range(50)]
    pairs = [Pair(min(rows), max(rows), "near", 0.95) for rows in drawn]
    assert find_family(make_table({"a": names[:100], "b": names[100:]}), pairs) is None


@pytest.mark.parametrize("name", ["IMG_{:04}.jpg", "{:05}.png", "photo {}.jpg"])
def test_numbered_names_are_no_families(name):
    table = make_table({"a": [name.format(n) for n in range(60)], "b": [name.format(n) for n in range(60, 120)]})
    assert find_family(table, [Pair(n, n + 1, "near", 0.95) for n in range(0, 40, 2)]) is None


def test_dates_in_the_order_of_a_series_are_no_families():
    """Neighbours look alike, and so most pairs lie within a day, wherever days begin."""
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(60), rng.integers(2, 16, 60))[:400]
    table = make_table({"a": [f"2026-{day:03}_{n:04}.jpg" for n, day in enumerate(days)], "b": ["x_y.jpg"] * 9})
    pairs = [Pair(n, n + gap, "near", 0.95) for n in range(0, len(days) - 3) for gap in (1, 2)]
    assert np.mean([days[pair.first] == days[pair.second] for pair in pairs]) > 0.7
    assert find_family(table, pairs) is None


def test_fives_in_the_order_of_a_series_are_no_families_but_copies_in_fives_are():
    table = make_table({name: [f"{n // 5:03}_{n % 5}.jpg" for n in range(200)] for name in "ab"})
    series = [Pair(n, n + 1, "near", 0.95) for n in range(399) if n != 199]
    assert find_family(table, series) is None
    family = find_family(table, [pair for pair in series if pair.first % 5 < 4])
    assert family is not None
    assert (family.support, family.number) == ("pixels", 40)


def test_families_across_classes_are_proposed():
    table = make_table({name: [f"{n:03}_{name}.jpg" for n in range(60)] for name in ("worn", "whole")})
    family = find_family(table, [Pair(n, 60 + n, "near", 0.95) for n in range(30)])
    assert family is not None
    assert (family.support, family.number) == ("pixels", 60)


def test_nothing_is_proposed_that_is_set_already(augmented):
    augmented.plan = SplitPlan(group="^([^_]+)_")
    augmented.groups = [Path(path).stem.split("_")[0] for path in augmented.paths]
    assert find_family(augmented, pairs_within(augmented, 2)) is None


def test_marks_of_copies_make_families():
    names = [f"leaf{n}{mark}.jpg" for n in range(30) for mark in ("", "_flip", "_rot90", " (1)")]
    table = make_table({"a": names[:60], "b": names[60:]})
    family = find_family(table, [Pair(row, row + 1, "near", 0.95) for row in range(0, 120, 2)])
    assert family is not None
    assert family.groups[0] == family.groups[1] == family.groups[3] == "leaf0"
    assert family.number == 30


def test_the_beginning_of_all_names_of_a_source_is_no_family():
    persons = [f"person{p}_{kind}_{n}.jpg" for p in range(700) for n, kind in enumerate(("virus", "bacteria"))]
    table = make_table({"ill": persons, "well": [f"NORMAL2-IM-{n:04}-0001.jpg" for n in range(300)]})
    family = find_family(table, [Pair(row, row + 1, "near", 0.95) for row in (*range(0, 80, 2), *range(1400, 1420, 2))])
    assert family is not None
    assert family.expression == r"^(NORMAL2.*|\D*\d+)\D+\d"
    assert (family.number, family.images) == (700, 1400)


def test_expressions_match_every_name():
    assert list(expressions(["a_1_x.jpg", "b_2_y.jpg"]))[:2] == ["^([^_]+)_", "^((?:[^_]+_){1}[^_]+)_"]
    assert "^([^_]+)_" not in list(expressions(["a_1.jpg", "b.jpg"]))
