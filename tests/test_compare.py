import csv
import json
import re
import shutil
import sys

import pytest

from imgbench.compare import FILES, compare, main
from imgbench.errors import UserError
from imgbench.number import read_metrics
from imgbench.run import Run


@pytest.fixture
def two_runs(tiny_run, tmp_path):
    """A run, and the same as if another learning rate had led to it."""
    runs = [Run(tmp_path / "runs" / name) for name in ("one", "other")]
    for run in runs:
        shutil.copytree(tiny_run.path, run.path)
    config = runs[1].config
    config["optimizer"]["lr"] = 0.123
    runs[1].write_config(config)
    return runs


def test_command_prints_a_table_and_writes_all_files(two_runs, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "runs"), "--output", str(output)])
    main()
    printed = capsys.readouterr().out
    assert "optimizer.lr=0.123" in printed
    assert "not distinguishable" in printed
    assert {path.name for path in output.iterdir()} == set(FILES.split(", "))
    assert r"optimizer.lr=0.123 & 1 &" in (output / "comparison.tex").read_text()
    assert r"accuracy, \%" in (output / "comparison.tex").read_text()
    assert "| optimizer.lr=0.123 | 1 |" in (output / "comparison.md").read_text()
    assert ">optimizer.lr=0.123 <" in (output / "comparison.html").read_text()
    with (output / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = json.loads((two_runs[0].path / "metrics.json").read_text())["test/acc"]
    assert [float(row["accuracy"]) for row in rows] == [known["value"]] * 2
    assert (float(rows[0]["low"]), float(rows[0]["high"])) == (known["low"], known["high"])
    assert int(rows[0]["parameters"]) > 0


def test_tables_are_readable_in_a_terminal_of_80_columns(two_runs, monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["compare", *(str(run.path) for run in two_runs)])
    main()
    tables = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out.partition("Intervals are")[0])
    assert max(map(len, tables.splitlines())) <= 80
    accuracy = read_metrics(two_runs[0].path / "metrics.json")["test/acc"]
    assert f" {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} " in tables
    assert f" {two_runs[0].info['cost']['parameters']:,} " in tables


def test_cost_is_measured_once(two_runs, monkeypatch):
    first = compare([run.path for run in two_runs])
    assert two_runs[0].info["cost"] == first.configurations[0].cost
    monkeypatch.delattr("imgbench.compression.measure.cost_of")
    assert compare([run.path for run in two_runs]).configurations[0].cost == first.configurations[0].cost


def test_one_run_is_refused(two_runs):
    with pytest.raises(UserError, match="two runs or more"):
        compare([two_runs[0].path])
