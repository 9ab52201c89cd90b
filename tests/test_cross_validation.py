"""One run in which every image is tested on by a network that did not learn from it."""

import shutil
from pathlib import Path

import pytest

import imgbench
from imgbench.benchmark.development.coverage import cross_validated_coverage
from imgbench.compression.lifecycle import weights_file
from imgbench.errors import UserError
from imgbench.evaluation.metrics import classification_metrics
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.compose import compose
from imgbench.number import read_metrics
from imgbench.report.conclude import conclude
from imgbench.report.evaluate import evaluate
from imgbench.run import Run
from imgbench.study import study
from imgbench.train import train

WORDS = ["model=cnn", "data=folder", "data.image_size=20", "data.batch_size=8", "trainer.max_epochs=1", "augment=none",
         "trainer.accelerator=cpu", "data.split.folds=3"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_folder) -> Path:
    return make_folder(tmp_path_factory.mktemp("crossed") / "photos", {"cat": 18, "dog": 18})


def config_of(photos: Path, *words: str):
    return compose([*WORDS, f"data.root={photos}", *words])


@pytest.fixture(scope="module")
def crossed(photos) -> Run:
    run = Run(photos.parent / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(photos.parent / "cache"))
        train(config_of(photos), run)
    return run


def test_every_image_is_tested_once_by_a_network_that_did_not_learn_from_it(crossed, photos):
    predictions = Predictions.read_csv(crossed.path / "predictions.csv")
    assert sorted(predictions.paths) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    by_path = dict(zip(predictions.paths, predictions.probabilities.tolist(), strict=True))
    for fold in range(3):
        own = Run(crossed.path / "folds" / str(fold))
        tested = Predictions.read_csv(own.path / "predictions.csv")
        assert {row["path"] for row in own.split_rows("test")} == set(tested.paths)
        for path, row in zip(tested.paths, tested.probabilities.tolist(), strict=True):
            assert by_path[path] == row


def test_the_network_that_is_kept_learns_from_the_images_that_it_is_not_chosen_by(crossed):
    splits = [row["split"] for row in crossed.split_rows()]
    assert len(splits) == 36
    assert set(splits) == {"train", "val"}
    assert imgbench.load(crossed.path).class_names == ["cat", "dog"]
    assert not list((crossed.path / "folds").rglob("*.ckpt"))


def test_its_interval_is_wider_than_of_as_many_independent_answers(crossed):
    alone = classification_metrics(Predictions.read_csv(crossed.path / "predictions.csv"), "test")["test/acc"]
    found = read_metrics(crossed.path / "metrics.json")["test/acc"]
    assert (found.value, found.n) == (alone.value, 36)
    assert found.high - found.low > 1.1 * (alone.high - alone.low)


def test_the_interval_holds_the_accuracy_of_the_network_that_learnt_from_all_images():
    assert cross_validated_coverage(100, 20, draws=150) >= 0.92


def test_evaluating_it_repeats_what_the_folds_found_and_says_so(crossed):
    found = evaluate(crossed.path, "test")
    assert found.metrics["test/acc"] == read_metrics(crossed.path / "metrics.json")["test/acc"]
    assert "tested by one of 3 networks" in found.table()
    page = (crossed.path / "report.html").read_text("utf-8")
    assert "36 photographs was tested by one of 3 networks" in page
    assert "imgbench.compress" not in page
    assert "learning_curve" not in page


def test_one_that_was_interrupted_keeps_the_folds_that_are_finished(crossed, photos, tmp_path):
    run = Run(tmp_path / "again")
    shutil.copytree(crossed.path, run.path)
    shutil.rmtree(run.path / "folds" / "2")
    kept = {fold: (run.path / "folds" / fold / "run.json").stat().st_mtime_ns for fold in "01"}
    run.note(status="interrupted", fingerprint="")
    train(config_of(photos), run, conclude)
    assert {fold: (run.path / "folds" / fold / "run.json").stat().st_mtime_ns for fold in "01"} == kept
    assert (run.path / "predictions.csv").read_bytes() == (crossed.path / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.split.folds=1"], "data.split.folds=1, but it is a number of parts, 2 or more"),
        (["report.learning_curve=true"], "Leave one of the two out"),
        (["trainer.devices=2"], "Set trainer.devices=1"),
    ],
)
def test_what_does_not_go_together_with_it_is_refused(photos, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train(config_of(photos, *words), Run(tmp_path / "run"))


def test_neither_a_study_nor_a_compression_does_without_test_images(crossed, photos, tmp_path):
    with pytest.raises(UserError, match=r"data\.split\.folds=3 leaves no images"):
        study(compose([*WORDS, f"data.root={photos}"], "study"), Run(tmp_path / "study"))
    with pytest.raises(UserError, match="was cross-validated"):
        weights_file(crossed)


def test_a_missing_fold_is_an_error_that_names_it(crossed, tmp_path):
    run = Run(tmp_path / "broken")
    shutil.copytree(crossed.path, run.path)
    (run.path / "folds" / "1" / "predictions.csv").unlink()
    with pytest.raises(UserError, match=r"folds/1/predictions\.csv does not exist"):
        evaluate(run.path, "test")
