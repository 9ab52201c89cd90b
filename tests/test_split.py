import re

import numpy as np
import pytest

from imgbench.data.scan import scan
from imgbench.data.shards import Folder
from imgbench.data.split import TEST, TRAIN, VAL, SplitPlan, assign_splits, group_names
from imgbench.data.table import ImageTable
from imgbench.errors import UserError


@pytest.fixture
def make_scan(tmp_path):
    """The scan of a folder with so many images in each class, without the files."""

    def make(*counts, splits=None):
        labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        paths = [f"class{label}/{row}.jpg" for row, label in enumerate(labels)]
        given = np.full(len(labels), -1, np.int8) if splits is None else np.array(splits, np.int8)
        names = [f"class{label}" for label in range(len(counts))]
        stamps = np.zeros((len(labels), 4), np.int64)
        return ImageTable(tmp_path, names, paths, labels, given, stamps, Folder(tmp_path))

    return make


def divide(found, groups=None, without=(), **plan):
    groups = groups or [""] * len(found.paths)
    return assign_splits(found.given, found.labels, found.class_names, SplitPlan(**plan), groups, without)


def sizes(splits):
    return [int((splits == split).sum()) for split in (TRAIN, VAL, TEST)]


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize(
    ("val", "test", "expected"),
    [
        (0.15, 0.15, [70, 15, 15]),
        (0.1, 0.2, [70, 10, 20]),
        (0.127, 0.2, [67, 13, 20]),
        (17, 0.2, [63, 17, 20]),
        (0.2, 31, [49, 20, 31]),
        (15, 16, [69, 15, 16]),
    ],
)
def test_fractions_and_numbers_give_exact_counts(make_scan, val, test, expected, stratify):
    assert sizes(divide(make_scan(61, 39), val=val, test=test, stratify=stratify)) == expected


def test_classes_keep_their_proportions(make_scan):
    found = make_scan(600, 300, 100)
    splits = divide(found, val=0.1, test=0.2)
    for split, share in ((TRAIN, 0.7), (VAL, 0.1), (TEST, 0.2)):
        counts = np.bincount(found.labels[splits == split])
        assert counts.tolist() == [round(share * n) for n in (600, 300, 100)]


def test_proportions_that_do_not_divide_differ_by_less_than_one_image(make_scan):
    counts = np.array([37, 23, 11, 5])
    found = make_scan(*counts)
    drawn = np.bincount(found.labels[divide(found, val=10, test=13) == TEST])
    assert drawn.sum() == 13
    assert (np.abs(drawn - counts * 13 / counts.sum()) < 1).all()


def test_a_rare_class_comes_into_every_split(make_scan):
    found = make_scan(200, 3)
    splits = divide(found, val=0.1, test=0.1)
    for split in (TRAIN, VAL, TEST):
        assert (found.labels[splits == split] == 1).sum() == 1


def test_the_seed_decides_the_split(make_scan):
    found = make_scan(30, 30)
    assert np.array_equal(divide(found, seed=1), divide(found, seed=1))
    assert not np.array_equal(divide(found, seed=1), divide(found, seed=2))


def test_without_stratify_the_proportions_are_left_to_chance(make_scan):
    found = make_scan(50, 50)
    drawn = {int((found.labels[divide(found, seed=seed, stratify=False) == TEST] == 0).sum()) for seed in range(10)}
    assert len(drawn) > 1


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_lie_on_two_sides(make_scan, seed):
    found = make_scan(90, 60)
    # Groups of one to nine images, some of them with images of both classes.
    groups = [f"patient{row % 27 if row % 27 < 20 else 0}" for row in range(150)]
    splits = divide(found, groups, group="used by group_names only", val=0.2, test=0.2, seed=seed)
    for group in set(groups):
        assert len({int(split) for split, own in zip(splits, groups, strict=True) if own == group}) == 1, group
    for split in (TRAIN, VAL, TEST):
        assert set(found.labels[splits == split]) == {0, 1}
    assert np.abs(np.array(sizes(splits)) - [90, 30, 30]).max() <= 12


def test_groups_of_one_image_each_give_the_share_of_each_class(make_scan):
    found = make_scan(60, 40)
    splits = divide(found, found.paths, group=".*", val=0.1, test=0.2)
    assert np.bincount(found.labels[splits == TEST]).tolist() == [12, 8]
    assert np.bincount(found.labels[splits == VAL]).tolist() == [6, 4]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["", "", ""]),
        (r"^(N?M\d+)_", ["M01", "M01", "NM2"]),
        (r"^[A-Z]+\d+", ["M01", "M01", "NM2"]),
        (r"(?:\d+)_(\d+)\.", ["00", "13", "7"]),
    ],
)
def test_a_group_is_the_first_parenthesis_or_the_whole_match_in_the_file_name(pattern, expected):
    assert group_names(["M99_/M01_01_00.jpg", "M99_/M01_02_13.jpg", "x/NM2_1_7.png"], pattern) == expected


@pytest.mark.parametrize("pattern", [r"^(N?M\d+)_", r"(patient)?\.", r"^a+"])
def test_a_group_expression_that_does_not_match_is_an_error_naming_it_and_the_file(pattern):
    with pytest.raises(UserError, match=r"does not match 'picture\.jpg'") as error:
        group_names(["cat/picture.jpg"], pattern)
    assert f"data.split.group={pattern!r}" in str(error.value)
    assert "widen the expression" in str(error.value)


def test_a_group_expression_that_matches_nothing_at_all_does_not_switch_grouping_off():
    with pytest.raises(UserError, match=r"data.split.group='\(\\\\d\*\)' finds only an empty group in 'picture.jpg'"):
        group_names(["cat/picture.jpg", "cat/2.jpg"], r"(\d*)")
    assert group_names(["cat/picture.jpg", "cat/2.jpg"], r"(\d*)", without=[0]) == ["", "2"]


@pytest.mark.parametrize("sizes_of_groups", [[60, 40, 20, 6, 5, 4, 3, 2, 1], [30, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]])
def test_the_number_wanted_is_met_as_nearly_as_groups_allow_whatever_the_seed(make_scan, sizes_of_groups):
    groups = [f"group{number}" for number, size in enumerate(sizes_of_groups) for _ in range(size)]
    found = make_scan(len(groups))
    drawn = [divide(found, groups, group="x", test=18, val=9, seed=seed) == TEST for seed in range(30)]
    assert {int(chosen.sum()) for chosen in drawn} == {18}
    assert len({chosen.tobytes() for chosen in drawn}) > 1


def test_groups_larger_than_the_share_give_the_smallest_of_them(make_scan):
    found = make_scan(60, 60)
    groups = [f"{label}-{0 if row % 60 < 40 else row // 5}" for row, label in enumerate(found.labels)]
    for seed in range(10):
        splits = divide(found, groups, group="x", test=4, val=4, seed=seed)
        assert np.bincount(found.labels[splits == TEST]).tolist() == [5, 5]


def test_a_group_that_is_no_regular_expression_is_an_error():
    with pytest.raises(UserError, match=r"data.split.group='\(M' is not a regular expression: missing \)"):
        group_names(["cat/picture.jpg"], "(M")


def test_val_test_selects_on_the_test_images_and_leaves_more_for_train(make_scan):
    plan = SplitPlan(val="test", test=0.2)
    assert plan.selects_on_test
    assert sizes(divide(make_scan(60, 40), val="test", test=0.2)) == [80, 0, 20]
    assert sizes(divide(make_scan(60, 40), val=0.1, test=0.2)) == [70, 10, 20]


def test_splits_the_folders_give_are_kept_and_val_is_carved_out_of_train(make_scan):
    given = [TRAIN] * 60 + [TEST] * 20 + [TRAIN] * 20
    splits = divide(make_scan(70, 30, splits=given), val=0.25, test=0.5)
    assert np.array_equal(splits == TEST, np.array(given) == TEST)
    assert sizes(splits) == [60, 20, 20]


def test_splits_the_folders_give_completely_are_kept_whatever_the_plan(make_scan):
    given = [TRAIN, VAL, TEST] * 20
    assert divide(make_scan(30, 30, splits=given), val=0.4, test=0.5, seed=7).tolist() == given


def test_folders_with_train_and_val_only_give_up_images_of_train_for_test(make_scan):
    given = [TRAIN] * 40 + [VAL] * 10 + [TRAIN] * 40 + [VAL] * 10
    splits = divide(make_scan(50, 50, splits=given), test=0.2)
    assert np.array_equal(splits == VAL, np.array(given) == VAL)
    assert sizes(splits) == [64, 20, 16]


def test_splits_found_in_folders_reach_the_plan(tmp_path, make_folder):
    for split, count in (("train", 8), ("test", 3)):
        make_folder(tmp_path / split, {"cat": count, "dog": count})
    assert sizes(divide(scan(tmp_path), val=4)) == [12, 4, 6]


@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("share", [0, 0.0, -0.1, -3, True, None, "half", "0.2"])
def test_a_share_that_is_none_is_an_error_naming_it(make_scan, name, share):
    with pytest.raises(UserError, match=f"data.split.{name}={share!r}, but it takes a fraction"):
        divide(make_scan(10, 10), **{name: share})


def test_only_val_can_be_test(make_scan):
    with pytest.raises(UserError, match=r"data\.split\.test='test'"):
        divide(make_scan(10, 10), test="test")


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.9, 0.3), (1.5, 0.1), (0.1, 1.0)])
def test_shares_that_leave_nothing_to_train_on_are_an_error(make_scan, val, test):
    with pytest.raises(UserError, match=f"data.split.val={val} and data.split.test={test} leave nothing"):
        divide(make_scan(10, 10), val=val, test=test)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("plan", [{}, {"group": "x"}])
def test_a_class_with_fewer_images_than_splits_is_an_error_naming_it(make_scan, number, plan):
    found = make_scan(20, number)
    with pytest.raises(UserError, match=f"class 'class1' has {number} image") as error:
        divide(found, found.paths, **plan)
    assert "Each class needs at least one image for each of train, val, test" in str(error.value)


def test_a_split_that_the_folders_give_may_lack_a_class_and_one_that_is_drawn_may_not(make_scan):
    given = [TRAIN] * 10 + [TEST] * 5 + [TRAIN] * 10
    assert sizes(divide(make_scan(15, 10, splits=given), val=4)) == [16, 4, 5]
    given = [TRAIN] * 10 + [TEST] * 5 + [TRAIN]
    with pytest.raises(UserError, match="class 'class1' has 1 image, and none of them came into 'train'") as error:
        divide(make_scan(15, 1, splits=given), val=4)
    assert "at least one image for each of train, val: add images" in str(error.value)


def test_rows_that_are_left_out_come_into_no_split_and_change_no_other(make_scan):
    found, other = make_scan(20, 20), make_scan(21, 21)
    splits = divide(other, without=[20, 41])
    assert splits[[20, 41]].tolist() == [-1, -1]
    assert np.array_equal(np.delete(splits, [20, 41]), divide(found))


def test_a_class_of_one_group_is_an_error(make_scan):
    found = make_scan(20, 20)
    expected = "'class1' has 20 images in 1 group, which data.split.group keeps together, and none of them came into"
    with pytest.raises(UserError, match=re.escape(expected)):
        divide(found, [*found.paths[:20], *["one patient"] * 20], group="x")


def test_more_images_asked_for_than_there_are_is_an_error(make_scan):
    with pytest.raises(UserError, match="none of them came into 'train'"):
        divide(make_scan(10, 10), val=100)


def test_images_of_no_group_are_alone(make_scan):
    found = make_scan(60, 40)
    groups = ["pair" if row < 2 else "" for row in range(100)]
    assert sizes(divide(found, groups, group="auto")) == [70, 15, 15]


def test_groups_without_company_change_nothing(make_scan):
    found = make_scan(61, 39)
    assert divide(found, found.paths, group="auto").tolist() == divide(found).tolist()


@pytest.mark.parametrize("size", [1, 3])
def test_each_image_is_tested_in_one_fold_and_groups_stay_whole(make_scan, size):
    found = make_scan(60, 30)
    groups = [f"{label}-{row // size}" for label, row in zip(found.labels, range(90), strict=True)]
    folds = [divide(found, groups, group="auto", folds=5, fold=fold) for fold in range(5)]
    tested = np.stack([splits == TEST for splits in folds])
    assert (tested.sum(0) == 1).all()
    for splits in folds:
        assert np.bincount(found.labels[splits == TEST]).tolist() == [12, 6]
        assert (splits == VAL).sum() in range(12, 16)
        for split in (TRAIN, VAL, TEST):
            own = {groups[row] for row in np.flatnonzero(splits == split)}
            assert own.isdisjoint({groups[row] for row in np.flatnonzero(splits != split)})


def test_without_a_fold_no_image_is_left_to_test_on(make_scan):
    splits = divide(make_scan(40, 40), folds=5)
    assert set(splits.tolist()) == {TRAIN, VAL}


def test_the_seed_decides_the_folds(make_scan):
    found = make_scan(30, 30)
    first, again, other = (divide(found, folds=3, fold=0, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"folds": 5, "fold": 5}, "data.split.fold=5, but of data.split.folds=5 they are 0 to 4"),
        ({"folds": 1, "fold": 0}, "data.split.folds=1, but it is a number of parts, 2 or more"),
        ({"fold": 2}, "Set data.split.folds too"),
        ({"folds": 5, "fold": 0, "val": "test"}, "data.split.val=test would choose the epoch on the fold"),
        ({"leaks": "keep"}, "data.split.leaks='keep', but it is warn or drop"),
    ],
)
def test_folds_that_cannot_be_had_are_an_error_saying_what_can(make_scan, plan, message):
    with pytest.raises(UserError, match=re.escape(message)):
        divide(make_scan(20, 20), **plan)


def test_folders_that_divide_leave_nothing_to_fold(make_scan):
    with pytest.raises(UserError, match="divided by folders or a table of labels: train and test"):
        divide(make_scan(20, splits=[TRAIN] * 15 + [TEST] * 5), folds=5, fold=0)


def test_a_class_with_fewer_groups_than_folds_is_an_error(make_scan):
    found = make_scan(20, 20)
    with pytest.raises(UserError, match="class 'class1' has 20 images in 1 group"):
        divide(found, [*found.paths[:20], *["one patient"] * 20], group="x", folds=4, fold=0)
