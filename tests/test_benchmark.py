"""The benchmark measures what it says, by turns; how fast is not asserted."""

import json
import subprocess
import sys
import time

import pytest

from imgbench.benchmark.rounds import Timing, alternate, serve


def test_command_prints_a_table_and_leaves_numbers_and_charts(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    words = ["data=folder", f"data.root={root}", "data.image_size=20", "data.batch_size=4", "what=[step,data]"]
    line = [sys.executable, "-m", "imgbench.benchmark", *words, "rounds=2", "steps=2", "hydra.run.dir=bench"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "bench" / "benchmark.json").read_text())
    assert list(results["step"]) == ["imgbench", "bare loop", "plain fp32"]
    assert list(results["data"]) == ["imgbench, warm", "imgbench, cold", "ImageFolder + DataLoader"]
    for rows in results.values():
        for name, row in rows.items():
            assert row["value"] > 0
            assert len(row["rounds"]) == 2
            assert name in done.stdout
    assert (tmp_path / "bench" / "step.png").stat().st_size > 1000


def by_turns(connection, log):
    def work() -> float:
        with open(log, "a") as file:  # noqa: PTH123
            file.write(f"{time.monotonic_ns()} start\n{time.monotonic_ns()} end\n")
        return 0.5

    serve(connection, work)


def fails(connection, log):
    connection.recv()


def test_variants_work_one_at_a_time_and_the_first_turn_is_not_counted(tmp_path):
    timings = alternate({"a": by_turns, "b": by_turns}, {"log": str(tmp_path / "log")}, rounds=3)
    assert timings == {"a": Timing([0.5] * 3), "b": Timing([0.5] * 3)}
    words = [line.split()[1] for line in sorted((tmp_path / "log").read_text().splitlines())]
    assert words == ["start", "end"] * 8


def test_variant_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended before its time"):
        alternate({"a": fails}, {"log": ""}, rounds=1)


def test_ratio_compares_round_by_round():
    # A machine that is ten times slower in the last round does not change the ratio.
    assert Timing([1.0, 2.0, 10.0]).ratio(Timing([2.0, 4.0, 20.0])) == 0.5
