"""A Predictor is the same, whichever file stands behind it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import imgbench
from imgbench.errors import UserError
from imgbench.evaluate import main as evaluate
from imgbench.inference import onnx_file
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier


@pytest.fixture(scope="module")
def onnx_run(tiny_run, tmp_path_factory):
    """The tiny run with an ONNX file in place of its checkpoints."""
    folder = tmp_path_factory.mktemp("onnx") / "run"
    shutil.copytree(tiny_run.path, folder, ignore=shutil.ignore_patterns("checkpoints"))
    onnx_file.write_onnx(load_classifier(tiny_run.best), folder / "model.onnx")
    return Run(folder)


@pytest.fixture
def photos(tiny_run):
    return [Path(tiny_run.config["data"]["root"]) / row["path"] for row in tiny_run.split_rows("test")]


@pytest.mark.parametrize("place", ["directory", "file", "elsewhere"])
def test_onnx_file_predicts_what_the_checkpoint_predicts(place, onnx_run, tiny_run, photos, tmp_path):
    path = {
        "directory": onnx_run.path,
        "file": onnx_run.path / "model.onnx",
        "elsewhere": shutil.copy(onnx_run.path / "model.onnx", tmp_path / "a=b (1).ONNX"),
    }[place]
    ours, known = imgbench.load(path), imgbench.load(tiny_run.path)
    assert ours.class_names == known.class_names
    assert ours.preprocessing == known.preprocessing
    assert ours.provenance == known.provenance
    found, expected = ours.predict(photos), known.predict(photos)
    assert [prediction.label for prediction in found] == [prediction.label for prediction in expected]
    assert np.allclose([v.probability for v in found], [v.probability for v in expected], atol=1e-5)


def test_checkpoint_comes_before_an_onnx_file_beside_it(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").write_text("exported, but by whom?")
    assert Run(tmp_path / "run").model == tmp_path / "run" / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_onnx_run_is_evaluated_on_its_own_test_images(name, onnx_run, tiny_run, tmp_path, monkeypatch, capsys):
    outputs = []
    for run in (onnx_run.path / name, tiny_run.path):
        monkeypatch.setattr("sys.argv", ["evaluate", str(run)])
        assert evaluate() == 0
        outputs.append(capsys.readouterr().out.replace(str(run), "RUN"))
    assert outputs[0] == outputs[1]


def test_damaged_onnx_file_of_a_run_is_an_error(onnx_run, tmp_path):
    shutil.copytree(onnx_run.path, tmp_path / "run")
    whole = (onnx_run.path / "model.onnx").read_bytes()
    (tmp_path / "run" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.onnx is no ONNX file, or a damaged one"):
        imgbench.load(tmp_path / "run")


def test_run_without_a_model_says_which_files_it_lacks(onnx_run, tmp_path):
    shutil.copytree(onnx_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("model.onnx"))
    with pytest.raises(UserError, match=r"neither checkpoints/best\.ckpt nor model\.onnx"):
        imgbench.load(tmp_path / "run")
