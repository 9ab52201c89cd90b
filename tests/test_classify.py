"""Whole collections through the command: gone on with, sorted, and never mixed or lost."""

import csv
import json
import os
import resource
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import command, forked
from PIL import Image

from imgbench import predict
from imgbench.cli import guarded_main
from imgbench.errors import UserError
from imgbench.inference import classify
from imgbench.inference.journal import Journal
from imgbench.inference.prediction_file import prediction_file
from imgbench.inference.sorting import Sorter


@pytest.fixture
def photos(tiny_run, make_folder, tmp_path, monkeypatch) -> Path:
    """75 photographs, one of them broken, in two folders; two have the same names."""
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "photos", {"left": 50, "right": 24}, 8)
    (root / "left" / "7.png").write_text("broken")
    (root / "left" / "8.png").write_bytes((root / "left" / "9.png").read_bytes()[:90])
    return Path("photos")


class Killed(BaseException):
    """As a kill: nothing catches it."""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_broken_files_have_a_row_with_the_reason_and_the_exit_code_says_so(tiny_run, photos, capsys):
    assert predict.predict(tiny_run.path, [photos], output=Path("x.csv")) == 2
    found = rows(Path("x.csv"))
    assert [row["path"] for row in found][:3] == ["photos/left/0.png", "photos/left/1.png", "photos/left/2.png"]
    assert len(found) == 74
    assert next((row["path"], row["error"]) for row in found if row["error"]) == ("photos/left/7.png", "not an image")
    assert all((row["predicted"] in ("cat", "dog")) == (row["error"] == "") for row in found)
    out = capsys.readouterr().out
    assert "74 files  " in out and "unreadable: 2" in out
    assert "photos/left/7.png: not an image" in out


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.json"])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_killed_at_any_batch_it_ends_with_the_same_file(name, batches, tiny_run, photos, monkeypatch):
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    predict.predict(tiny_run.path, [photos], output=Path("whole") / name)

    def append(self, rows):
        nonlocal left
        left -= 1
        if left < 0:
            self.file.write(b"photos/left/4")  # half a row
            raise Killed
        original(self, rows)

    left, original = batches, Journal.append
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "append", append)
        predict.predict(tiny_run.path, [photos], output=Path(name))
    assert Path(name).exists() == (name == "x.csv")
    assert predict.predict(tiny_run.path, [photos], output=Path(name)) == 2
    assert Path(name).read_bytes() == (Path("whole") / name).read_bytes()
    assert {path.name for path in Path().iterdir()} - {"photos", "whole"} == {
        path.name for path in Path("whole").iterdir()
    }


def predict_and_die(*words):
    def append(self, rows):
        original(self, rows)
        os.kill(os.getpid(), signal.SIGKILL)

    original, Journal.append = Journal.append, append
    sys.argv = ["predict", *words]
    predict.main()


def test_command_that_is_really_killed_goes_on(tiny_run, photos):
    words = [str(tiny_run.path), "photos", "--output", "x.csv"]
    killed = forked(predict_and_die, *words)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows(Path("x.csv"))) == 32
    done = command("predict", *words)
    assert done.returncode == 1, done.stderr
    assert "Going on with x.csv, which has 32 files already" in done.stdout
    assert done.stderr == ""
    predict.predict(tiny_run.path, [photos], output=Path("whole.csv"))
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes()


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_photographs_that_came_since_are_added_and_what_is_gone_stays(name, tiny_run, photos, make_folder):
    pandas = pytest.importorskip("pandas")
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    read = pandas.read_csv if name == "x.csv" else pandas.read_parquet
    predict.predict(tiny_run.path, [photos], output=Path(name))
    before = read(name)
    (photos / "right" / "23.png").unlink()
    make_folder(photos, {"middle": 3}, 8)
    predict.predict(tiny_run.path, [photos], output=Path(name))
    after = read(name)
    pandas.testing.assert_frame_equal(after[:74], before)
    assert list(after["path"][74:]) == [f"photos/middle/{number}.png" for number in range(3)]


def test_file_named_twice_has_two_rows_however_often_it_is_repeated(tiny_run, photos):
    words = [photos / "left/0.png", photos / "left/0.png"]
    for _ in range(2):
        predict.predict(tiny_run.path, words, output=Path("x.csv"))
        assert len(rows(Path("x.csv"))) == 2


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_results_of_another_model_are_not_mixed(name, tiny_run, photos, tmp_path):
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    predict.predict(tiny_run.path, [photos], output=Path(name))
    before = Path(name).read_bytes()
    shutil.copytree(tiny_run.path, tmp_path / "moved")
    predict.predict(tmp_path / "moved", [photos], output=Path(name))
    with (tmp_path / "moved" / "checkpoints" / "best.ckpt").open("ab") as file:
        file.write(b"\0")  # any other file
    with pytest.raises(
        UserError, match=rf"(?s){name} has results of something else, of .*, and they are not mixed.*Its model"
    ):
        predict.predict(tmp_path / "moved", [photos], output=Path(name))
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_file_of_another_program_is_refused_and_stays(name, tiny_run, photos):
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    Path(name).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=f"{name} (exists, but nothing says|is no Parquet file)"):
        predict.predict(tiny_run.path, [photos], output=Path(name))
    assert Path(name).read_text() == "a,b\n1,2\n"


def test_parquet_without_its_package_says_what_to_install_before_work_is_done(tiny_run, photos, monkeypatch):
    find = classify.check_ending.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(UserError, match=r"pip install \"imgbench\[parquet\]\""):
        predict.predict(tiny_run.path, [photos], output=Path("x.parquet"))


def test_class_that_is_called_as_a_column_is_kept_apart(tmp_path):
    columns = ["path", "predicted", "probability", "error", *classify.class_columns(["error", "cat"])]
    with prediction_file(tmp_path / "x.json", columns, {}, 1) as journal:
        journal.append([["a.jpg", "error", 0.75, "", 0.75, 0.25]])
    [row] = json.loads((tmp_path / "x.json").read_text())
    assert row["probabilities"] == {"probability of error": 0.75, "cat": 0.25}
    assert row["error"] is None


def predict_on_full_disk(size, *words):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    sys.argv = ["predict", *words]
    guarded_main(predict.main)


@pytest.mark.parametrize(
    ("name", "size", "named"),
    [
        ("x.csv", 4000, "x.csv cannot grow: File too large.\nKept: its 64 rows"),
        ("x.json", 9000, "x.json cannot be written: File too large.\nKept: all predictions, in x.json.unfinished.csv"),
    ],
)
def test_full_disk_says_what_is_kept_and_the_same_command_goes_on(name, size, named, tiny_run, photos):
    done = forked(predict_on_full_disk, size, str(tiny_run.path), "photos", "--output", name)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr and "repeat the same command" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path().glob(".*"))
    predict.predict(tiny_run.path, [photos], output=Path(name))
    predict.predict(tiny_run.path, [photos], output=Path("whole") / name)
    assert Path(name).read_bytes() == (Path("whole") / name).read_bytes()


@pytest.mark.parametrize("how", ["link", "copy", "move"])
@pytest.mark.parametrize("stop", [1, 40, 70])
def test_sorting_that_was_killed_goes_on_and_loses_nothing(how, stop, tiny_run, photos, monkeypatch):
    contents = sorted(path.read_bytes() for path in photos.rglob("*.png"))

    def place(self, photograph, place):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return original(self, photograph, place)

    left, original = stop, Sorter.place
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Sorter, "place", place)
        predict.predict(tiny_run.path, [photos], sort_into=Path("sorted"), how=how)
    for _ in range(2):
        assert predict.predict(tiny_run.path, [photos], sort_into=Path("sorted"), how=how) == 2
    table = rows(Path("sorted/predictions.csv"))
    assert len(table) == 74
    for row in table:
        assert row["placed"].split("/")[0] == row["predicted"]
        assert row["error"] or (Path("sorted") / row["placed"]).is_file()
    placed = list(Path("sorted").glob("*/*"))
    assert len(placed) == 72
    unsorted = list(photos.rglob("*.png"))
    assert len(unsorted) == (2 if how == "move" else 74)
    if how == "move":
        assert sorted(path.read_bytes() for path in [*placed, *unsorted]) == contents


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_repeated_it_tries_failed_and_changed_files_again(name, tiny_run, photos, capsys):
    pandas = pytest.importorskip("pandas")
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    read = pandas.read_csv if name == "x.csv" else pandas.read_parquet
    predict.predict(tiny_run.path, [photos], output=Path(name))
    before = read(name).set_index("path")
    shutil.copy(photos / "right" / "0.png", photos / "left" / "7.png")  # which was damaged
    changed = photos / "left" / "0.png"
    Image.new("RGB", (8, 8), (1, 2, 250)).save(changed)
    os.utime(changed, ns=(changed.stat().st_atime_ns, time.time_ns() + 10**9))  # whatever the clock's resolution
    capsys.readouterr()
    assert predict.predict(tiny_run.path, [photos], output=Path(name)) == 1
    assert "74 files already; 3 of them, which have changed or could not be read" in capsys.readouterr().out
    after = read(name).set_index("path")
    assert list(after.index) == list(before.index)
    assert after.predicted["photos/left/7.png"] == before.predicted["photos/right/0.png"]
    different = (after.cat - before.cat).abs() > 1e-5
    assert list(after.index[different]) == ["photos/left/0.png"]
    predict.predict(tiny_run.path, [photos], output=Path("fresh.csv"))
    fresh = pandas.read_csv("fresh.csv")
    assert list(fresh.predicted.fillna("")) == list(after.predicted.fillna(""))


@pytest.mark.parametrize("how", ["link", "copy", "move"])
def test_repeated_it_sorts_failed_and_changed_files_again_and_deletes_nothing_of_the_users(
    how, tiny_run, photos, make_folder, capsys
):
    make_folder(photos / "known", {"cat": 2, "dog": 2})  # that the network was trained to tell apart
    cat, cat_2, dog, broken = (photos / name for name in ("known/cat/0.png", "known/cat/1.png", "known/dog/0.png",
                               "left/7.png"))  # fmt: skip
    content, other = cat.read_bytes(), dog.read_bytes()

    def sort() -> tuple[int, dict[str, dict[str, str]]]:
        left = predict.predict(tiny_run.path, [photos], sort_into=Path("sorted"), how=how)
        return left, {row["path"]: row for row in rows(Path("sorted/predictions.csv"))}

    left, before = sort()
    assert left == 2
    earlier = Path("sorted") / before[str(cat)]["placed"]
    mine = Path("sorted") / before[str(cat_2)]["placed"]
    assert (before[str(cat)]["predicted"], before[str(dog)]["predicted"]) == ("cat", "dog")
    mine.unlink()
    mine.write_text("mine, under the name of one that was sorted")
    for path in (cat, cat_2, broken):
        path.write_bytes(other)
        os.utime(path, ns=(0, time.time_ns() + 10**9))  # whatever the clock's resolution
    capsys.readouterr()
    left, after = sort()
    assert left == 1
    assert "photos/left/8.png: " in capsys.readouterr().out  # the one that still fails, with its reason
    for path in (cat, cat_2, broken):
        row = after[str(path)]
        assert (row["predicted"], row["placed"].split("/")[0], row["error"]) == ("dog", "dog", "")
        assert (Path("sorted") / row["placed"]).read_bytes() == other
    kept = {"link": None, "copy": Path("sorted/outdated") / before[str(cat)]["placed"], "move": earlier}[how]
    assert earlier.exists() == (how == "move")
    assert kept is None or kept.read_bytes() == content
    assert [path for path in Path("sorted").rglob("*.png") if path.read_bytes().startswith(b"mine")]
    assert sort() == (1, after)


def test_table_with_names_in_chinese_has_the_mark_by_which_excel_knows_how_to_read_it(tiny_run, photos):
    pandas = pytest.importorskip("pandas")
    predict.predict(tiny_run.path, [photos / "right"], output=Path("plain.csv"))
    assert Path("plain.csv").read_bytes().startswith(b"path,")
    (photos / "right").rename(photos / "叶子")
    for words in ([photos / "叶子"], [photos]):  # the second goes on
        predict.predict(tiny_run.path, words, output=Path("x.csv"))
        assert Path("x.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")
    table = pandas.read_csv("x.csv")
    assert table.columns[0] == "path" and len(table) == 74


def test_excel_opens_the_table(tiny_run, photos):
    openpyxl = pytest.importorskip("openpyxl")
    shutil.copy(photos / "right" / "0.png", photos / "=1+1.png")
    os.chdir(photos)
    predict.predict(tiny_run.path, ["=1+1.png", "left"], output=Path("../x.xlsx"))
    rows = list(openpyxl.load_workbook("../x.xlsx")["predictions"].values)
    assert rows[0][:4] == ("path", "predicted", "probability", "error")
    assert rows[1][0] == "=1+1.png" and isinstance(rows[1][2], float)
    assert len(rows) == 52
    assert not list(Path("..").glob("*.csv"))


@pytest.mark.parametrize("words", [["photos"], ["photos/left/*.png", "photos/right"]])
def test_moving_can_be_repeated_when_nothing_is_left_to_move(words, tiny_run, photos):
    for name in ("7.png", "8.png"):  # which are damaged, and stay
        (photos / "left" / name).unlink()
    for _ in range(2):
        assert predict.predict(tiny_run.path, words, sort_into=Path("sorted"), how="move") == 0
        assert not list(photos.rglob("*.png"))
    with pytest.raises(UserError, match=r"does not exist|without images"):
        predict.predict(tiny_run.path, words, sort_into=Path("another"), how="move")


def test_saved_pictures_are_not_put_where_photographs_are_looked_for(tiny_run, photos):
    with pytest.raises(UserError, match=r"--save-images photos/seen lies in photos.*classified the next time"):
        predict.predict(tiny_run.path, [photos], save_images=photos / "seen")
    assert not (photos / "seen").exists()


@pytest.fixture
def shards(photos) -> str:
    """The same photographs in two shards, as WebDataset has them: beside each a file with its class."""
    names = sorted(photos.rglob("*.png"))
    for number, part in enumerate((names[:40], names[40:])):
        with tarfile.open(f"photos-{number}.tar", "w") as tar:
            for name in part:
                tar.add(name, f"{name.parent.name}/{name.name}")
                tar.addfile(tarfile.TarInfo(f"{name.parent.name}/{name.stem}.cls"))
    return "photos-{0..1}.tar"


def test_photographs_in_shards_are_answered_as_files_are(tiny_run, photos, shards):
    assert predict.predict(tiny_run.path, [photos], output=Path("files.csv")) == 2
    of_files = {str(Path(row.pop("path")).relative_to(photos)): row for row in rows(Path("files.csv"))}
    for number, word in enumerate((shards, "photos-*.tar")):
        assert predict.predict(tiny_run.path, [word], output=Path(f"{number}.csv")) == 2
        assert {row.pop("path").partition(".tar/")[2]: row for row in rows(Path(f"{number}.csv"))} == of_files
    assert predict.predict(tiny_run.path, ["photos-0.tar"], save_images=Path("pictures")) == 0
    assert len(list(Path("pictures").iterdir())) == 40


def test_shards_that_came_since_are_added(tiny_run, shards):
    predict.predict(tiny_run.path, ["photos-0.tar"], output=Path("x.csv"))
    before = Path("x.csv").read_bytes()
    predict.predict(tiny_run.path, [shards], output=Path("x.csv"))
    assert Path("x.csv").read_bytes().startswith(before)
    assert Counter(row["path"].partition("/")[0] for row in rows(Path("x.csv"))) == {
        "photos-0.tar": 40,
        "photos-1.tar": 34,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("photos-{0..2}.tar", "1 of 3 shards are missing, for example photos-2.tar"),
        ("cut.tar", "cut.tar is no tar, or cut short"),
        ("empty.tar", "empty.tar is a tar without images"),
    ],
)
def test_shards_that_cannot_be_read_are_named_before_any_answer(word, message, tiny_run, shards):
    Path("cut.tar").write_bytes(Path("photos-0.tar").read_bytes()[:-20_000])
    with tarfile.open("empty.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"))
    with pytest.raises(UserError, match=message):
        predict.predict(tiny_run.path, [word], output=Path("x.csv"))
    assert not Path("x.csv").exists()


def test_photographs_in_shards_are_not_sorted(tiny_run, shards):
    with pytest.raises(UserError, match=r"photographs lie in photos-0\.tar, and only files can be sorted"):
        predict.predict(tiny_run.path, [shards], sort_into=Path("sorted"))


def test_folder_to_sort_into_is_not_searched(tiny_run, photos):
    with pytest.raises(UserError, match=r"--sort-into photos/sorted lies in photos, which is searched"):
        predict.predict(tiny_run.path, [photos], sort_into=photos / "sorted")
    predict.predict(tiny_run.path, [photos / "left"], sort_into=photos / "sorted")


def test_other_way_of_sorting_is_not_mixed_in(tiny_run, photos):
    predict.predict(tiny_run.path, [photos], sort_into=Path("sorted"))
    with pytest.raises(UserError, match=r"(?s)Its sorted_by: link.*Here: move"):
        predict.predict(tiny_run.path, [photos], sort_into=Path("sorted"), how="move")
    assert len(list(photos.rglob("*.png"))) == 74


@pytest.mark.parametrize("words", [["--move"], ["--sort-into", "x", "--copy", "--move"]])
def test_moving_is_never_meant_by_accident(words, tiny_run, photos, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict", str(tiny_run.path), "photos", *words])
    with pytest.raises(SystemExit):
        predict.main()
    assert "--sort-into DIR" in capsys.readouterr().err or len(words) > 1
    assert not Path("x").exists()
