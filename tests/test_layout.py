import pytest

from imgbench.data.layout import advice, folder_that_would_do, setting, split_of


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["photos/cat", "photos/dog"], "photos"),
        (["photos/cat", "photos/dog", "__MACOSX/photos/cat"], "photos"),
        (["a/Training/cat", "a/Training/dog"], "a"),
        (["a/b/train/cat", "a/b/train/dog", "a/b/test/cat"], "a/b"),
        (["photos/cat"], None),
        (["photos/train/cat"], None),
        (["cat"], None),
    ],
)
def test_the_nearest_folder_with_classes_is_found(tmp_path, make_folder, folders, expected):
    make_folder(tmp_path, dict.fromkeys(folders, 1))
    assert folder_that_would_do(tmp_path) == (expected and tmp_path / expected)


NAMES = {
    "train": ["train", "Training", "TRAIN ", "train_images", "images-train", "seg_train", "trainset", "训练集", "训练"],
    "val": ["val", "Valid", "validation", "dev", "val_set", "验证集", "PublicTest"],
    "test": ["test", "Testing", "test images", "seg_test", "testset", "测试集", "PrivateTest"],
}


@pytest.mark.parametrize(("name", "split"), [(name, split) for split, names in NAMES.items() for name in names])
def test_splits_are_known_by_the_names_that_people_give_them(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["trains", "train 1", "cats", "set", "images", "", "seg_pred", "cat_train", "地铁"])
def test_other_names_are_no_splits(name):
    assert split_of(name) is None


def test_the_search_ends_at_links_to_a_folder_above(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1})
    (tmp_path / "cat/up").symlink_to("..")
    assert folder_that_would_do(tmp_path) is None


def test_a_setting_is_written_as_the_shell_wants_it(tmp_path):
    assert setting("data.root", tmp_path / "x") == f"data.root={tmp_path}/x"
    assert setting("data.root", tmp_path / "my photos") == f"'data.root={tmp_path}/my photos'"
    assert setting("--data", tmp_path / "my photos") == f"--data '{tmp_path}/my photos'"


def test_the_folder_of_one_class_points_to_the_one_above(tmp_path, make_folder, monkeypatch):
    make_folder(tmp_path, {"cat": 1, "dog": 1})
    assert f"data.root={tmp_path}" in advice(tmp_path / "cat", "data.root", []).split()
    monkeypatch.chdir(tmp_path / "cat")
    assert advice((tmp_path / "cat").relative_to(tmp_path / "cat"), "data.root", []).endswith("data.root=..")


def test_a_single_class_asks_for_a_second(tmp_path, make_folder):
    assert "'cat' is the only one" in advice(make_folder(tmp_path, {"cat": 1}), "data.root", ["cat"])
