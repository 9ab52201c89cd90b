import csv
import json
import re
import shutil
import subprocess
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


def test_a_file_takes_the_table_of_configurations_alone(two_runs, tmp_path):
    compare([run.path for run in two_runs], tmp_path / "new" / "table.csv", names=["=small", "VGG-16"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]
    with (tmp_path / "new" / "table.csv").open() as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"'=small", "VGG-16"}
    metrics = read_metrics(two_runs[0].path / "metrics.json")
    for name in ("balanced_acc", "macro_f1", "auroc"):
        assert float(rows["VGG-16"][name]) == pytest.approx(metrics[f"test/{name}"].value)
        assert float(rows["VGG-16"][f"{name}_low"]) == pytest.approx(metrics[f"test/{name}"].low)


@pytest.mark.parametrize("name", ["out", "table.csv"])
def test_a_comparison_is_written_over_one_of_the_same_runs_alone(name, two_runs, tmp_path):
    output, runs = tmp_path / name, [run.path for run in two_runs]
    compare(runs, output)
    compare(runs[::-1], output, names=["a", "b"])
    shutil.copytree(runs[0], tmp_path / "third")
    with pytest.raises(UserError, match=rf"{name} holds the comparison of other runs, .*, which is not overwritten"):
        compare([runs[0], tmp_path / "third"], output)
    table = output / "comparison.csv" if output.is_dir() else output
    assert "/other" in table.read_text()
    table.write_text("name,age\nx,1\n")
    with pytest.raises(UserError, match="is no table of a comparison, and is not overwritten"):
        compare(runs, output)
    if output.is_dir():
        table.unlink()
        with pytest.raises(UserError, match=r"holds differences\.csv already, of no comparison"):
            compare(runs, output)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX is installed")
def test_latex_tables_with_the_default_names_fit_the_page(two_runs, tmp_path):
    for seed, run in enumerate(two_runs):
        other = Run(shutil.copytree(run.path, run.path.with_name(f"{run.path.name}2")))
        for one in (run, other):
            config = one.config
            config["optimizer"] |= {"weight_decay": 0.0123 * (seed + 1), "label_of_a_long_setting": f"value {seed}"}
            config["seed"] = int(one is run)
            one.write_config(config)
    compare([tmp_path / "runs"], tmp_path / "out")
    assert "optimizer.lr=0.123, " in (tmp_path / "out" / "comparison.md").read_text()
    tex = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{out/comparison}\end{document}"
    (tmp_path / "a.tex").write_text(tex)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"metric": "f1"}, r"--metric f1, but it is one of acc, balanced_acc, macro_f1, auroc"),
        ({"names": ["a"]}, r"--names has 1 of them, but there are 2 configurations(.|\n)*1  .*\n  2  "),
        ({"names": ["a", " a"]}, "'a' twice"),
        ({"names": ["a", ""]}, "an empty one"),
    ],
)
def test_a_metric_and_names_that_cannot_be_are_refused(two_runs, options, named):
    with pytest.raises(UserError, match=named):
        compare([run.path for run in two_runs], **options)


def test_a_run_without_probabilities_is_named(two_runs):
    file = two_runs[1].path / "predictions.csv"
    file.write_text("".join(",".join(line.split(",")[:4]) + "\n" for line in file.read_text().splitlines()))
    with pytest.raises(UserError, match=r"other/predictions\.csv is damaged: it has no column of probabilities"):
        compare([run.path for run in two_runs], metric="auroc")


@pytest.mark.parametrize("what", ["there", "gone", "private"])
def test_page_shows_the_photographs_on_which_runs_differ(two_runs, tmp_path, what):
    file = two_runs[1].path / "predictions.csv"
    header, first, *others = file.read_text().splitlines()
    path, group, target, _, *probabilities = first.split(",")
    other = next(name for name in header.split(",")[4:] if name != target)
    file.write_text(
        "\n".join([header, ",".join([path, group, target, other, *reversed(probabilities)]), *others]) + "\n"
    )
    config = two_runs[0].config
    if what == "gone":
        config["data"]["root"] = str(tmp_path / "nowhere")
    config["data"]["thumbnails"] = what != "private"
    two_runs[0].write_config(config)
    names = ["<b>one", "猫"]
    compare([run.path for run in two_runs], tmp_path / "out", names=names, language="zh" if what == "there" else "en")
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert ("data:image/" in page) == (what == "there")
    assert "&lt;b&gt;one" in page and "<b>one" not in page and path in page
    assert ("测试正确率" in page, "test accuracy, %" in page) == (what == "there", what != "there")
    said = {"there": "回答不同的照片", "gone": "1 photograph is not where it was", "private": "data.thumbnails=false"}
    assert said[what] in page
    with (tmp_path / "out" / "disagreements.csv").open() as rows:
        [row] = csv.DictReader(rows)
    assert (row["path"], row["class"], row["right"]) == (path, target, names[0])
    assert (row["first_predicted"], row["second_predicted"]) == (target, other)
