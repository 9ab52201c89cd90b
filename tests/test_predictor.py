"""A Predictor is the same, whichever file stands behind it."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_batches_without_images_are_refused(size, tiny_run, photos):
    with pytest.raises(UserError, match=r"batch_size=.*, but it is a number of images, at least 1"):
        imgbench.load(tiny_run.path).predict(photos, batch_size=size)


def test_open_files_and_bytes_are_one_image_each(tiny_run, photos):
    predictor, photo = imgbench.load(tiny_run.path), photos[0]
    expected = predictor.predict(photo)
    written = io.BytesIO()
    written.write(photo.read_bytes())  # so that it stands at its end
    with photo.open("rb") as file:
        images: list[Any] = [written, file, file, photo.read_bytes(), bytearray(photo.read_bytes())]
        for image in images:
            assert predictor.predict(image) == expected
            assert predictor.predict([image, photo]) == expected * 2
    with photo.open() as file, pytest.raises(UserError, match=r"image 0 of predict is a .* open it in binary mode"):
        predictor.predict(file)


@pytest.mark.parametrize("kind", ["onnx_run", "tiny_run"])
def test_predictor_is_pickled(kind, request, photos, tmp_path, monkeypatch):
    predictor = imgbench.load(request.getfixturevalue(kind).path)
    content = pickle.dumps(predictor)
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).predict(photos) == predictor.predict(photos)


IN_A_FORK = """
import json, multiprocessing, sys
import torch
import imgbench
torch.set_num_threads(2)
runs, photos = json.loads(sys.argv[1])
def answers(predictor):
    return [(found.label, round(found.probability, 4)) for found in predictor.predict(photos)]
def child(predictor, queue):
    queue.put(answers(predictor))
context = multiprocessing.get_context("fork")
for run in runs:
    predictor = imgbench.load(run)
    torch.nn.functional.conv2d(torch.rand(8, 16, 64, 64), torch.rand(16, 16, 3, 3))  # so large that both threads work
    expected = answers(predictor)
    with context.Pool(1) as pool:
        found = pool.apply_async(predictor.predict, (photos,)).get(60)  # of a predictor that was pickled
    assert [(prediction.label, round(prediction.probability, 4)) for prediction in found] == expected
    queue = context.Queue()
    process = context.Process(target=child, args=(predictor, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no forks on this system")
def test_fork_predicts_with_several_threads(onnx_run, tiny_run, photos, tmp_path):
    facts = [str(run.path) for run in (onnx_run, tiny_run)], [str(photo) for photo in photos]
    line = [sys.executable, "-c", IN_A_FORK, json.dumps(facts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
