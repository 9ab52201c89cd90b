import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from imgbench.data.scan import scan
from imgbench.data.split import TEST, TRAIN, VAL
from imgbench.data.walk import LeftOut, remedies
from imgbench.errors import UserError

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def test_class_folders_alone_leave_the_split_open(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"dog": 2, "cat": 3}))
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.given.tolist() == [-1] * 5


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Valid"])
def test_split_folders_say_the_split_under_each_of_their_names(tmp_path, make_folder, name):
    for split, count in (("test", 1), (name, 2), ("train", 3)):
        make_folder(tmp_path / split, {"cat": count, "dog": count})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.given.tolist() == [TRAIN] * 6 + [VAL] * 4 + [TEST] * 2
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1]
    assert found.paths[6] == f"{name}/cat/0.png"


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("seg_train/seg_train", "seg_test/seg_test"), ("训练集 ", "测试集")]
)
def test_folders_of_splits_as_people_call_them_are_no_classes(tmp_path, make_folder, names):
    for name, count in zip(names, (3, 1), strict=True):
        make_folder(tmp_path / name, {"cat": count, "dog": count})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.given.tolist() == [TRAIN] * 6 + [TEST] * 2
    assert found.paths[0] == f"{names[0]}/cat/0.png"
    assert found.notes == []


def test_val_and_test_folders_may_be_missing(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    assert scan(tmp_path).given.tolist() == [TRAIN, TRAIN]


def test_a_class_may_be_called_test_where_there_is_no_train(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"exam": 1, "test": 1}))
    assert found.class_names == ["exam", "test"]
    assert found.given.tolist() == [-1, -1]


def test_a_class_may_be_called_train_where_it_has_images_like_its_neighbours(tmp_path, make_folder):
    make_folder(tmp_path, {"bus": 2, "tractor": 2, "train": 2})
    assert scan(tmp_path).class_names == ["bus", "tractor", "train"]


def test_folders_beside_the_splits_are_counted_and_left_out(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    make_folder(tmp_path, {"unlabelled": 3})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert len(found.paths) == 2
    assert found.passed_over == {"folder beside the splits": ["unlabelled"]}


def test_nested_folders_belong_to_their_class(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1, "cat/siam": 1, "cat/siam/young": 2})
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.paths[:4] == ["cat/0.png", "cat/siam/0.png", "cat/siam/young/0.png", "cat/siam/young/1.png"]
    assert found.labels.tolist() == [0, 0, 0, 0, 1]


def test_numbers_sort_by_value(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"10": 1, "2": 11, "1": 1}))
    assert found.class_names == ["1", "2", "10"]
    assert found.paths[1:12] == [f"2/{number}.png" for number in range(11)]


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


@pytest.mark.parametrize(("link", "target"), [("train", "test"), ("train", "val")])
def test_a_train_that_is_a_link_to_another_split_is_an_error_naming_both(tmp_path, make_folder, link, target):
    make_folder(tmp_path / target, {"cat": 2, "dog": 2})
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError, match=f"{link} is the same folder as that of another split: it leads to .*{target}"):
        scan(tmp_path)


def test_stamps_are_size_modification_time_inode_and_change_time(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    os.utime(tmp_path / "cat/0.png", ns=(0, 1234567890123))
    found, status = scan(tmp_path), (tmp_path / "cat/0.png").stat()
    assert found.stamps[0].tolist()[:2] == [status.st_size, 1234567890123]
    assert found.stamps[0].tolist()[2:] == ([status.st_ino, status.st_ctime_ns] if os.name == "posix" else [0, 0])
    assert found.stamps.dtype == np.int64


@pytest.mark.parametrize("root", [".", "", "./"])
def test_the_working_directory_can_be_the_root(tmp_path, make_folder, monkeypatch, root):
    monkeypatch.chdir(make_folder(tmp_path, {"cat": 1, "dog": 1}))
    assert scan(root).paths == ["cat/0.png", "dog/0.png"]


WRONG = {
    "nothing": (lambda root, make: None, ["there is nothing", "{root}/<class>/*.jpg", "data.root=/my/photos"]),
    "a file": (lambda root, make: root.touch(), ["there is a file", "data.root=/my/photos"]),
    "empty": (lambda root, make: root.mkdir(), ["0 class folders,", "(nothing)", "data.root=/my/photos"]),
    "one class": (
        lambda root, make: make(root, {"cat": 3}),
        ["1 class folder,", "cat/  (3 entries)", "a second folder"],
    ),
    "images in the root": (
        lambda root, make: make(root, {"": 20}),
        ["0 class folders,", "  1.png", "  ...", "a folder for each class"],
    ),
    "one class in train": (lambda root, make: make(root / "train", {"cat": 3}), ["1 class folder,", "train/"]),
    "one too deep": (
        lambda root, make: make(root / "photos", {"cat": 1, "dog": 1}),
        ["1 class folder,", "Name that: data.root={root}/photos"],
    ),
    "only hidden": (lambda root, make: make(root, {"cat": 1, ".git": 1}), ["1 class folder,"]),
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


def test_a_val_or_test_folder_may_lack_classes_and_is_matched_by_name(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 2, "dog": 1, "emu": 1})
    make_folder(tmp_path / "val", {"emu": 1, "cat": 1})
    make_folder(tmp_path / "test", {"dog": 2, "emu": 1})
    (tmp_path / "test/emu/0.png").unlink()  # an empty class folder is a missing one
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog", "emu"]
    places = [path.rsplit("/", 1)[0] for path in found.paths]
    assert places == ["train/cat", "train/cat", "train/dog", "train/emu", "val/cat", "val/emu", "test/dog", "test/dog"]
    assert found.labels.tolist() == [0, 0, 1, 2, 0, 2, 1, 1]


@pytest.mark.parametrize(("folder", "name"), [("test", "emu"), ("valid", "hund")])
def test_a_class_that_train_lacks_is_an_error_naming_folder_and_class(tmp_path, make_folder, folder, name):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    make_folder(tmp_path / folder, {"cat": 1, name: 1})
    with pytest.raises(
        UserError, match=re.escape(f"has class folders that {tmp_path}/train lacks: ['{name}']")
    ) as error:
        scan(tmp_path)
    assert "rename the folders, remove them, or add them to train" in str(error.value)


@pytest.mark.parametrize("folder", ["test", "val"])
def test_a_folder_of_loose_images_is_no_split_and_points_to_predict(tmp_path, make_folder, folder):
    root = make_folder(tmp_path / "my photos", {"train/cat": 1, "train/dog": 1, folder: 3})
    found = scan(root)
    assert found.given.tolist() == [TRAIN, TRAIN]
    assert sorted(found.passed_over[LeftOut.UNLABELLED]) == [f"{folder}/{number}.png" for number in range(3)]
    (note,) = found.notes
    assert f"{root}/{folder} has 3 images and no class folders" in note
    assert f"python -m imgbench.predict RUN '{root}/{folder}'" in note


def test_an_empty_split_folder_counts_as_missing(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    (tmp_path / "val").mkdir()
    found = scan(tmp_path)
    assert found.given.tolist() == [TRAIN, TRAIN]
    assert "val has no images and no class folders" in found.notes[0]


def test_loose_images_beside_the_class_folders_are_left_out(tmp_path, make_folder):
    found = scan(make_folder(tmp_path, {"cat": 1, "dog": 1, "": 2}))
    assert found.paths == ["cat/0.png", "dog/0.png"]
    assert sorted(found.passed_over[LeftOut.UNLABELLED]) == ["0.png", "1.png"]


def test_a_link_that_gives_a_class_or_split_a_second_name_is_left_out(tmp_path, make_folder):
    make_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    (tmp_path / "train/kitty").symlink_to("cat")
    (tmp_path / "train/everything").symlink_to("../..")
    (tmp_path / "train/itself").symlink_to(".")
    (tmp_path / "val").symlink_to("train")
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["train/cat/0.png", "train/dog/0.png"]
    assert sorted(found.passed_over[LeftOut.VISITED]) == [
        "train/everything", "train/itself", "train/kitty", "val",
    ]  # fmt: skip


def test_class_folders_may_be_links(tmp_path, make_folder):
    make_folder(tmp_path / "store", {"one": 1, "two": 1})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat").symlink_to("../store/one")
    (tmp_path / "photos/dog").symlink_to("../store/two")
    assert scan(tmp_path / "photos").paths == ["cat/0.png", "dog/0.png"]


def test_two_folders_for_one_split_are_an_error(tmp_path, make_folder):
    for split in ("train", "val", "validation"):
        make_folder(tmp_path / split, {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match="two folders for the split 'val'"):
        scan(tmp_path)


@pytest.mark.parametrize(("split", "cats"), [("", 0), ("", 2), ("train", 0), ("train", 2), ("valid", 0)])
def test_a_class_or_split_without_images_is_an_error_naming_it_and_what_was_left_out(
    tmp_path, make_folder, split, cats
):
    if split:
        make_folder(tmp_path / "train", {"cat": 2, "dog": 2})
    place = make_folder(tmp_path / split, {"cat": cats, "dog": 0})
    for image in [*(place / "dog").glob("*.png"), *((place / "cat").glob("*.png") if not cats else ())]:
        image.unlink()
    (place / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=re.escape(f"'dog'] of {place} (left out: 1 other file)")):
        scan(tmp_path)


def test_class_folders_without_images_beside_a_folder_that_would_do_name_it(tmp_path, make_folder):
    make_folder(tmp_path, {"images/cat": 1, "images/dog": 1, "annotations": 0})
    with pytest.raises(UserError, match="no images in these class folders") as error:
        scan(tmp_path)
    assert f"data.root={tmp_path}/images" in str(error.value)


def test_an_archive_is_an_error_that_says_to_unpack_it(tmp_path):
    (tmp_path / "photos.zip").touch()
    with pytest.raises(UserError, match="Unpack it"):
        scan(tmp_path / "photos.zip")


LAYOUTS = {
    "splits in classes": (["cat/train", "cat/test", "dog"], "hold folders called test, train: their images are put"),
    "sub-folders": (["cat", "cat/indoor", "dog"], "1 images lie in sub-folders of their class, such as cat/indoor"),
    "classes in sites": (
        ["a/cat", "a/dog", "b/cat", "b/dog"],
        "Every class folder holds the folders cat, dog: if these",
    ),
    "another split": (
        ["train/cat", "train/dog", "rest/cat"],
        "what lies beside it is left out: rest. Splits are called",
    ),
    "accents": (["Caf\u00e9", "Cafe\u0301", "tea"], "differ only in how accents are encoded"),
    "accents in splits": (
        ["train/Caf\u00e9", "train/tea", "test/Cafe\u0301"],
        "taken for the class of that name in train",
    ),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_was_taken_for_what_is_said_where_a_folder_could_be_read_otherwise(tmp_path, make_folder, kind):
    folders, note = LAYOUTS[kind]
    found = scan(make_folder(tmp_path, dict.fromkeys(folders, 1)))
    assert len(found.notes) == 1 and note in found.notes[0]
    assert len(found.paths) == len(folders) - (kind == "another split")


def test_names_of_a_windows_archive_say_how_to_unpack_it(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat/0.png").rename(tmp_path / "cat/young\\0.png")
    assert "unzip" in scan(tmp_path).notes[0]
    make_folder(tmp_path / "loose", {"": 1})
    (tmp_path / "loose/0.png").rename(tmp_path / "loose/cloudy\\0.png")
    with pytest.raises(UserError, match="an archive of Windows"):
        scan(tmp_path / "loose")


def test_a_class_called_train_beside_one_other_is_asked_for_another_name(tmp_path, make_folder):
    with pytest.raises(UserError, match="If it is a class itself, give it another name"):
        scan(make_folder(tmp_path, {"train": 1, "plane": 1}))


def test_files_that_could_be_made_into_images_are_named_with_what_does_so(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    for name in ("a.NEF", "b.dng", "c.jxl", "d.mp4", "e.npy", "f.psd", "g.nii.gz", "h.pdf", "i.tga", "j.txt"):
        (tmp_path / "cat" / name).write_bytes((tmp_path / "cat/0.png").read_bytes())
    (tmp_path / "cat/film").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0")
    (tmp_path / "cat/j.txt").write_text("no image")
    found = scan(tmp_path)
    assert len(found.paths) == 2
    counts = {reason: len(paths) for reason, paths in found.passed_over.items()}
    assert counts == {
        LeftOut.RAW: 2, LeftOut.JPEG_XL: 1, LeftOut.VIDEO: 2, LeftOut.NUMPY: 1, LeftOut.PHOTOSHOP: 1, LeftOut.VOLUME: 1,
        LeftOut.DOCUMENT: 1, LeftOut.FOREIGN: 1, LeftOut.OTHER: 1,
    }  # fmt: skip
    said = list(remedies(found.passed_over))
    assert len(said) == 8
    assert "2 raw photographs left out, which imgbench does not read. Develop them" in " ".join(said)
    (tmp_path / "cat/0.png").unlink()
    with pytest.raises(UserError, match="Develop them into JPEG"):
        scan(tmp_path)


def test_what_systems_keep_beside_photographs_is_left_out(tmp_path, make_folder):
    beside = ["@eaDir/cat", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle", ".thumbnails"]
    found = scan(make_folder(tmp_path, dict.fromkeys(["cat", "dog", "cat/@eaDir", *beside], 1)))
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["cat/0.png", "dog/0.png"]
    assert found.passed_over == {LeftOut.HIDDEN: ["cat/@eaDir"]}
