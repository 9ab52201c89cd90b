"""Calls for files that fail end in one error or a success; `python -m imgbench.benchmark what=[faults]` tries more."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from imgbench.benchmark.development.faults import (
    Ended,
    compiled,
    half_written,
    judged,
    lost,
    undecided,
    unfinished,
    unfinished_tables,
)
from imgbench.benchmark.development.power import Disk

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)
# In a process of its own: each call of two kinds of writing fails in turn, in each way; then the power goes after each.
TRIED = """
import ctypes, os, shutil, sys
from pathlib import Path
from imgbench.benchmark.development.power import states
from imgbench.data.corrections import Decision, add_decisions, read_decisions
from imgbench.errors import UserError
from imgbench.files import put_in_place, write_atomically
from imgbench.inference.sorting import Sorter

library, home = ctypes.CDLL(None), Path(sys.argv[1])
library.faults_met.restype = ctypes.c_char_p
work, start, record, left = (home / name for name in ("work", "start", "record", "left"))
start.mkdir(), record.mkdir()
(start / "old.txt").write_text("old")
(start / "photo.png").write_text("photo")
folder = os.fsencode(work)

def rows(place):
    return [one.by for one in read_decisions(place / "corrections.csv")]

def decide(name):
    add_decisions(work / "corrections.csv", [Decision("0" * 32, "a.png", "right", "", name, "", "")])

faults = 0
for kind in range(4):
    for before in (0, 1):
        call = 0
        while call == 0 or library.faults_met():
            call += 1
            shutil.copytree(start, work)
            if before:
                decide("Ann")
            library.faults_arm(folder, kind, ctypes.c_long(call))
            expected = ["Ann"] * before
            try:
                write_atomically(work / "old.txt", "new")
                decide("Bob")
                expected.append("Bob")
            except (OSError, UserError):
                pass
            library.faults_disarm()
            assert rows(work) == expected, (kind, call)
            assert (work / "old.txt").read_text() in ("old", "new")
            assert {path.name for path in work.iterdir() if not path.name.endswith(".lock")} <= {
                "old.txt", "photo.png", "corrections.csv"}, (kind, call)
            faults += bool(library.faults_met())
            shutil.rmtree(work)

shutil.copytree(start, work)
library.faults_record(folder, os.fsencode(record))
write_atomically(work / "old.txt", "new")
done = [library.faults_seen()]
for name in ("Ann", "Bob"):
    decide(name)
    done.append(library.faults_seen())
Sorter(work / "sorted", ["cat"], "move").place(str(work / "photo.png"), "cat/photo.png")
(work / ".made").mkdir()
(work / ".made" / "shard").write_text("whole")
put_in_place(work / ".made", work / "made")
calls = library.faults_seen()
library.faults_disarm()
damaged = 0
for place, state in states(work, start, record / "log", left, range(1, calls + 1)):
    assert (left / "old.txt").read_text() in (("new",) if place >= done[0] else ("old", "new")), (place, state)
    try:
        found = rows(left)
    except UserError:
        damaged += 1
        found = None
    sure = ["Ann", "Bob"][: sum(place >= one for one in done[1:])]
    assert (found or [])[: len(sure)] == sure if found is not None else place not in done, (place, state, found)
    photographs = [path.read_text() for path in left.rglob("photo.png")]
    assert photographs and set(photographs) == {"photo"}, (place, state)
    assert (left / "made").is_dir() or place < calls, (place, state)
    assert not (left / "made").is_dir() or (left / "made" / "shard").read_text() == "whole", (place, state)
    shutil.rmtree(left)
print(faults, calls, damaged)
"""


def test_half_written_files_are_found(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    Image.effect_noise((20, 20), 50).save(tmp_path / "c.png")
    (tmp_path / ".hidden.json").write_text("{")
    assert not [*half_written(tmp_path)]
    for path in tmp_path.glob("[a-c].*"):
        path.write_bytes(path.read_bytes()[: 3 * path.stat().st_size // 4])
    assert [line.split()[0] for line in half_written(tmp_path)] == ["a.json", "b.csv", "c.png"]


def test_a_table_that_is_not_whole_yet_says_so(tmp_path):
    for name, rows in (("whole", 2), ("begun", 0)):
        (tmp_path / f"{name}.csv.source.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "damaged.csv.source.json").write_text("{")
    assert [*unfinished_tables(tmp_path)] == ["begun.csv"]


def test_what_was_there_before_is_missed(tmp_path):
    before, now = tmp_path / "before", tmp_path / "now"
    for name in ("photos/1.png", "photos/2.png", "run/metrics.json", "cache/looks.npz"):
        (before / name).parent.mkdir(parents=True, exist_ok=True)
        (before / name).write_text(name)
    shutil.copytree(before, now)
    assert not [*lost(now, before)]
    (now / "photos/1.png").write_text("other")
    (now / "run/metrics.json").unlink()
    (now / "cache/looks.npz").unlink()  # may be made again
    assert [*lost(now, before)] == ["photos/1.png has changed", "run/metrics.json is lost"]


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (Ended(0, "done", 9, ""), []),
        (Ended(1, "\nError: no space left\n", 9, ""), []),
        (Ended(1, "", 9, ""), ["not one error"]),
        (Ended(1, "Traceback (most recent call last)\nOSError", 9, ""), ["a stack trace"]),
        (Ended(-7, "Error: a", 9, ""), ["killed by signal 7"]),
        (Ended(None, "", 9, ""), ["it took too long"]),
    ],
)
def test_how_a_command_ends_is_judged(ended, expected):
    assert [*judged(ended)] == expected


def test_a_decision_answered_is_in_the_table_and_one_refused_is_not(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "corrections.csv").write_text("by\nAnn\nBob\n")
    assert [*undecided(tmp_path, [(200, 1, "Ann"), (409, 2, "Cid")])] == []
    assert len([*undecided(tmp_path, [(409, 1, "Ann"), (200, 2, "Cid"), (500, 3, "Bob")])]) == 3


def test_a_run_that_says_that_it_is_finished_lacks_nothing(tmp_path):
    for name in ("whole", "left"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "run.json").write_text('{"status": "finished"}')
    (tmp_path / "whole" / "run" / "metrics.json").write_text("{}")
    left, whole, before = tmp_path / "left", tmp_path / "whole", tmp_path / "before"
    assert [*unfinished(left, whole, before)] == ["run is finished, but lacks metrics.json"]
    assert not [*unfinished(left, whole, left)]  # it was finished before, and what was to be added is not promised
    (left / "run" / "run.json").write_text('{"status": "running"}')
    assert not [*unfinished(left, whole, before)]


def test_what_was_not_brought_to_disk_may_be_lost(tmp_path):
    start, kept, left = tmp_path / "start", tmp_path / "kept", tmp_path / "left"
    start.mkdir()
    (start / "a").write_text("old")
    kept.write_text("new")
    disk = Disk(tmp_path / "work", start)

    def found(which, beyond):
        disk.write(left, which, beyond, 0)
        texts = {path.name: path.read_text() for path in left.iterdir()}
        shutil.rmtree(left)
        return texts

    for what, path, more in (("create", "b", ""), ("size", "b", "6")):
        disk.do(what, str(disk.root / path), more)
    assert found("none", "nothing") == {"a": "old"}
    assert found("all", "zeros") == {"a": "old", "b": 6 * "\0"}
    disk.do("sync", str(disk.root / "b"), str(kept))
    disk.do("rename", str(disk.root / "b"), str(disk.root / "a"))
    assert found("none", "nothing") == {"a": "old"}
    assert found("all", "nothing") == {"a": "new"}
    disk.do("syncdir", str(disk.root), "")
    assert found("none", "nothing") == {"a": "new"}


@needs_compiler
def test_writing_in_place_of_a_file_and_decisions_survive_each_fault_and_each_power_cut(tmp_path):
    environment = {**os.environ, "LD_PRELOAD": str(compiled(tmp_path))}
    done = subprocess.run([sys.executable, "-c", TRIED, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    faults, calls, _ = map(int, done.stdout.split())
    assert faults > 50 and calls > 10


@pytest.mark.slow
@needs_compiler
def test_commands_lose_nothing_where_calls_fail():
    # In a process of its own: others have started the one that commands are copied from, without what makes calls fail.
    code = (
        "import json; from imgbench.benchmark.development.faults import measure_faults\n"
        "print(json.dumps(measure_faults(1, ['predict', 'export'])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert all(row["value"] == 1 for row in rows.values())
    assert all(row["faults"] >= 4 for row in rows.values())
    assert set(rows) == {"predict", "predict, power cut", "export", "export, power cut"}
