import csv
import logging
import re
import shutil

import pytest

from imgbench.data.pixels import digest
from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.errors import UserError
from imgbench.preprocessing import Preprocessing
from imgbench.split_file import SPLITS


@pytest.fixture
def folder(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 10, "dog": 20})


def table_of(root, size=16, cache="auto", **plan):
    return read_table(root, Preprocessing(size), SplitPlan(**plan), cache)


def rows_of(table):
    return list(csv.DictReader(table.csv_lines()))


def test_split_csv_holds_path_class_group_split_and_hash_of_every_usable_image(folder):
    (folder / "cat" / "00.jpg").write_text("no image")
    table = table_of(folder, group=r"^(\d)")
    assert next(table.csv_lines()) == "path,class,group,split,hash\n"
    rows = rows_of(table)
    assert len(rows) == 30
    for row in rows:
        assert row["path"].startswith(row["class"] + "/")
        assert row["group"] == row["path"].split("/")[1][0]
        assert row["hash"] == digest((folder / row["path"]).read_bytes()).hex()
    assert {row["split"] for row in rows} == set(SPLITS)


def test_names_with_commas_quotes_and_chinese_survive_split_csv(tmp_path, make_folder):
    make_folder(tmp_path, {"红, 苹果": 5, 'a "b" = c': 5}, ending=" (1), 图.png")
    rows = rows_of(table_of(tmp_path))
    assert {row["class"] for row in rows} == {"红, 苹果", 'a "b" = c'}
    assert all((tmp_path / row["path"]).is_file() for row in rows)


def test_the_hash_of_the_split_changes_with_content_and_split_only(folder, tmp_path):
    same = table_of(folder).hash
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert table_of(moved).hash == same
    assert table_of(folder, size=12, cache="memory").hash == same
    assert table_of(folder, seed=1).hash != same
    (moved / "cat/0.png").write_bytes((folder / "cat/0.png").read_bytes() + b"\0")
    assert table_of(moved).hash != same


def test_damaged_files_are_left_out_with_a_warning_and_counted(folder, caplog):
    caplog.set_level(logging.INFO)
    (folder / "cat" / "text.jpg").write_text("no image")
    (folder / "dog" / "half.png").write_bytes((folder / "dog/0.png").read_bytes()[:500])
    table = table_of(folder)
    used = {table.paths[row] for split in SPLITS for row in table.rows(split)}
    assert len(used) == 30
    assert not {"cat/text.jpg", "dog/half.png"} & used
    assert f"{folder / 'cat' / 'text.jpg'} (not an image)" in caplog.text
    assert re.search(r"half.png \(.*truncated", caplog.text)
    assert "30 images in 2 classes (22 train, 4 val, 4 test); left out: 2 damaged images" in caplog.text


def test_left_out_names_every_file_that_is_not_used_and_why(folder):
    for number in range(12):
        (folder / "cat" / f"x{number}, y.jpg").write_text("no image")
    (folder / "dog" / "empty.jpg").touch()
    (folder / "dog" / "notes.txt").write_text("no image")
    rows = list(csv.DictReader(table_of(folder).left_out_lines()))
    assert rows[:12] == [{"path": f"cat/x{number}, y.jpg", "reason": "not an image"} for number in range(12)]
    assert rows[12:] == [
        {"path": "dog/empty.jpg", "reason": "empty file"},
        {"path": "dog/notes.txt", "reason": "other file"},
    ]


def test_only_the_first_damaged_files_are_logged_and_the_place_of_the_others(folder, caplog):
    for number in range(12):
        (folder / "cat" / f"x{number}.jpg").write_text("no image")
    table_of(folder)
    assert "x9.jpg" in caplog.text
    assert "x10.jpg" not in caplog.text
    assert "2 more that cannot be decoded; left_out.csv" in caplog.text


def test_damaged_files_change_neither_split_nor_hash(folder):
    same = table_of(folder).hash
    (folder / "cat" / "00.jpg").write_text("no image")
    assert table_of(folder).hash == same


def test_damaged_file_needs_no_group(folder):
    (folder / "cat" / "odd.jpg").write_text("no image")
    assert len(list(table_of(folder, group=r"^(\d)").csv_lines())) == 31


def test_a_class_of_damaged_files_only_is_an_error_naming_it_and_why(folder):
    for path in (folder / "cat").iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match="class 'cat' has 10 images, and none can be decoded") as error:
        table_of(folder)
    assert f"{folder}/cat/0.png (not an image)" in str(error.value)


def test_a_test_folder_of_damaged_files_only_is_an_error_and_not_carved_out_of_train(tmp_path, make_folder):
    make_folder(tmp_path, {"train/cat": 8, "train/dog": 8, "test/cat": 2})
    for path in (tmp_path / "test/cat").iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match="split 'test' has 2 images, and none can be decoded"):
        table_of(tmp_path)


def test_a_class_that_the_test_folder_lacks_is_told(tmp_path, make_folder, caplog):
    make_folder(tmp_path, {"train/cat": 8, "train/dog": 8, "train/emu": 8, "test/dog": 2})
    table = table_of(tmp_path)
    assert table.missing_classes("test") == ["cat", "emu"]
    assert table.missing_classes("val") == []
    assert table.folder_splits == ["train", "test"]
    assert "has no test images of ['cat', 'emu']: not measured there" in caplog.text


def test_loose_test_images_are_told_and_test_is_taken_from_train(tmp_path, make_folder, caplog):
    make_folder(tmp_path, {"train/cat": 8, "train/dog": 8, "test": 3})
    table = table_of(tmp_path, test=4)
    assert {table.paths[row].split("/")[0] for row in table.rows("test")} == {"train"}
    assert len(table.rows("test")) == 4
    assert "imgbench.predict RUN" in caplog.text


def test_relatives_of_training_images_are_left_out_of_test_and_val_where_that_is_wanted(tmp_path, make_folder):
    for split in ("train", "val", "test"):
        make_folder(tmp_path / split, {"cat": 5, "dog": 5})

    def first_is_one(table):
        return ["one" if path.endswith("cat/0.png") else path for path in table.paths]

    plan = {"preprocessing": Preprocessing(16), "find_groups": first_is_one}
    warned = read_table(tmp_path, plan=SplitPlan(group="auto"), **plan)
    assert [len(warned.rows(split)) for split in SPLITS] == [10, 10, 10]
    assert {row["group"] for row in rows_of(warned) if row["path"].endswith("cat/0.png")} == {"one"}
    for group in ("auto", None):
        dropped = read_table(tmp_path, plan=SplitPlan(group=group, leaks="drop"), **plan)
        assert [len(dropped.rows(split)) for split in SPLITS] == [10, 9, 9]
        assert {path for path, _ in dropped.left_out} == {"val/cat/0.png", "test/cat/0.png"}
        reason = "image that looks like a training image or is of its group"
        assert {found for _, found in dropped.left_out} == {f"val {reason}", f"test {reason}"}


def test_a_test_folder_of_relatives_only_cannot_be_dropped(tmp_path, make_folder):
    for split in ("train", "val", "test"):
        make_folder(tmp_path / split, {"cat": 5, "dog": 5})
    with pytest.raises(UserError, match=r"data.split.leaks=drop leaves no val image: all 10 look like a"):
        plan = SplitPlan(group="auto", leaks="drop")
        read_table(tmp_path, Preprocessing(16), plan, find_groups=lambda table: ["one"] * len(table.paths))
