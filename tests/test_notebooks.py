"""The notebooks run from top to bottom, and say what the run's files say."""

import ast
import csv
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import nbformat
import pytest

from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.number import read_metrics
from imgbench.run import Run

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICKSTART = FOLDER / "quickstart.ipynb"
CHINESE = FOLDER / "快速上手.ipynb"
COMPARE = FOLDER / "compare.ipynb"
QUICKSTARTS = [QUICKSTART, CHINESE]
EXECUTED = [QUICKSTART, COMPARE]  # the Chinese quickstart is the same program
PICTURES = {QUICKSTART: 3, CHINESE: 3, COMPARE: 1}  # training images, curves, confusion matrix; accuracy against cost
NO_CURVE = {QUICKSTART: "One epoch makes no curve.", CHINESE: "一轮画不成曲线。"}


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text_of(notebook):
    return "".join(output["text"] for output in outputs_of(notebook) if output["output_type"] == "stream")


def said_in(notebook):
    """All that a reader can see, but the pictures."""
    sources = [cell.source for cell in notebook.cells]
    return "\n".join([*sources, *(re.sub(r'"image/png": "[^"]*"', "", json.dumps(o)) for o in outputs_of(notebook))])


def tables_in(notebook):
    return [output["data"]["text/html"] for output in outputs_of(notebook) if "text/html" in output.get("data", {})]


def pictures_in(notebook):
    return [output["data"]["image/png"] for output in outputs_of(notebook) if "image/png" in output.get("data", {})]


@pytest.fixture(scope="session")
def execute(tmp_path_factory, sweep):
    """Runs a notebook in a kernel of its own, which leaves nothing in the user's home."""
    from nbclient import NotebookClient  # takes seconds

    home = tmp_path_factory.mktemp("jupyter")

    def run(path, folder):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:  # two epochs make a curve as well, and a few batches an epoch
            cell.source = cell.source.replace(
                '"trainer.max_epochs=3"', '"trainer.max_epochs=2", "+trainer.limit_train_batches=5"'
            )
        resources = {"metadata": {"path": str(folder)}}
        places = {"IPYTHONDIR": str(home), "JUPYTER_RUNTIME_DIR": str(home), "IMGBENCH_CACHE": str(home / "cache")}
        environment = {**os.environ, **places, "IMGBENCH_SWEEP": str(sweep)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_RUNTIME_DIR", str(home))
            NotebookClient(notebook, timeout=300, resources=resources).execute(env=environment)
        return notebook

    return run


@pytest.fixture(scope="session")
def sweep(tiny_run, tmp_path_factory):
    """The tiny run, and as if with another seed and with another model."""
    folder = tmp_path_factory.mktemp("sweep") / "outputs/folder/cnn/2026-01-31_12-00-00"
    for number, (seed, model) in enumerate(((1, "cnn"), (2, "cnn"), (1, "compact"))):
        run = Run(folder / f"{number}_model-{model}_seed-{seed}")
        shutil.copytree(tiny_run.path, run.path)
        run.write_config({**tiny_run.stored_config, "seed": seed, "model_name": model})
    return folder


@pytest.fixture(scope="session")
def executed(execute, tmp_path_factory):
    """A notebook, executed once for all tests, and the folder where; the comparison on the sweep."""

    @cache
    def run(path):
        folder = tmp_path_factory.mktemp("elsewhere")
        return execute(path, folder), folder

    return run


def run_in(folder):
    (path,) = folder.glob("outputs/digits/*/*")
    return Run(path)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_notebook_runs_from_top_to_bottom_without_a_warning(path, executed):
    outputs = outputs_of(executed(path)[0])
    assert outputs
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_notebook_draws_its_pictures(path, executed):
    assert len(pictures_in(executed(path)[0])) == PICTURES[path]


@pytest.fixture
def choose_sweep(tmp_path, monkeypatch):
    """What the first cell of the comparison does in the folder of the notebooks."""
    monkeypatch.delenv("IMGBENCH_SWEEP", raising=False)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    first = next(cell.source for cell in nbformat.read(COMPARE, as_version=4).cells if cell.cell_type == "code")
    return lambda: exec(first, {})


def test_comparison_without_a_sweep_names_the_command_that_makes_one(choose_sweep):
    with pytest.raises(UserError, match=r"There is no finished sweep.*: python -m imgbench.train"):
        choose_sweep()


def test_quickstart_trains_and_shows_the_numbers_of_its_run(executed):
    notebook, folder = executed(QUICKSTART)
    run = run_in(folder)
    assert re.findall(r"^epoch (\d)/2 ", text_of(notebook), re.MULTILINE) == ["1", "2"]
    metrics = read_metrics(run.path / "metrics.json")
    (table,) = [table for table in tables_in(notebook) if "test/acc</td>" in table]
    assert describe(metrics["test/acc"]) in table
    assert describe(metrics["test/macro_f1"]) in table


def test_quickstart_shows_photographs_of_mistakes_and_the_report(executed):
    mistakes, report = [table for table in tables_in(executed(QUICKSTART)[0]) if "test/acc</td>" not in table]
    assert mistakes.count("<img") == mistakes.count(" taken for ") > 0
    assert report.startswith("<iframe srcdoc=")


def test_quickstart_predicts_as_predictions_csv_says(executed):
    notebook, folder = executed(QUICKSTART)
    with (run_in(folder).path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        known = {row["path"]: row for row in csv.DictReader(file)}
    found = re.findall(r"^(\S+\.png) \D+(\d)\D+(\S+) %$", text_of(notebook), re.MULTILINE)
    assert len(found) == 5
    for name, predicted, percent in found:
        assert predicted == known[name]["predicted"]
        assert float(percent) == pytest.approx(100 * float(known[name][predicted]), abs=0.06)


class WithoutProse(ast.NodeTransformer):
    """Leaves out of a program what it says to its readers."""

    def visit_JoinedStr(self, node):
        node.values = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        return self.generic_visit(node)

    def visit_Constant(self, node):
        return (
            ast.Constant("") if isinstance(node.value, str) and not re.fullmatch(r"[\x21-\x7e]*", node.value) else node
        )


def test_quickstarts_are_one_program_in_two_languages():
    programs = [
        [ast.dump(WithoutProse().visit(ast.parse(cell.source))) for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (nbformat.read(path, as_version=4) for path in QUICKSTARTS)
    ]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_quickstart_knows_the_commands_of_a_first_hour(path):
    text = said_in(nbformat.read(path, as_version=4))
    for word in ("imgbench.study(", "imgbench.audit(", "imgbench.compare(", "imgbench.demo RUN", "--resume RUN"):
        assert word in text


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_quickstart_draws_no_axis_for_a_single_epoch(path):
    notebook = nbformat.read(path, as_version=4)  # `curves` returns None then: tests/test_api.py
    assert f'run.curves() or "{NO_CURVE[path]}"' in [cell.source for cell in notebook.cells]


def test_comparison_of_a_sweep_names_its_configurations_and_what_they_cost(executed, sweep):
    text = text_of(executed(COMPARE)[0])
    assert all(path.name in text for path in sweep.iterdir())
    assert re.search(r"^model=cnn +\d+\.\d\d, \d+\.\d\d %$", text, re.MULTILINE), "two seeds"
    assert re.search(r"^model=compact +\d+\.\d\d %$", text, re.MULTILINE)
    assert "model=compact: 0 images" in text or "model=cnn: 0 images" in text, "they are the same network"
    assert str(sweep.parent) not in text


def test_comparison_takes_the_newest_sweep(choose_sweep, sweep, tmp_path, capsys):
    for name in ("2026-01-30_12-00-00", "2026-02-01_12-00-00"):
        shutil.copytree(sweep, tmp_path / "outputs/folder/cnn" / name)
    shutil.rmtree(next((tmp_path / "outputs/folder/cnn/2026-02-01_12-00-00").glob("2_*")))
    choose_sweep()
    assert capsys.readouterr().out.split() == ["0_model-cnn_seed-1", "1_model-cnn_seed-2"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebook_is_executed_without_an_error(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert outputs_of(notebook)
    assert {output["output_type"] for output in outputs_of(notebook)} <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs_of(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebook_tells_nothing_of_the_machine_it_ran_on(path):
    notebook = nbformat.read(path, as_version=4)
    assert re.findall(r"/home/|/root/|/tmp/|/Users/|\b[A-Z]:\\", said_in(notebook)) == []
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(cell.metadata == {} for cell in notebook.cells), "timings, or settings of an editor"


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_committed_quickstart_shows_the_digits_and_holds_no_report(path):
    notebook = nbformat.read(path, as_version=4)
    assert 'imgbench.train("digits"' in said_in(notebook).replace("\\", "")
    assert len(pictures_in(notebook)) == PICTURES[path]
    assert not [table for table in tables_in(notebook) if "iframe" in table], "it is long, and GitHub does not show it"
