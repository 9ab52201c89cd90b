"""Runs and checkpoints of an earlier imgbench, as it wrote them, go on working."""

import shutil
from pathlib import Path

import pytest
import torch

import imgbench
from imgbench.compare import cost_of
from imgbench.compression import measure
from imgbench.errors import UserError
from imgbench.evaluate import evaluate
from imgbench.experiment.compose import override
from imgbench.inference.acceptance import Acceptance
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.predictor import Predictor
from imgbench.run import Run
from imgbench.sweep.resume import resumed
from imgbench.train import train
from imgbench.training.checkpoint import load_classifier

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A copy of the run, and beside it its photographs and what was quantised of it."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")  # below which the run names its images
    return Run.open("run")


@pytest.mark.parametrize("name", ["run", "run/checkpoints/best.ckpt", "run/model.onnx", "int8"])
def test_it_predicts(run, name):
    found = imgbench.load(name).predict(["photos/cat/0.png", "photos/dog/0.png"])
    assert [one.label for one in found] == ["cat", "dog"]


@pytest.mark.parametrize("name", ["run", "int8"])
def test_it_is_evaluated_and_finds_what_it_found(run, name):
    found = evaluate(name)
    assert found.metrics["test/acc"].value == 1
    assert found.metrics["test/acc"].n == len(run.split_rows("test")) == 7


def test_how_it_resized_is_known_under_todays_name(run):
    assert (run.path / "config.yaml").read_text().count("short_side: null") == 1
    assert run.config["data"]["resize"] == override(run).data.resize == "stretch"
    assert "short_side" not in run.config["data"]
    for name in ("run", "run/model.onnx"):
        model = Predictor.load(name).model
        assert model.preprocessing.resize == "stretch"
    assert load_classifier(run.best).hparams["preprocessing"]["resize"] == "stretch"


def test_a_short_side_of_then_is_a_resize_of_today(run):
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace("short_side: null", "short_side: 20"))
    assert override(run).data.resize == 20
    content = torch.load(run.best, weights_only=True)
    content["hyper_parameters"]["preprocessing"]["short_side"] = 20
    torch.save(content, run.best)
    assert Predictor.load(run.best).model.preprocessing.resize == 20
    assert evaluate("run").metrics["test/acc"].n == 7


def test_it_is_finished_and_nothing_is_left_to_do(run, capsys):
    assert run.status == "finished"
    assert resumed(["--resume", "run"]) is None
    assert "nothing is left to do" in capsys.readouterr().out


def test_it_is_trained_on_from_its_last_checkpoint(run):
    before = torch.load(run.last, weights_only=True)["epoch"]
    train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=3"]), run)
    assert torch.load(run.last, weights_only=True)["epoch"] == before + 1
    assert len((run.path / "metrics.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("name", ["run", "run/model.onnx"])
def test_what_it_kept_of_its_validation_images_promises_an_error(run, name):
    opened = Acceptance.open(name, Predictor.load(name).model, 0.5)
    assert ("pictures unlike them are not recognised" in opened.promise(1, 1)) == name.endswith(".onnx")


def test_what_was_quantised_of_it_is_compared_wherever_its_parent_is(run, tmp_path, capsys):
    small = Run.open("int8")
    small.note(cost=None)
    found = measure.cost_of(small)  # of the parent beside it
    assert found.parameters == 438
    alone = Run(shutil.copytree("int8", tmp_path / "elsewhere" / "int8"))
    run.path.rename("gone")
    assert cost_of(alone) is None
    assert "was quantised from run, which is missing or has changed" in capsys.readouterr().out
    alone.note(compressed_from={"path": str(alone.path), "sha256": "0" * 64})
    assert cost_of(alone) is None


def test_nothing_is_promised_for_a_file_of_other_weights_than_those_measured(run):
    classifier = load_classifier(run.best)
    write_onnx(classifier, run.path / "model.onnx")
    Acceptance.open("run/model.onnx", Predictor.load("run/model.onnx").model, 0.5)
    with torch.no_grad():
        next(classifier.parameters()).add_(0.1)  # as of another epoch
    write_onnx(classifier, run.path / "model.onnx")
    with pytest.raises(UserError, match="was made of other weights than"):
        Acceptance.open("run/model.onnx", Predictor.load("run/model.onnx").model, 0.5)
