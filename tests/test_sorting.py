"""Photographs in folders by class: names that every file system takes, and nothing lost whatever happens."""

import errno
import os
from pathlib import Path

import pytest

from imgbench.errors import UserError
from imgbench.inference import sorting
from imgbench.inference.sorting import How, Sorter, folder_names

NAMES = ["a/b", "a_b", "A_B", "..", ".hidden", "unsure", "con", "nul.x", "叶", " x. ", "\0", "e" * 300, "cat"]
HOW: list[How] = ["link", "copy", "move"]


def test_every_class_has_a_folder_of_its_own_that_every_system_takes(tmp_path):
    names = folder_names(NAMES)
    assert len({name.casefold() for name in names.values()} | {"unsure"}) == len(NAMES) + 1
    assert (names["cat"], names["叶"], names["a/b"], names["A_B"]) == ("cat", "叶", "a_b", "A_B_3")
    for name in names.values():
        (tmp_path / name).mkdir()
    assert len(list(tmp_path.iterdir())) == len(NAMES)


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Three of the same name; two of these have the same content."""
    for number, content in enumerate(["one", "one", "two"]):
        (tmp_path / f"photos{number}").mkdir()
        (tmp_path / f"photos{number}" / "a.jpg").write_text(content)
    return sorted(tmp_path.glob("photos*/a.jpg"))


def sort(folder: Path, how: How, photos: list[Path], unsure: bool = False) -> list[str]:
    sorter = Sorter(folder, ["cat"], how)
    places = [sorter.choose(str(photo), "cat", unsure) for photo in photos]
    for photo, place in zip(photos, places, strict=True):
        assert sorter.place(str(photo), place) is None
        assert sorter.place(str(photo), place) is None, "again"
    return places


@pytest.mark.parametrize("how", HOW)
def test_photographs_of_one_name_are_kept_apart(how, photos, tmp_path):
    places = sort(tmp_path / "sorted", how, photos)
    assert places == ["cat/a.jpg", "cat/a_2.jpg", "cat/a_3.jpg"]
    assert [(tmp_path / "sorted" / place).read_text() for place in places] == ["one", "one", "two"]
    assert [(tmp_path / "sorted" / place).is_symlink() for place in places] == [how == "link"] * 3
    assert [photo.exists() for photo in photos] == [how != "move"] * 3
    assert len([path for path in (tmp_path / "sorted").rglob("*") if not path.is_dir()]) == 3


def test_what_is_unsure_lies_apart(photos, tmp_path):
    assert sort(tmp_path / "sorted", "link", photos[:1], unsure=True) == ["unsure/a.jpg"]


def test_links_lead_there_from_anywhere(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sort(Path("sorted"), "link", [photos[0].relative_to(tmp_path)])
    monkeypatch.chdir("/")
    assert (tmp_path / "sorted/cat/a.jpg").read_text() == "one"


def test_what_lies_there_is_never_written_over(photos, tmp_path):
    (tmp_path / "sorted" / "cat").mkdir(parents=True)
    (tmp_path / "sorted" / "cat" / "a.jpg").write_text("mine")
    (tmp_path / "sorted" / "cat" / "a_2.jpg").symlink_to("nowhere")
    assert sort(tmp_path / "sorted", "move", photos[:1]) == ["cat/a_3.jpg"]
    assert (tmp_path / "sorted" / "cat" / "a.jpg").read_text() == "mine"


def test_another_picture_in_the_place_of_a_moved_one_stays_and_so_does_the_photograph(photos, tmp_path):
    [place] = sort(tmp_path / "sorted", "move", photos[:1])
    photos[0].write_text("another photograph of the same name")
    assert "is another picture" in str(Sorter(tmp_path / "sorted", ["cat"], "move").place(str(photos[0]), place))
    assert photos[0].read_text() == "another photograph of the same name"
    assert (tmp_path / "sorted" / place).read_text() == "one"


@pytest.mark.parametrize("another_file_system", [False, True])
def test_move_stopped_before_any_step_is_finished_later(another_file_system, photos, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def call_or_die(function, *args, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return function(*args, **options)

    def no_link(*args, **options):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    steps = [(os, "link"), (os, "fsync"), (sorting.shutil, "copy2"), (Path, "replace"), (Path, "unlink")]
    for stop in range(6):
        folder, photo = tmp_path / f"sorted{stop}", tmp_path / f"{stop}.jpg"
        photo.write_text("content")
        with monkeypatch.context() as patch:
            if another_file_system:
                patch.setattr(os, "link", no_link)
            left = stop
            for home, name in steps:
                patch.setattr(home, name, lambda *a, f=getattr(home, name), **o: call_or_die(f, *a, **o))  # noqa: B008
            place = Sorter(folder, ["cat"], "move").choose(str(photo), "cat", False)
            try:
                Sorter(folder, ["cat"], "move").place(str(photo), place)
            except Killed:
                whole = [path for path in (photo, folder / place) if path.exists()]
                assert whole and all(path.read_text() == "content" for path in whole)
        assert Sorter(folder, ["cat"], "move").place(str(photo), place) is None
        assert (folder / place).read_text() == "content"
        assert not photo.exists()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_photographs_move_to_another_file_system(photos, tmp_path):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        places = sort(Path(folder) / "sorted", "move", photos)
        assert [(Path(folder) / "sorted" / place).read_text() for place in places] == ["one", "one", "two"]
        assert len(list(Path(folder).glob("sorted/cat/*"))) == 3
    assert not any(photo.exists() for photo in photos)


def test_links_that_are_moved_still_lead_to_their_photograph(photos, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.jpg").symlink_to("../photos0/a.jpg")
    [place] = sort(tmp_path / "deep" / "sorted", "move", [tmp_path / "links" / "b.jpg"])
    assert (tmp_path / "deep" / "sorted" / place).read_text() == "one"
    assert photos[0].exists() and not (tmp_path / "links" / "b.jpg").is_symlink()


def test_photograph_that_is_gone_is_said_to_be(tmp_path):
    sorter = Sorter(tmp_path / "sorted", ["cat"], "link")
    assert sorter.place(str(tmp_path / "gone.jpg"), "cat/gone.jpg") == "it is no longer there"


def test_place_that_cannot_be_written_is_an_error(photos, tmp_path):
    (tmp_path / "sorted").write_text("a file")
    with pytest.raises(UserError, match=r"--sort-into .*sorted: .*a\.jpg could not be put there"):
        sort(tmp_path / "sorted", "copy", photos)
    assert photos[0].read_text() == "one"
