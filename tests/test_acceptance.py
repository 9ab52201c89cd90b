"""Predictions that are called unsure, by what a run has kept of its validation images."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgbench import evaluate, predict
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.inference.acceptance import Acceptance
from imgbench.inference.onnx_file import tell_unsure, write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier, save_weights
from imgbench.training.network import weights_hash


@pytest.fixture(scope="module")
def finished(run_of) -> Run:
    """A run with 100 validation images, enough for --max-error 0.05."""
    words = ["data.split.val=100", "data.split.test=20", "trainer.max_epochs=3"]
    return run_of("accept", {"cat": 100, "dog": 100}, *words)


@pytest.fixture
def run(finished, tmp_path) -> Run:
    """A copy, to be spoilt."""
    return Run(Path(shutil.copytree(finished.path, tmp_path / "run")))


@pytest.fixture
def run_predict(monkeypatch, capsys):
    def call(run: Path, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", str(run), *map(str, words)])
        assert predict.main() == 0
        return capsys.readouterr().out

    return call


def photos_of(run: Run) -> Path:
    return Path(run.config["data"]["root"])


@pytest.fixture
def foreign(tmp_path) -> Path:
    folder = tmp_path / "foreign"
    folder.mkdir()
    stripes = np.tile(np.array([[0], [255]], np.uint8), (12, 24))
    for i, channel in enumerate(range(3)):
        pixels = np.zeros((24, 24, 3), np.uint8)
        pixels[..., channel] = stripes
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_run_keeps_what_it_predicted_for_each_validation_image(finished):
    kept = Predictions.read_csv(finished.path / "validation.csv")
    assert sorted(kept.paths) == sorted(row["path"] for row in finished.split_rows("val"))
    with np.load(finished.path / "features.npz", allow_pickle=False) as content:
        assert content["distances"].shape == (100,)
        assert len(content["mean"]) == load_classifier(finished.best).model.num_features


def test_nothing_is_promised_by_what_was_measured_of_other_weights(finished, run):
    own = f"weights {weights_hash(load_classifier(run.best))}"
    validation = (run.path / "validation.csv").read_text()
    assert validation.startswith(f"# {own}\n")
    Acceptance.open(run.path, Predictor.load(run.path).model, 0.05)
    classifier = load_classifier(run.best)
    with torch.no_grad():
        next(classifier.parameters()).add_(0.1)  # as of another training
    save_weights(classifier, run.best, epoch=0)
    with pytest.raises(UserError, match=r"best\.ckpt was made of other weights than .*validation\.csv"):
        Acceptance.open(run.best, Predictor.load(run.path).model, 0.05)
    found = evaluate.evaluate(run.path, "val")
    assert "kept in" in found.notes[-1]
    Acceptance.open(run.path, Predictor.load(run.path).model, 0.5)
    shutil.copy(finished.path / "features.npz", run.path)
    with pytest.raises(UserError, match=r"features\.npz is damaged: it was made of other weights"):
        Acceptance.open(run.path, Predictor.load(run.path).model, 0.5)


@pytest.mark.parametrize("own", [0, 4])
def test_validation_images_with_a_relative_in_training_promise_nothing(own, make_folder, train_run, tmp_path):
    root = tmp_path / "photos"
    for split, cats, dogs in (("train", 16, 21), ("val", own, own), ("test", 6, 7)):
        make_folder(root / split, {"cat": cats, "dog": dogs})
    for name, number in (("cat", 5), ("dog", 3)):
        for i in range(number):
            shutil.copy(root / "train" / name / f"{i + 7}.png", root / "val" / name / f"copy {name} {i}.png")
    run = train_run(root, tmp_path / "run")
    kept = Predictions.read_csv(run.path / "validation.csv")
    assert sorted(kept.paths) == [f"val/{name}/{i}.png" for name in ("cat", "dog") for i in range(own)]
    with np.load(run.path / "features.npz") as content:
        assert len(content["distances"]) == 2 * own
    reason = "8 independent validation images promise" if own else "every validation image looks like a training image"
    with pytest.raises(UserError, match=reason):
        predict.predict(run.path, [root / "test"], max_error=0.1)


def test_images_like_those_of_training_are_accepted_and_others_are_unsure(finished, foreign, run_predict):
    out = run_predict(finished.path, photos_of(finished), foreign, "--max-error", "0.05")
    unsure = [line for line in out.splitlines() if "  unsure: " in line]
    assert len([line for line in unsure if str(foreign) in line and "unlike the training images (" in line]) == 3
    assert len(unsure) <= 3 + 0.1 * 200
    assert f"accepted {203 - len(unsure)} of 203; at most 5 % of the accepted are wrong, with 95 % confidence" in out
    assert "% (95 of 100; " in out or "% (96 of 100; " in out, "the coverage to be expected"


def test_pictures_unlike_those_of_training_are_called_so_without_being_asked(finished, foreign, run_predict, tmp_path):
    out = run_predict(finished.path, photos_of(finished), foreign)
    unsure = [line for line in out.splitlines() if "  unsure: unlike the training images (" in line]
    assert len([line for line in unsure if str(foreign) in line]) == 3
    assert len(unsure) <= 3 + 0.03 * 200
    assert "accepted" not in out
    assert " 100.0 %" not in out
    run_predict(finished.path, foreign, "--sort-into", tmp_path / "sorted")
    assert len([*(tmp_path / "sorted" / "unsure").iterdir()]) == 3


def test_files_say_why_a_prediction_is_unsure(finished, foreign, run_predict, tmp_path):
    photo = photos_of(finished) / "cat"
    run_predict(finished.path, photo, foreign, "--max-error", "0.05", "--output", tmp_path / "out.csv")
    run_predict(finished.path, photo, foreign, "--max-error", "0.05", "--output", tmp_path / "out.json")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reasons = [row["unsure"] or None for row in json.loads((tmp_path / "out.json").read_text())]
    assert [row["unsure"] or None for row in rows] == reasons
    assert set(reasons[-3:]) == {"unlike the training images"}
    assert reasons.count(None) > 80


def test_nothing_is_promised_where_the_runs_own_test_images_break_it(run, run_predict):
    run_predict(run.path, photos_of(run), "--max-error", "0.1")
    test = Predictions.read_csv(run.path / "predictions.csv")
    spoilt = replace(test, targets=1 - test.predicted)
    (run.path / "predictions.csv").write_text(spoilt.to_csv())
    with pytest.raises(UserError, match=r"of the 20 independent test images .* 20 are predicted wrongly \(100 %\)"):
        predict.predict(run.path, [photos_of(run)], max_error=0.1)


def test_what_is_not_probable_enough_is_unsure(run, run_predict):
    kept = Predictions.read_csv(run.path / "validation.csv")
    least = kept.probabilities.max(1) < np.median(kept.probabilities.max(1))
    spoilt = Predictions(kept.paths, kept.groups, np.where(least, 1 - kept.predicted, kept.predicted),
                         kept.probabilities, kept.class_names)  # fmt: skip
    (run.path / "validation.csv").write_text(spoilt.to_csv())
    with pytest.raises(UserError, match="which is too many"):
        predict.predict(run.path, [photos_of(run)], max_error=0.055)
    out = run_predict(run.path, photos_of(run), "--max-error", "0.15")
    assert out.count("unsure: not probable enough (") > 50


def test_too_few_validation_images_are_refused_with_what_would_do(finished, tiny_run):
    with pytest.raises(UserError, match=r"--max-error 0.01 .* promise no less than 3\.\d %") as error:
        predict.predict(finished.path, [photos_of(finished)], max_error=0.01)
    least = float(str(error.value).split("Ask for --max-error ")[1].split()[0])
    assert predict.predict(finished.path, [photos_of(finished)], max_error=least) == 0
    with pytest.raises(UserError, match=r"data\.split\.val="):
        predict.predict(tiny_run.path, [photos_of(tiny_run)], max_error=0.02)


@pytest.mark.parametrize("max_error", [0, 1, 2, -0.1, float("nan")])
def test_an_error_that_is_no_share_is_refused(max_error, finished):
    with pytest.raises(UserError, match=r"--max-error .* above 0 and below 1"):
        predict.predict(finished.path, [photos_of(finished)], max_error=max_error)


def test_earlier_run_is_told_what_mends_it_and_it_does(run, run_predict):
    (run.path / "validation.csv").rename(run.path / "before.csv")
    (run.path / "features.npz").unlink()
    with pytest.raises(UserError, match=r"has not kept it\.\n.*python -m imgbench.evaluate .* --split val"):
        predict.predict(run.path, [photos_of(run)], max_error=0.05)
    assert any("kept in" in note for note in evaluate.evaluate(run.path, split="val").notes)
    kept, before = (Predictions.read_csv(run.path / name) for name in ("validation.csv", "before.csv"))
    assert kept.paths == before.paths
    assert kept.probabilities == pytest.approx(before.probabilities, abs=1e-5)
    assert "accepted" in run_predict(run.path, photos_of(run), "--max-error", "0.05")
    assert not evaluate.evaluate(run.path, split="val").notes


def test_run_that_was_selected_on_its_test_images_is_refused(make_folder, train_run, tmp_path):
    run = train_run(make_folder(tmp_path / "photos", {"cat": 16, "dog": 16}), tmp_path / "run", "data.split.val=test")
    assert not (run.path / "validation.csv").exists()
    with pytest.raises(UserError, match="selected on its own test images"):
        predict.predict(run.path, [photos_of(run)], max_error=0.2)


def test_other_weights_than_those_kept_are_refused(finished):
    with pytest.raises(UserError, match="of the epoch kept only"):
        predict.predict(finished.last, [photos_of(finished)], max_error=0.05)
    assert predict.predict(finished.best, [photos_of(finished)], max_error=0.05) == 0


@pytest.mark.parametrize("name", ["validation.csv", "features.npz"])
@pytest.mark.parametrize("content", [b"", b"path,group\n1,2\n", b"PK\x03\x04 half a zip"])
def test_damaged_file_is_named_with_what_mends_it(name, content, run):
    (run.path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged: .*\nRemove it\. .*imgbench.evaluate"):
        predict.predict(run.path, [photos_of(run)], max_error=0.05)
    (run.path / name).unlink()
    assert evaluate.evaluate(run.path, split="val").notes
    assert predict.predict(run.path, [photos_of(run)], max_error=0.05) == 0


def test_features_as_they_were_kept_before_are_read_and_those_that_do_not_fit_are_named(run, foreign, run_predict):
    asked = (run.path, photos_of(run), foreign, "--max-error", "0.05", "--output")
    run_predict(*asked, run.path / "now.csv")
    with np.load(run.path / "features.npz") as content:
        arrays = dict(content)
    directions, precisions, elsewhere = (arrays.pop(name) for name in ("directions", "precisions", "elsewhere"))
    along = directions.T @ directions
    precision = directions.T @ np.diag(precisions) @ directions + elsewhere * (np.eye(len(along)) - along)
    np.savez(run.path / "features.npz", precision=precision, **arrays)
    run_predict(*asked, run.path / "then.csv")
    now, then = ((run.path / name).read_text().splitlines() for name in ("now.csv", "then.csv"))
    differing = sum(one != other for one, other in zip(now, then, strict=True))
    assert differing <= 1, "only the validation image that is the limit itself may fall to either side"
    np.savez(run.path / "features.npz", precision=precision[1:, 1:], **arrays)
    with pytest.raises(UserError, match=r"features\.npz is damaged: its arrays do not fit"):
        predict.predict(run.path, [foreign], max_error=0.05)


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory) -> Path:
    """The run's ONNX file, far from it."""
    file = tmp_path_factory.mktemp("written") / "a.onnx"
    write_onnx(load_classifier(finished.best), file, finished)
    return file


def test_onnx_file_calls_unsure_what_its_run_calls_so_wherever_it_lies(finished, written, foreign, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file = Path(shutil.copy(written, tmp_path / "elsewhere" / "a.onnx"))
    for error in (None, 0.05):
        found = []
        for number, model in enumerate((finished.path, file)):
            output = tmp_path / f"{number} {error}.csv"
            predict.predict(model, [photos_of(finished), foreign], output=output, max_error=error)
            with output.open(newline="") as lines:
                found.append(list(csv.DictReader(lines)))
        for ours, theirs in zip(*found, strict=True):
            assert ours["unsure"] == theirs["unsure"]
            assert float(ours["cat"]) == pytest.approx(float(theirs["cat"]), abs=1e-5)
        assert {row["unsure"] for row in found[1]} >= {"", "unlike the training images"}
    with pytest.raises(UserError, match=r"a\.onnx says what to accept for --max-error 0\.01, 0\.02, 0\.05, 0\.1"):
        predict.predict(file, [foreign], max_error=0.2)
    with pytest.raises(UserError, match=r"--max-error 0\.01 cannot be promised for .*a\.onnx: even without an error"):
        predict.predict(file, [foreign], max_error=0.01)


def test_an_onnx_file_promises_an_error_without_torch(finished, written, tmp_path):
    code = (
        "import sys\nfrom imgbench.predict import predict\n"
        "assert predict(sys.argv[1], sys.argv[2:], max_error=0.05) == 0\nassert 'torch' not in sys.modules\n"
    )
    words = [sys.executable, "-c", code, str(written), *map(str, sorted(photos_of(finished).glob("cat/1*.png")))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "at most 5 % of the accepted are wrong" in done.stdout


def test_run_that_is_an_onnx_file_keeps_its_features_and_the_file_tells_novelty(run, foreign, run_predict):
    write_onnx(load_classifier(run.best), run.path / "model.onnx")
    shutil.rmtree(run.path / "checkpoints")
    for name in ("validation.csv", "features.npz"):
        (run.path / name).unlink()
    assert not OnnxModel(run.path / "model.onnx").tells_novelty
    assert evaluate.evaluate(run.path, split="val").notes
    assert not evaluate.evaluate(run.path, split="val").notes
    model = OnnxModel(run.path / "model.onnx")
    assert model.tells_novelty and model.metadata["novelty_limit"] > 0
    again = (run.path / "model.onnx").stat().st_size
    tell_unsure(run)
    assert (run.path / "model.onnx").stat().st_size == again, "it is told once"
    out = run_predict(run.path, photos_of(run), foreign, "--max-error", "0.05")
    assert "accepted" in out and out.count("unlike the training images (") >= 3


def test_sets_name_the_classes_that_cannot_be_ruled_out(run, run_predict, tmp_path):
    photos = sorted(photos_of(run).rglob("*.png"))[::10]
    said = run_predict(run.path, *photos, "--sets", 0.9)
    assert "at least 90 % on average" in said
    assert all(line.split("  ")[1] in ("cat", "dog", "cat or dog")
               for line in said.splitlines() if line.startswith(str(photos_of(run))))  # fmt: skip
    output = tmp_path / "answers.csv"
    run_predict(run.path, *photos, "--sets", 0.9, "--output", output)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [Path(row["path"]).parent.name in row["classes"].split(" | ") for row in rows]
    assert np.mean(right) > 0.8
    with pytest.raises(UserError, match=r"answers\.csv"):  # of other sets
        predict.predict(run.path, photos, output=output, sets=0.95)


def test_sets_need_a_share_and_validation_images(run, tmp_path):
    photos = sorted(photos_of(run).rglob("*.png"))[:1]
    with pytest.raises(UserError, match="--sets 1, but it is a share above 0 and below 1"):
        predict.predict(run.path, photos, sets=1)
    (run.path / "validation.csv").unlink()
    with pytest.raises(UserError, match=r"--sets 0\.9 takes what the run knows of its validation images"):
        predict.predict(run.path, photos, sets=0.9)


def test_of_a_class_with_few_validation_images_it_is_said_that_it_is_never_ruled_out(run, run_predict):
    photos = sorted(photos_of(run).rglob("*.png"))[:3]
    said = run_predict(run.path, *photos, "--sets", 0.99)
    assert "never ruled out: 'cat', 'dog', of which there are fewer than 99 independent validation images" in said
    assert said.count("cat or dog") + said.count("dog or cat") == 3
