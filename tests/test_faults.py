"""Calls for files that fail end in one error or a success; `python -m imgbench.benchmark what=[faults]` tries more."""

import json
import shutil
import sys

import pytest
from PIL import Image

from imgbench.benchmark.development.faults import COMMANDS, Ended, half_written, judged, lost, measure_faults


def test_half_written_files_are_found(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    Image.effect_noise((20, 20), 50).save(tmp_path / "c.png")
    (tmp_path / ".hidden.json").write_text("{")
    assert not [*half_written(tmp_path)]
    for path in tmp_path.glob("[a-c].*"):
        path.write_bytes(path.read_bytes()[: 3 * path.stat().st_size // 4])
    assert [line.split()[0] for line in half_written(tmp_path)] == ["a.json", "b.csv", "c.png"]


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_commands_lose_nothing_where_calls_fail():
    rows = measure_faults(1, ["predict", "export"])
    assert {name: row["value"] for name, row in rows.items()} == {"predict": 1, "export": 1}
    assert all(row["faults"] >= 3 for row in rows.values())
    assert set(rows) < set(COMMANDS)
