import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from imgbench.data.scan import TEST, TRAIN, VAL, describe_skipped, natural_sort, scan
from imgbench.errors import UserError

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def test_class_folders_alone_leave_the_split_open(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"dog": 2, "cat": 3}))
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.splits.tolist() == [-1] * 5


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_split_folders_say_the_split_under_each_of_their_names(tmp_path, make_folder, name):
    for split, count in (("test", 1), (name, 2), ("train", 3)):
        make_folder(tmp_path / split, {"cat": count, "dog": count})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.splits.tolist() == [TRAIN] * 6 + [VAL] * 4 + [TEST] * 2
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1]
    assert found.paths[6] == f"{name}/cat/0.png"


def test_val_and_test_folders_may_be_missing(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    assert scan(tmp_path).splits.tolist() == [TRAIN, TRAIN]


def test_a_class_may_be_called_test_where_there_is_no_train(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"exam": 1, "test": 1}))
    assert found.class_names == ["exam", "test"]
    assert found.splits.tolist() == [-1, -1]


def test_folders_beside_the_splits_are_counted_and_left_out(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    make_folder(tmp_path, {"unlabelled": 3})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert len(found.paths) == 2
    assert found.skipped == {"folders beside the splits": 1}


def test_nested_folders_belong_to_their_class(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1, "cat/siam": 1, "cat/siam/young": 2})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.paths[:4] == ["cat/0.png", "cat/siam/0.png", "cat/siam/young/0.png", "cat/siam/young/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 0, 1]


def test_hidden_folders_other_files_and_empty_files_are_counted_and_left_out(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1, ".ipynb_checkpoints": 2, "__MACOSX": 1, "cat/.ipynb_checkpoints": 2})
    for name in (".DS_Store", "notes.txt", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"MM is how a TIFF begins, RIFF a WebP")
    (tmp_path / "cat" / "empty.jpg").touch()
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["cat/0.png", "dog/0.png"]
    assert found.skipped == {"hidden": 2, "other files": 2, "empty files": 1, "broken links": 1}
    assert describe_skipped(found.skipped) == "1 broken links, 1 empty files, 2 hidden, 2 other files"


def test_nothing_left_out_is_said_so(tmp_path, make_folder):
    assert describe_skipped(scan(make_folder(tmp_path, {"cat": 1, "dog": 1})).skipped) == "nothing"


def test_numbers_sort_by_value(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"10": 1, "2": 11, "1": 1}))
    assert found.class_names == ["1", "2", "10"]
    assert found.paths[1:12] == [f"2/{number}.png" for number in range(11)]


def test_equal_numbers_have_an_order_that_does_not_depend_on_the_disk():
    names = ["1", "01", "001", "img1", "img01", "b", "a"]
    assert natural_sort(names) == natural_sort(reversed(names)) == ["001", "01", "1", "a", "b", "img01", "img1"]


def test_numbers_of_any_length_sort_by_value():
    names = [f"img{number}.jpg" for number in (0, 9, 10, 99, 100, 10**18, 10**30)]
    assert natural_sort(reversed(names)) == names


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("name", ["photo", "photo.bak", "usual"])
def test_images_are_recognised_by_content_whatever_their_ending(tmp_path, make_folder, image_format, name):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    name = f"photo.{image_format.lower()}" if name == "usual" else name
    Image.new("RGB", (9, 7), "teal").save(tmp_path / "cat" / name, image_format)
    assert f"cat/{name}" in scan(tmp_path).paths


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".Tif"])
def test_a_usual_ending_is_believed_in_any_case(tmp_path, make_folder, ending):
    make_folder(tmp_path, {"cat": 2, "dog": 1}, ending=ending)
    (tmp_path / "cat" / f"text{ending}").write_text("shows as damaged when it is decoded")
    assert len(scan(tmp_path).paths) == 4


def test_chinese_names_of_classes_and_files(tmp_path, make_folder):
    make_folder(tmp_path / "数据", {"早疫病": 1, "健康": 1}, ending="号 (1).png")
    found = scan(tmp_path / "数据")
    assert found.class_names == ["健康", "早疫病"]
    assert found.paths == ["健康/0号 (1).png", "早疫病/0号 (1).png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not Unicode")
def test_a_class_name_in_a_legacy_encoding_is_an_error_naming_what_converts_it(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog").rename(os.fsdecode(os.fsencode(tmp_path) + "/健康".encode("gbk")))
    with pytest.raises(UserError, match="name is not UTF-8") as error:
        scan(tmp_path)
    assert "convmv" in str(error.value)


def test_stamps_are_size_and_modification_time(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    os.utime(tmp_path / "cat/0.png", ns=(0, 1234567890123))
    found = scan(tmp_path)
    assert found.stamps[0].tolist() == [(tmp_path / "cat/0.png").stat().st_size, 1234567890123]
    assert found.stamps.dtype == np.int64


@pytest.mark.parametrize("root", [".", "", "./"])
def test_the_working_directory_can_be_the_root(tmp_path, make_folder, monkeypatch, root):
    monkeypatch.chdir(make_folder(tmp_path, {"cat": 1, "dog": 1}))
    assert scan(root).paths == ["cat/0.png", "dog/0.png"]


WRONG = {
    "nothing": (lambda root, make: None, ["there is nothing", "{root}/<class>/*.jpg", "data.root=/my/photos"]),
    "a file": (lambda root, make: root.touch(), ["there is a file", "data.root=/my/photos"]),
    "empty": (lambda root, make: root.mkdir(), ["0 class folder(s)", "(nothing)", "data.root=/my/photos"]),
    "one class": (lambda root, make: make(root, {"cat": 3}), ["1 class folder(s)", "cat/  (3 entries)"]),
    "images in the root": (lambda root, make: make(root, {"": 20}), ["0 class folder(s)", "  1.png", "  ..."]),
    "one class in train": (lambda root, make: make(root / "train", {"cat": 3}), ["1 class folder(s)", "train/"]),
    "only hidden": (lambda root, make: make(root, {"cat": 1, ".git": 1}), ["1 class folder(s)"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_root_of_another_shape_is_an_error_that_shows_both_shapes(tmp_path, make_folder, kind):
    make, expected = WRONG[kind]
    root = tmp_path / "root"
    make(root, make_folder)
    with pytest.raises(UserError) as error:
        scan(root)
    for part in ["data.root", "Expected one of", *expected]:
        assert part.format(root=root) in str(error.value)


def test_one_class_is_enough_where_nothing_is_trained(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"cat": 2}), min_classes=1)
    assert (found.class_names, found.labels.tolist()) == (["cat"], [0, 0])


def test_the_error_names_the_option_that_mends_it(tmp_path):
    with pytest.raises(UserError, match=r"Point audit\.root at the folder"):
        scan(tmp_path / "missing", option="audit.root")


@pytest.mark.parametrize(
    ("folder", "classes", "expected"),
    [
        ("test", {"cat": 1}, "missing ['dog'], additional none"),
        ("test", {"cat": 1, "dog": 1, "emu": 1}, "missing none, additional ['emu']"),
        ("valid", {"cat": 1, "hund": 1}, "missing ['dog'], additional ['hund']"),
    ],
)
def test_class_sets_that_differ_between_splits_are_an_error_naming_folder_and_class(
    tmp_path, make_folder, folder, classes, expected
):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    make_folder(tmp_path / folder, classes)
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        scan(tmp_path)
    assert f"the classes of {tmp_path / folder} differ" in str(error.value)
    assert "rename, add or remove" in str(error.value)


def test_two_folders_for_one_split_are_an_error(tmp_path, make_folder):
    for split in ("train", "val", "validation"):
        make_folder(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match="two folders for the split 'val'"):
        scan(tmp_path)


@pytest.mark.parametrize("split", ["", "train", "valid"])
@pytest.mark.parametrize("cats", [0, 2])
def test_a_class_folder_without_images_is_an_error_naming_it_and_what_was_left_out(tmp_path, make_folder, split, cats):
    if split:
        make_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    place = make_folder(tmp_path / split, {"cat": cats, "dog": 0})
    for image in (place / "dog").glob("*.png"):
        image.unlink()
    (place / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=re.escape(f"'dog'] of {place} (left out: 1 other files)")):
        scan(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are always Unicode")
def test_class_name_that_is_not_utf8_is_an_error_that_says_how_to_convert_it(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"cat": 1, "dog": 1})
    (root / "dog").rename(root / os.fsdecode(b"\xb9\xb7"))
    with pytest.raises(UserError, match="convmv"):
        scan(root)
