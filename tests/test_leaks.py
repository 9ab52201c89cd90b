import shutil

import pytest

from imgbench.data.scan import SPLITS
from imgbench.data.split import SplitPlan
from imgbench.data.table import read_table
from imgbench.inspection.leaks import find_leaks
from imgbench.preprocessing import Preprocessing


def leaks_of(root, **plan):
    return list(find_leaks(read_table(root, Preprocessing(16), SplitPlan(**plan))))


@pytest.mark.parametrize("split", ["val", "test"])
def test_duplicates_across_splits_are_found_with_their_number(tmp_path, make_folder, split):
    for name in SPLITS:
        make_folder(tmp_path / name, {"cat": 4, "dog": 4})
    for number in (1, 2):
        shutil.copy(tmp_path / f"train/cat/{number}.png", tmp_path / split / f"dog/{number}.png")
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "train/cat/copy.png")
    (message,) = leaks_of(tmp_path)
    assert f"2 of the {split} images are byte for byte among the training images too" in message
    assert "remove them from one side" in message


def test_groups_across_the_folders_splits_are_found(tmp_path, make_folder):
    for name in SPLITS:
        for label in ("cat", "dog"):
            make_folder(tmp_path / name, {label: 4})
            for path in (tmp_path / name / label).iterdir():
                path.rename(path.with_name(f"{name}-{path.name}"))
    moved = tmp_path / "test/cat"
    for path in list(moved.iterdir())[:3]:
        path.rename(moved / f"train-of-{path.name}")
    (message,) = leaks_of(tmp_path, group=r"^(\w+)-")
    assert "3 of the test images belong to groups of data.split.group='^(\\\\w+)-'" in message


def test_damaged_copies_are_no_leak(tmp_path, make_folder):
    for name in SPLITS:
        make_folder(tmp_path / name, {"cat": 4, "dog": 4})
        (tmp_path / name / "cat" / "no.jpg").write_text("no image")
    assert leaks_of(tmp_path) == []


def test_groups_keep_copies_on_one_side(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 6, "dog": 6})
    for path in sorted(tmp_path.rglob("*.png")):
        shutil.copy(path, path.with_name(f"{path.stem}_copy.png"))
    assert any("data.split.group=REGEX keeps copies together" in message for message in leaks_of(tmp_path))
    assert leaks_of(tmp_path, group=r"^\d") == []
