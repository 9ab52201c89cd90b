"""A CSV file that grows, and that is fit to go on with wherever its writer was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from imgbench.errors import UserError
from imgbench.inference.journal import Journal

HOME = Path(__file__).parents[1]
COLUMNS = ["path", "class"]
SOURCE = {"run": "here", "model": "abc"}
AWKWARD = ["a,b.jpg", 'a "b".jpg', "two\nlines.jpg", "cr\r.jpg", "叶.jpg", "\udcff.jpg", '"\n"', ""]


def rows_of(path: Path, batch: int = 1) -> list[str]:
    journal = Journal(path, COLUMNS, SOURCE, batch)
    found = [row["path"] for row in journal]
    journal.close()
    return found


def write(path: Path, names: list[str], batch: int = 1) -> None:
    journal = Journal(path, COLUMNS, SOURCE, batch)
    known = journal.rows
    for start in range(known, len(names), batch):
        journal.append([[name, "x"] for name in names[start : start + batch]])
    journal.close()


def test_awkward_names_come_back(tmp_path):
    write(tmp_path / "x.csv", AWKWARD)
    assert rows_of(tmp_path / "x.csv") == AWKWARD


@pytest.mark.parametrize("batch", [1, 3])
def test_cut_anywhere_it_ends_as_if_nothing_had_happened(batch, tmp_path):
    path = tmp_path / "x.csv"
    write(path, AWKWARD, batch)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        write(path, AWKWARD, batch)
        assert path.read_bytes() == whole, length


def test_what_was_complete_stays_and_later_batches_are_whole(tmp_path):
    path = tmp_path / "x.csv"
    journal = Journal(path, COLUMNS, SOURCE, 3)
    journal.append([[name, "x"] for name in "abcd"])
    journal.complete()
    journal.append([[name, "x"] for name in "efghi"])
    journal.close()
    assert rows_of(path, 3) == list("abcdefg")


@pytest.mark.parametrize(
    ("content", "described", "named"),
    [
        ("path,class\n", False, "nothing says which model"),
        ("path,class\na,b,c\n", True, "damaged before byte 17: a row has 3 cells, not 2"),
        ("path\n", True, "1 cells"),
    ],
)
def test_file_of_something_else_is_refused_and_stays(content, described, named, tmp_path):
    path = tmp_path / "x.csv"
    if described:
        write(path, ["a"])
    path.write_text(content)
    with pytest.raises(UserError, match=named):
        rows_of(path)
    assert path.read_text() == content


def test_zeros_in_rows_that_were_complete_are_damage(tmp_path):
    journal = Journal(tmp_path / "x.csv", COLUMNS, SOURCE)
    journal.append([["a", "x"]])
    journal.complete()
    journal.close()
    (tmp_path / "x.csv").write_text("path,class\na\0,x\n")
    with pytest.raises(UserError, match=r"x\.csv is damaged before byte 16: a row holds zeros"):
        rows_of(tmp_path / "x.csv")


def test_file_of_another_source_is_refused(tmp_path):
    write(tmp_path / "x.csv", ["a"])
    with pytest.raises(UserError, match=r"(?s)of here, and they are not mixed.*Its model: abc.*Here: abd"):
        Journal(tmp_path / "x.csv", COLUMNS, {"run": "there", "model": "abd"})
    Journal(tmp_path / "x.csv", COLUMNS, {"run": "moved", "model": "abc"}).close()
    right = (tmp_path / "x.csv.source.json").read_text()
    for wrong in ("{", "[" * 100_000, right.replace('"rows": 0', '"rows": []'), right.replace("null", "{}")):
        assert wrong != right
        (tmp_path / "x.csv.source.json").write_text(wrong)
        with pytest.raises(UserError, match=r"x\.csv\.source\.json is damaged"):
            rows_of(tmp_path / "x.csv")


def test_two_processes_do_not_write_one_file(tmp_path):
    journal = Journal(tmp_path / "x.csv", COLUMNS, SOURCE)
    script = "import sys; from imgbench.inference.journal import *; Journal(Path(sys.argv[1]), ['path'], {})"
    line = [sys.executable, "-c", script, str(tmp_path / "x.csv")]
    done = subprocess.run(line, cwd=HOME, capture_output=True, text=True, check=False)
    journal.close()
    assert "Another process writes" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "x.csv.source.json"}


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_that_were_not_on_disk_when_the_power_went_are_written_again(batch, tmp_path):
    path = tmp_path / "x.csv"
    write(path, AWKWARD, batch)
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1
    for start in range(head, len(whole)):
        for end in range(start + 1, len(whole) + 1, 3):
            path.write_bytes(whole[:start] + bytes(end - start) + whole[end:])
            write(path, AWKWARD, batch)
            assert path.read_bytes() == whole, (start, end)
