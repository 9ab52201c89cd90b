"""Evaluating a run on its own split and on other folders."""

import json
import shutil
import sys
import unicodedata
from types import SimpleNamespace

import pytest

import imgbench
from imgbench.errors import UserError
from imgbench.evaluate import evaluate, main
from imgbench.evaluation.predictions import Predictions
from imgbench.inference.labelled import images_of_folder


@pytest.fixture
def run_evaluate(monkeypatch):
    """The command, its exit code returned."""

    def run(path, data=None, split="test", output=None) -> int:
        options = {"--data": data, "--split": split, "--output": output}
        words = [str(word) for name, value in options.items() if value for word in (name, value)]
        monkeypatch.setattr(sys, "argv", ["evaluate", str(path), *words])
        return main()

    return run


@pytest.mark.parametrize("split", ["test", "val"])
def test_own_split_gives_the_numbers_of_training(split, tiny_run, tmp_path, capsys, run_evaluate):
    assert run_evaluate(tiny_run.path, split=split, output=tmp_path / "out") == 0
    known = json.loads((tiny_run.path / "metrics.json").read_text())
    again = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert again.keys() == {name for name in known if name.startswith(split)}
    assert all(number == pytest.approx(known[name], abs=1e-6) for name, number in again.items())
    assert f"{split} accuracy" in capsys.readouterr().out
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000


def test_another_folder_is_matched_by_class_name_not_by_position(tiny_run, make_folder, tmp_path, run_evaluate):
    # Only `dog` and, before it, a new order: by position the classes would be exchanged.
    root = make_folder(tmp_path / "cat_dog" / "others", {"cat": 3, "dog": 3})
    run_evaluate(tiny_run.path, root, output=tmp_path / "both")
    shutil.rmtree(root / "cat")
    run_evaluate(tiny_run.path, root, output=tmp_path / "dogs")
    both = Predictions.read_csv(tmp_path / "both" / "predictions.csv")
    dogs = Predictions.read_csv(tmp_path / "dogs" / "predictions.csv")
    assert [both.class_names[i] for i in both.targets] == ["cat"] * 3 + ["dog"] * 3
    assert [dogs.class_names[i] for i in dogs.targets] == ["dog"] * 3
    assert dogs.probabilities == pytest.approx(both.probabilities[3:], abs=1e-6)


def test_bare_checkpoint_is_evaluated_on_a_folder(tiny_run, make_folder, tmp_path, run_evaluate):
    checkpoint = shutil.copy(tiny_run.best, tmp_path / "a=b (1).ckpt")
    assert run_evaluate(checkpoint, make_folder(tmp_path / "photos", {"cat": 2, "dog": 2})) == 0


def test_unknown_class_is_named(tiny_run, make_folder, tmp_path, run_evaluate):
    with pytest.raises(UserError, match="horse"):
        run_evaluate(tiny_run.path, make_folder(tmp_path / "photos", {"cat": 2, "horse": 2}))


def test_a_folder_of_some_classes_says_which_were_not_measured(tiny_run, make_folder, tmp_path, capsys, run_evaluate):
    assert run_evaluate(tiny_run.path, make_folder(tmp_path / "photos", {"dog": 2})) == 0
    assert "Not measured, because there are no images: cat" in capsys.readouterr().out


@pytest.mark.parametrize("inner", ["photos", "test"])
def test_a_folder_too_deep_is_named(tiny_run, make_folder, tmp_path, inner, run_evaluate):
    make_folder(tmp_path / inner, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=f"--data {tmp_path}/{inner}"):
        run_evaluate(tiny_run.path, tmp_path)


def test_damaged_and_changed_images_are_told(tiny_run, tmp_path, make_folder, fit_run, capsys, run_evaluate):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    run = fit_run(root, tmp_path / "run", "data.split.test=8", "data.split.val=4")
    first, second, *_ = (root / row["path"] for row in run.split_rows("test"))
    first.write_bytes(b"no image")
    second.write_bytes(next(root.glob("b/*")).read_bytes() + b" ")
    assert run_evaluate(run.path) == 1
    out = capsys.readouterr().out
    assert f"Left out: {first}" in out
    assert "2 images have changed since training" in out


def test_vanished_images_name_the_option_that_helps(tmp_path, make_folder, fit_run, run_evaluate):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    run = fit_run(root, tmp_path / "run")
    shutil.rmtree(root)
    with pytest.raises(UserError, match="--data DIR"):
        run_evaluate(run.path)


def test_python_gets_the_numbers_of_the_command(tiny_run):
    found = evaluate(tiny_run.path, "val")
    known = json.loads((tiny_run.path / "metrics.json").read_text())
    assert found.metrics.keys() == {name for name in known if name.startswith("val/")}
    assert found.metrics["val/acc"].to_dict() == known["val/acc"]
    assert f"on the val images in {tiny_run.config['data']['root']}" in found.table()


def test_threshold_for_a_sensitivity_is_chosen_on_validation_and_measured_on_test(tmp_path, make_folder, fit_run):
    root = make_folder(tmp_path / "photos", {"cat": 30, "dog": 18})
    run = fit_run(root, tmp_path / "run", "data.split.val=20", "data.split.test=10")
    found = evaluate(run.path, sensitivity=0.9)
    assert [point.class_name for point in found.points] == ["cat"]
    (point,) = found.points
    assert point.sensitivity.n + point.specificity.n == 10
    assert f"cat from a probability of {point.threshold:.3f} on, chosen on the validation images" in found.table()
    assert any("sensitivity 0.9 of dog takes more than its" in note for note in found.notes)


@pytest.mark.parametrize("sensitivity", [0, 1, 1.5])
def test_a_sensitivity_that_is_no_share_is_refused(tiny_run, sensitivity):
    with pytest.raises(UserError, match="between 0 and 1"):
        evaluate(tiny_run.path, sensitivity=sensitivity)


def test_a_sensitivity_takes_two_classes(tmp_path, make_folder, fit_run):
    run = fit_run(make_folder(tmp_path / "photos", {"a": 6, "b": 6, "c": 6}), tmp_path / "run")
    with pytest.raises(UserError, match="is for two classes, but there are 3"):
        evaluate(run.path, sensitivity=0.9)


def test_temperature_of_the_run_serves_every_evaluation_of_it(tiny_run, make_folder, tmp_path):
    folder = make_folder(tmp_path / "others", {"cat": 4, "dog": 4})
    assert "test/ece_scaled" in evaluate(tiny_run.path, data=folder).metrics
    copy = shutil.copytree(tiny_run.path, tmp_path / "copy")
    (copy / "metrics.json").write_text("no JSON")
    with pytest.raises(UserError, match=r"metrics\.json is damaged"):
        evaluate(copy, data=folder)
    checkpoint = shutil.copy(tiny_run.best, tmp_path / "alone.ckpt")
    assert "test/ece_scaled" not in evaluate(checkpoint, data=folder).metrics


def test_images_gone_since_training_are_told(tmp_path, make_folder, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    run = fit_run(root, tmp_path / "run", "data.split.test=8", "data.split.val=4")
    gone = run.split_rows("test")[0]["path"]
    (root / gone).unlink()
    found = evaluate(run.path)
    assert found.metrics["test/acc"].n == 7
    assert any(f"1 image is gone since training, for example {gone}" in note for note in found.notes)


def test_images_that_the_run_learnt_from_are_refused_unless_they_are_allowed(tiny_run, make_folder, tmp_path):
    folder = make_folder(tmp_path / "new", {"cat": 3, "dog": 3})
    known = tiny_run.split_rows("train")[0]["path"]
    shutil.copy(f"{tiny_run.config['data']['root']}/{known}", folder / "cat" / "copy.png")
    with pytest.raises(UserError, match=r"1 of 7 images are byte for byte.*:\n  cat/copy.png\nTheir.*--allow-seen"):
        evaluate(tiny_run.path, data=folder)
    found = evaluate(tiny_run.path, data=folder, allow_seen=True)
    assert found.metrics["test/acc"].n == 7
    assert any("1 of 7 images are byte for byte what" in note for note in found.notes)
    (folder / "cat" / "copy.png").unlink()
    assert evaluate(tiny_run.path, data=folder).notes == []


def test_of_a_checkpoint_outside_a_run_it_cannot_be_told_what_it_has_seen(tiny_run, make_folder, tmp_path):
    shutil.copy(tiny_run.best, tmp_path / "model.ckpt")
    folder = make_folder(tmp_path / "new", {"cat": 3, "dog": 3})
    assert "cannot be told" in evaluate(tmp_path / "model.ckpt", data=folder).notes[0]


def test_evaluation_never_overwrites_the_results_of_a_run(tiny_run, make_folder, tmp_path):
    other = make_folder(tmp_path / "other", {"cat": 3, "dog": 3})
    before = (tiny_run.path / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="is a run, whose own results would be overwritten"):
        evaluate(tiny_run.path, data=other, output=tiny_run.path)
    assert (tiny_run.path / "metrics.json").read_bytes() == before


def test_an_evaluation_is_written_again_over_itself_and_over_no_other(tiny_run, tmp_path):
    evaluate(tiny_run.path, output=tmp_path / "out")
    written = (tmp_path / "out" / "metrics.json").read_bytes()
    evaluate(tiny_run.path, output=tmp_path / "out")
    for other in (tiny_run.path, tiny_run.best):
        with pytest.raises(UserError, match=r"out holds another evaluation.*Name another directory"):
            evaluate(other, "val", output=tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == written


def test_classes_match_in_whichever_way_their_accents_are_encoded(tiny_run, make_folder, tmp_path):
    names = ["Café", "Thé"]
    model = imgbench.load(tiny_run.path).model
    knowing = SimpleNamespace(class_names=names, preprocessing=model.preprocessing)
    root = make_folder(tmp_path / "photos", {unicodedata.normalize("NFD", name): 2 for name in reversed(names)})
    data, _ = images_of_folder(root, "test", knowing)  # pyright: ignore[reportArgumentType]
    assert data.table.class_names == names
    assert {
        (unicodedata.normalize("NFC", path)[:3], label)
        for path, label in zip(data.table.paths, data.table.labels, strict=True)
    } == {("Caf", 0), ("Thé", 1)}
