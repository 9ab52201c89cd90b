"""The notebooks run from top to bottom, and say what the run's files say."""

import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from imgbench.evaluation.metrics import describe
from imgbench.evaluation.predictions import Predictions
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICKSTART = FOLDER / "quickstart.ipynb"
CHINESE = FOLDER / "快速上手.ipynb"
COMPARE = FOLDER / "compare.ipynb"
PICTURES = {  # none of them a photograph
    QUICKSTART: 4,  # curves, confusion matrix, calibration, probabilities
    CHINESE: 3,
    COMPARE: 1,  # accuracy against cost
}


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text_of(notebook):
    return "".join(output["text"] for output in outputs_of(notebook) if output["output_type"] == "stream")


def said_in(notebook):
    """All that a reader can see, but the pictures."""
    sources = [cell.source for cell in notebook.cells]
    return "\n".join([*sources, *(re.sub(r'"image/png": "[^"]*"', "", json.dumps(o)) for o in outputs_of(notebook))])


def answers_in(notebook):
    """Path, true class, prediction, whether it is right, likeliest class and its probability, of each row."""
    row = r"^(\S+\.png) +(\w+) +(\w+) +(right|WRONG) +(\w+) \((\S+) %\)"
    return re.findall(row, text_of(notebook), re.MULTILINE)


def pictures_in(notebook):
    return [output["data"]["image/png"] for output in outputs_of(notebook) if "image/png" in output.get("data", {})]


@pytest.fixture(scope="session")
def execute(tmp_path_factory):
    """Runs a notebook in a kernel of its own, which leaves nothing in the user's home."""
    home = tmp_path_factory.mktemp("jupyter")

    def run(path, folder, run_directory=None, sweep=None, **replaced):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            for name, value in replaced.items():
                cell.source = re.sub(rf"^{name} = \w+", f"{name} = {value}", cell.source, flags=re.MULTILINE)
        resources = {"metadata": {"path": str(folder)}}
        places = {"IPYTHONDIR": str(home), "JUPYTER_RUNTIME_DIR": str(home), "IMGBENCH_CACHE": str(home / "cache")}
        unset = ("IMGBENCH_RUN", "IMGBENCH_SWEEP")
        environment = {name: value for name, value in os.environ.items() if name not in unset} | places
        if run_directory is not None:
            environment["IMGBENCH_RUN"] = str(run_directory)
        if sweep is not None:
            environment["IMGBENCH_SWEEP"] = str(sweep)
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
def executed(execute, tiny_run, sweep, tmp_path_factory):
    """A notebook, executed once for all tests on the tiny run, or on the sweep."""
    return cache(lambda path: execute(path, tmp_path_factory.mktemp("elsewhere"), tiny_run.path, sweep))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_from_top_to_bottom_without_a_warning(path, executed):
    outputs = outputs_of(executed(path))
    assert outputs
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_draws_its_pictures_but_no_photograph(path, executed):
    assert len(pictures_in(executed(path))) == PICTURES[path]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_without_a_run_names_the_command_that_makes_one(path, execute, tmp_path):
    (tmp_path / "notebooks").mkdir()
    with pytest.raises(CellExecutionError, match=r"There is no finished (run|sweep).*: python -m imgbench.train"):
        execute(path, tmp_path / "notebooks")


def test_quickstart_prints_the_accuracy_of_metrics_json(executed, tiny_run):
    metrics = json.loads((tiny_run.path / "metrics.json").read_text("utf-8"))
    text = text_of(executed(QUICKSTART))
    assert f"Test accuracy  {describe(metrics['test/acc'])}" in text
    assert f"Test macro F1  {describe(metrics['test/macro_f1'])}" in text


def test_quickstart_names_the_run_but_not_where_it_lies(executed, tiny_run):
    text = text_of(executed(QUICKSTART))
    assert re.search(rf"Run +{re.escape(tiny_run.path.name)}\n", text)
    assert str(tiny_run.path.parent) not in text
    assert tiny_run.config["data"]["root"] not in text


def test_quickstart_predictions_are_those_of_predictions_csv(executed, tiny_run):
    predictions = Predictions.read_csv(tiny_run.path / "predictions.csv")
    table = answers_in(executed(QUICKSTART))
    least_sure = predictions.paths[predictions.probabilities.max(1).argmin()]
    assert 3 <= len(table) <= 6
    assert table[0][0] == least_sure
    for path, true, predicted, right, likeliest, percent in table:
        i = predictions.paths.index(path)
        assert true == predictions.class_names[predictions.targets[i]]
        assert predicted == likeliest == predictions.class_names[predictions.predicted[i]]
        assert right == ("right" if true == predicted else "WRONG")
        assert float(percent) == pytest.approx(100 * predictions.probabilities[i].max(), abs=0.06)


@pytest.mark.parametrize("path", [QUICKSTART, CHINESE], ids=lambda path: path.name)
def test_each_image_has_three_training_images_beside_it(path, executed, tiny_run):
    training = {row["path"] for row in tiny_run.split_rows("train")}
    test = {row["path"] for row in tiny_run.split_rows("test")}
    near = r"(\S+\.png) \(-?\d\.\d\d\)"
    rows = re.findall(rf"^(\S+\.png) .*?{near} +{near} +{near}$", text_of(executed(path)), re.MULTILINE)
    assert 3 <= len(rows) <= 6
    for asked, *neighbours in rows:
        assert asked in test
        assert len(set(neighbours) & training) == 3


def test_quickstart_says_what_can_be_promised(executed):
    text = text_of(executed(QUICKSTART))
    assert "at most  1 % wrong: cannot be promised (even without an error" in text
    assert text.count("% wrong: ") == 4


def test_comparison_of_a_sweep_names_its_configurations_and_what_they_cost(executed, sweep):
    text = text_of(executed(COMPARE))
    assert all(path.name in text for path in sweep.iterdir())
    assert re.search(r"^model=cnn +\d+\.\d\d, \d+\.\d\d %$", text, re.MULTILINE), "two seeds"
    assert re.search(r"^model=compact +\d+\.\d\d %$", text, re.MULTILINE)
    assert "model=compact: 0 images" in text or "model=cnn: 0 images" in text, "they are the same network"
    assert str(sweep.parent) not in text


def test_comparison_takes_the_newest_sweep(execute, sweep, tmp_path):
    for name in ("2026-01-30_12-00-00", "2026-02-01_12-00-00"):
        shutil.copytree(sweep, tmp_path / "outputs/folder/cnn" / name)
    shutil.rmtree(next((tmp_path / "outputs/folder/cnn/2026-02-01_12-00-00").glob("2_*")))
    (tmp_path / "notebooks").mkdir()
    text = text_of(execute(COMPARE, tmp_path / "notebooks"))
    assert "0_model-cnn_seed-1" in text
    assert "2_model-compact_seed-1" not in text


def test_quickstart_lists_all_mistakes_of_the_test_images(executed, tiny_run):
    predictions = Predictions.read_csv(tiny_run.path / "predictions.csv")
    wrong = [predictions.paths[i] for i in (predictions.predicted != predictions.targets).nonzero()[0]]
    text = text_of(executed(QUICKSTART))
    assert f"{len(wrong)} of {len(predictions.paths)} test images are classified wrongly" in text
    assert sorted(re.findall(r"^(\S+) +\w+ taken for \w+ \(", text, re.MULTILINE)) == sorted(wrong)


def test_quickstart_counts_every_parameter(executed, tiny_run):
    model = load_classifier(tiny_run.best).model
    text = text_of(executed(QUICKSTART))
    assert re.search(rf"^all +{sum(p.numel() for p in model.parameters()):,}$", text, re.MULTILINE)
    assert all(name in text for name, _ in model.named_parameters())


def test_quickstart_takes_the_newest_finished_run_and_shows_photographs_if_asked_to(execute, tiny_run, tmp_path):
    def copy(name, **facts):
        folder = tmp_path / "outputs" / "folder" / "cnn" / name
        shutil.copytree(tiny_run.path, folder)
        (folder / "run.json").write_text(json.dumps({**tiny_run.info, **facts}))

    copy("older", started="2026-01-01T12:00:00+0000")
    copy("newest", started="2026-01-03T12:00:00+0000")
    copy("unfinished", started="2026-01-04T12:00:00+0000", status="failed")
    copy("old", started="2026-01-02T12:00:00+0000")
    (tmp_path / "notebooks").mkdir()
    notebook = execute(QUICKSTART, tmp_path / "notebooks", SHOW_PHOTOGRAPHS=True)
    assert re.search(r"Run +newest\n", text_of(notebook))
    # Of each image itself, and beside its neighbours.
    assert len(pictures_in(notebook)) == PICTURES[QUICKSTART] + 2 * len(answers_in(notebook))


def test_chinese_notebook_prints_the_numbers_of_the_run(executed, tiny_run):
    metrics = json.loads((tiny_run.path / "metrics.json").read_text("utf-8"))
    text = text_of(executed(CHINESE))
    assert re.search(rf"^测试集准确率 +{re.escape(describe(metrics['test/acc']))}$", text, re.MULTILINE)
    assert re.search(rf"^测试集macro F1 +{re.escape(describe(metrics['test/macro_f1']))}$", text, re.MULTILINE)
    assert str(tiny_run.path.parent) not in text


def test_chinese_notebook_counts_the_images_of_each_class(executed, tiny_run):
    text = text_of(executed(CHINESE))
    for name in ("cat", "dog"):
        numbers = re.search(rf"^{name} +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
        rows = [tiny_run.split_rows(split) for split in ("train", "val", "test")]
        assert numbers
        assert list(map(int, numbers.groups())) == [sum(row["class"] == name for row in part) for part in rows]


def test_chinese_notebook_predicts_as_predictions_csv_says(executed, tiny_run):
    predictions = Predictions.read_csv(tiny_run.path / "predictions.csv")
    row = r"^(对|错)  (\S+\.png) +真实 (\w+) +预测 (\w+) (\S+) %"
    table = re.findall(row, text_of(executed(CHINESE)), re.MULTILINE)
    assert 3 <= len(table) <= 6
    for right, path, true, predicted, percent in table:
        i = predictions.paths.index(path)
        assert true == predictions.class_names[predictions.targets[i]]
        assert predicted == predictions.class_names[predictions.predicted[i]]
        assert right == ("对" if true == predicted else "错")
        assert float(percent) == pytest.approx(100 * predictions.probabilities[i].max(), abs=0.06)


def test_chinese_notebook_compares_a_run_with_the_smaller_ones_made_of_it(execute, tiny_run, tmp_path):
    for name in ("run", "run_prune", "another"):
        shutil.copytree(tiny_run.path, tmp_path / name)
    table = re.findall(r"^ +\d+\.\d{3}  .* (\w+)$", text_of(execute(CHINESE, tmp_path, tmp_path / "run")), re.MULTILINE)
    assert table == ["run", "run_prune"]


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


def test_committed_quickstart_shows_no_photograph():
    notebook = nbformat.read(QUICKSTART, as_version=4)
    assert any("SHOW_PHOTOGRAPHS = False" in cell.source for cell in notebook.cells)
    assert len(pictures_in(notebook)) == PICTURES[QUICKSTART]
