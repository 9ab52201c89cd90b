"""Classes of single images, from the command line and from Python."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imgbench
from imgbench import predict
from imgbench.errors import DecodeError, UserError
from imgbench.experiment.build import plain
from imgbench.experiment.compose import compose
from imgbench.inference.onnx_file import write_onnx
from imgbench.preprocessing import Preprocessing
from imgbench.training.checkpoint import load_classifier, save_weights
from imgbench.training.classifier import ImageClassifier


@pytest.fixture
def run_predict(tiny_run, monkeypatch):
    def run(*words: object, path: Path = tiny_run.path) -> int:
        monkeypatch.setattr(sys, "argv", ["predict", str(path), *map(str, words)])
        return predict.main()

    return run


@pytest.fixture
def photo(tiny_run) -> Path:
    return Path(tiny_run.config["data"]["root"]) / "cat" / "0.png"


@pytest.mark.parametrize("name", ["1 (108).jpg", "a=b.png", "two  blanks.png", "叶子.png", "[1].png", "no ending"])
def test_awkward_names_just_work(name, run_predict, photo, tmp_path, capsys):
    shutil.copy(photo, tmp_path / name)
    assert run_predict(tmp_path / name) == 0
    assert f"{tmp_path / name}  " in capsys.readouterr().out


def test_folders_and_patterns_are_searched(run_predict, photo, capsys):
    assert run_predict(photo.parent, str(photo.parent.parent / "dog" / "1?.png")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16 + 6


def test_files_hold_all_probabilities(run_predict, photo, tmp_path):
    run_predict(photo, "--output", tmp_path / "out.csv")
    run_predict(photo, "--output", tmp_path / "new folder" / "out.json")
    with (tmp_path / "out.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    prediction = json.loads((tmp_path / "new folder" / "out.json").read_text())[0]
    assert prediction["predicted"] == row["predicted"]
    assert prediction["probabilities"]["cat"] + prediction["probabilities"]["dog"] == pytest.approx(1)
    assert float(row["cat"]) == pytest.approx(prediction["probabilities"]["cat"], rel=1e-5)


def test_top_k_lists_that_many_classes(run_predict, photo, capsys):
    run_predict(photo, "--top-k", 2)
    assert capsys.readouterr().out.count(" %") == 2


def test_pictures_are_saved_with_their_prediction(run_predict, photo, tmp_path):
    run_predict(photo, photo, "--save-images", tmp_path / "predictions")
    pictures = sorted((tmp_path / "predictions").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 300


def test_file_that_is_no_image_is_named_and_skipped_and_the_exit_code_says_so(run_predict, photo, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no image")
    whole = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    whole.save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:400])
    assert run_predict(tmp_path / "notes.txt", tmp_path / "half.jpg", photo) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / 'notes.txt'}  skipped: not an image" in out
    assert f"{tmp_path / 'half.jpg'}  skipped" in out
    assert "2 of 3 files skipped" in out
    assert f"{photo}  " in out


@pytest.mark.parametrize("name", ["checkpoints/best.ckpt", "model.onnx"])
def test_a_picture_of_zero_bytes_is_named(name, tiny_run, run_predict, photo, tmp_path, capsys):
    path = tiny_run.path / name
    if path.suffix == ".onnx":
        path = tmp_path / "model.onnx"
        write_onnx(load_classifier(tiny_run.best), path)
    empty = tmp_path / "nothing.jpg"
    empty.touch()
    run_predict(empty, photo, path=path)
    assert f"{empty}  skipped: an empty file, of zero bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [("nowhere.jpg", "nowhere.jpg does not exist"), ("empty", "folder without images"), ("*.jpg", "matches nothing")],
)
def test_images_that_are_not_there_are_an_error(word, message, run_predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        run_predict(word)


def test_output_with_another_ending_is_refused_before_work_is_done(run_predict, photo):
    with pytest.raises(UserError, match=r"\.csv or \.json"):
        run_predict(photo, "--output", "out.txt")


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_checkpoint_with_pickled_code_is_refused_and_nothing_runs(tiny_run, tmp_path):
    content = torch.load(tiny_run.best, weights_only=True)
    torch.save({**content, "callbacks": Payload(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(UserError, match="pickled code, which was not executed"):
        imgbench.load(tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="no checkpoint"):
        imgbench.load(tmp_path / "plain.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_file_that_is_no_checkpoint_is_an_error(content, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.ckpt is no checkpoint"):
        imgbench.load(tmp_path / "model.ckpt")


def test_truncated_checkpoint_is_an_error(tiny_run, tmp_path):
    whole = tiny_run.best.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is no checkpoint"):
        imgbench.load(tmp_path / "half.ckpt")


def test_weights_of_another_program_are_an_error(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no checkpoint of imgbench"):
        imgbench.load(tmp_path / "other.ckpt")


def test_directory_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml"):
        imgbench.load(tmp_path)


def test_paths_pil_images_and_arrays_get_the_same_prediction(tiny_run, photo):
    predictor = imgbench.load(tiny_run.path)
    with Image.open(photo) as image:
        predictions = predictor.predict([photo, str(photo), image, np.asarray(image)])
        assert predictor.predict(photo) == predictor.predict(image)
    assert all(prediction == predictions[0] for prediction in predictions)
    assert sum(predictions[0].probabilities.values()) == pytest.approx(1)


def test_python_is_told_which_image_cannot_be_decoded(tiny_run, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DecodeError, match=r"notes\.txt"):
        imgbench.load(tiny_run.path).predict(tmp_path / "notes.txt")


@pytest.mark.parametrize("array", [np.full((8, 8, 3), 7.5), np.zeros((8, 8, 2), np.uint8)])
def test_array_that_is_no_image_is_described(array, tiny_run):
    with pytest.raises(
        DecodeError, match=r"image 0: an array of \w+ .*expected (floats from 0 to 1|\(height, width, 3\))"
    ):
        imgbench.load(tiny_run.path).predict(array)


# Of which each takes a tenth of a second to two seconds to import.
NOT_NEEDED = ("lightning", "torchvision", "torchmetrics", "timm", "scipy", "sklearn", "pandas", "matplotlib",
              "torch._dynamo", "sympy")  # fmt: skip
PREDICT = """
import json, runpy, sys
checkpoints, photo, not_needed = json.loads(sys.argv[1])
for checkpoint in checkpoints:
    sys.argv = ["predict", checkpoint, photo]
    try:
        runpy.run_module("imgbench.predict", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
    print([name for name in not_needed if name in sys.modules])
"""


def test_prediction_from_a_checkpoint_imports_torch_and_the_network_alone(photo, tmp_path):
    models = {"cnn": [], "compact": [], "vgg16": ["+model.blocks=[[4],[8]]", "head=gap"], "resnet": []}
    for model, words in models.items():
        config = compose([f"model={model}", *words])
        config.model.num_classes, config.data.image_size = 2, 32
        preprocessing = Preprocessing(32).to_dict()
        classifier = ImageClassifier(model=plain(config.model), class_names=["cat", "dog"], preprocessing=preprocessing)
        save_weights(classifier, tmp_path / f"{model}.ckpt")
    facts = [str(tmp_path / f"{model}.ckpt") for model in models], str(photo), NOT_NEEDED
    line = [sys.executable, "-c", PREDICT, json.dumps(facts)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.count("%\n[]\n") == len(models), done.stdout + done.stderr
