from pathlib import Path

import pytest

from imgbench.data.scan import scan
from imgbench.data.walk import LeftOut, Walk, describe_left_out, images_below, natural_sort


def below(root: Path, *places: str) -> list[str]:
    """What a walk finds below some folders, and what it leaves out."""
    walk = Walk(root)
    walk.add_places(root / place for place in places)
    return [walk.relative(path) for place in places for path, _ in walk.images(str(root / place))]


def test_equal_numbers_have_an_order_that_does_not_depend_on_the_disk():
    names = ["1", "01", "001", "img1", "img01", "b", "a"]
    assert natural_sort(names) == natural_sort(reversed(names)) == ["001", "01", "1", "a", "b", "img01", "img1"]


def test_numbers_of_any_length_sort_by_value():
    names = [f"img{number}.jpg" for number in (0, 9, 10, 99, 100, 10**18, 10**30)]
    assert natural_sort(reversed(names)) == names


def test_hidden_folders_other_files_and_empty_files_are_counted_and_left_out(tmp_path, make_folder):
    make_folder(tmp_path, {"cat": 1, "dog": 1, ".ipynb_checkpoints": 2, "__MACOSX": 1, "cat/.ipynb_checkpoints": 2})
    for name in (".DS_Store", "notes.txt", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"MM is how a TIFF begins, RIFF a WebP")
    (tmp_path / "cat" / "empty.jpg").touch()
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = scan(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.paths == ["cat/0.png", "dog/0.png"]
    assert {reason: sorted(paths) for reason, paths in found.passed_over.items()} == {
        "hidden file": ["cat/.DS_Store", "cat/.ipynb_checkpoints", "cat/Thumbs.db"],
        "other file": ["cat/notes.txt"],
        "empty file": ["cat/empty.jpg"],
        "broken link": ["dog/gone.jpg"],
    }
    assert describe_left_out(found.passed_over) == "1 broken link, 1 empty file, 3 hidden files, 1 other file"


def test_nothing_left_out_is_said_so(tmp_path, make_folder):
    assert describe_left_out(scan(make_folder(tmp_path, {"cat": 1, "dog": 1})).passed_over) == "nothing"


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 1, "dog": 1})


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "self"])
def test_a_link_to_a_folder_above_or_to_itself_ends(photos, target):
    (photos / "cat/self").symlink_to(target)
    walk = Walk(photos)
    walk.add_places([photos / "cat", photos / "dog"])
    assert [walk.relative(path) for path, _ in walk.images(str(photos / "cat"))] == ["cat/0.png"]
    assert walk.left_out == {LeftOut.BROKEN if target == "self" else LeftOut.VISITED: ["cat/self"]}


def test_links_to_files_and_to_folders_elsewhere_are_followed(photos, make_folder):
    make_folder(photos.parent / "elsewhere", {"more": 1, "more/still": 1})
    (photos / "cat/link").symlink_to("../../elsewhere/more")
    (photos / "dog/1.png").symlink_to("../../elsewhere/more/0.png")
    assert below(photos, "cat", "dog") == [
        "cat/0.png", "cat/link/0.png", "cat/link/still/0.png", "dog/0.png", "dog/1.png",
    ]  # fmt: skip


def test_a_folder_with_a_place_of_its_own_is_not_visited_through_a_link(photos, make_folder):
    make_folder(photos, {"dog/young": 1})
    (photos / "cat/dogs").symlink_to("../dog")
    (photos / "cat/pups").symlink_to("../dog/young")
    assert below(photos, "cat", "dog") == ["cat/0.png", "dog/0.png", "dog/young/0.png"]


def test_two_links_to_one_folder_are_visited_once(photos, make_folder):
    make_folder(photos.parent / "elsewhere", {"more": 1})
    (photos.parent / "elsewhere/more/back").symlink_to("..")
    for name in ("a", "b"):
        (photos / "cat" / name).symlink_to("../../elsewhere/more")
    assert below(photos, "cat") == ["cat/0.png", "cat/a/0.png"]


def test_images_below_a_folder_end_at_a_link_back(photos):
    (photos / "cat/up").symlink_to("..")
    assert list(images_below(photos)) == [photos / "cat/0.png", photos / "dog/0.png"]


def test_of_one_the_word_is_singular():
    left_out = {LeftOut.BROKEN: ["a"], LeftOut.BESIDE: ["b", "c"], LeftOut.VISITED: ["d"]}
    assert (
        describe_left_out(left_out) == "1 broken link, 2 folders beside the splits, 1 folder visited under another name"
    )
