"""Whole collections: found while they are worked through, and what cannot be read is named."""

import os
from pathlib import Path

import pytest

from imgbench.data.collection import Collection
from imgbench.errors import UserError


def make_unreadable(folder: Path) -> Path:
    """A folder that nobody can list, not even root: its path, reached step by step, is longer than a system takes."""
    here = os.open(folder, os.O_RDONLY)
    names = []
    while len(str(folder.joinpath(*names))) < 4096:
        names.append("x" * 200)
        os.mkdir(names[-1], dir_fd=here)
        inner = os.open(names[-1], os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    return folder.joinpath(*names)


def test_words_name_files_folders_and_patterns_in_their_order(make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(make_folder(tmp_path / "photos", {"a": 2, "b": 2, "c": 12}))
    collection = Collection(["b", "a/1.png", "c/1?.png"])
    expected = ["b/0.png", "b/1.png", "a/1.png", "c/10.png", "c/11.png"]
    assert [str(path) for path in collection] == expected
    assert [str(path) for path in collection] == expected, "again"
    assert collection.count() == 5


def test_folder_that_cannot_be_read_is_named_and_passed_over(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 2, "z": 1})
    (root / "m").mkdir()
    unreadable = make_unreadable(root / "m")
    collection = Collection([str(root)])
    assert collection.count() == 3
    assert [Path(str(path)).parent.name for path in collection] == ["a", "a", "z"]
    assert list(collection.unreadable) == [str(unreadable)]
    assert "File name too long" in collection.describe_unreadable()


def test_folder_in_which_nothing_can_be_read_is_an_error(tmp_path):
    (tmp_path / "m").mkdir()
    make_unreadable(tmp_path / "m")
    with pytest.raises(UserError, match=r"no image that can be reached: (.|\n)*File name too long"):
        Collection([str(tmp_path)]).count()


def test_folder_without_images_is_an_error_also_beside_one_that_has_some(make_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without images; left out: nothing"):
        Collection([str(make_folder(tmp_path / "photos", {"a": 1})), str(tmp_path / "empty")]).count()
