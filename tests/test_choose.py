"""Which of several networks is taken, and that comparing them leaves one complete run."""

import importlib
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import unconcluded
from lightning.pytorch.callbacks import Callback

import imgbench
from imgbench import progress
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment import choose
from imgbench.experiment.choose import Trial, best_of, train_best
from imgbench.experiment.compose import compose, with_model
from imgbench.report.conclude import conclude
from imgbench.run import Run

TINY = ["data.image_size=20", "data.batch_size=8", "trainer.max_epochs=4", "augment=none", "trainer.accelerator=cpu"]


def trial(name: str, correct: np.ndarray, multiply_adds: int, groups: list[str] | None = None) -> Trial:
    n = len(correct)
    probabilities = np.stack([correct, ~correct], 1).astype(np.float32)
    found = Predictions([""] * n, groups or [""] * n, np.zeros(n, np.int64), probabilities, ["cat", "dog"])
    return Trial(name, cast(Any, None), found, multiply_adds, 1.0)


def first(right: int, n: int = 100) -> np.ndarray:
    return np.arange(n) < right


def test_the_best_is_taken_where_it_is_clearly_better():
    assert best_of([trial("light", first(70), 1), trial("heavy", first(90), 9)]).name == "heavy"


def test_the_lighter_is_taken_only_where_a_thousand_photographs_could_not_tell():
    assert best_of([trial("light", first(89), 1), trial("heavy", first(90), 9)]).name == "heavy"
    assert best_of([trial("light", first(90), 1), trial("heavy", first(90), 9)]).name == "light"
    heavy = first(900, 1000)
    for wrong, taken in ((2, "light"), (10, "heavy")):  # of heavy's right ones; and of its wrong ones light has one
        light = heavy & ~first(wrong, 1000)
        light[900] = True
        assert best_of([trial("light", light, 1), trial("heavy", heavy, 9)]).name == taken


def test_of_equally_heavy_ones_the_better_is_taken_and_of_equally_good_ones_the_first():
    assert best_of([trial("one", first(89), 5), trial("two", first(90), 5)]).name == "two"
    assert best_of([trial("one", first(90), 5), trial("two", first(90), 5)]).name == "one"


def test_images_of_a_group_count_as_one():
    light = first(2995, 3000)
    heavy = np.arange(3000) > 0
    alone = best_of([trial("light", light, 1), trial("heavy", heavy, 9)])
    groups = [str(min(i, 2995)) for i in range(3000)]
    together = best_of([trial("light", light, 1, groups), trial("heavy", heavy, 9, groups)])
    assert (alone.name, together.name) == ("heavy", "light")


QUICK = ["data.audit=false", "data.thumbnails=false"]


def config_of(root: Path, *words: str):
    # None of them runs out of these minutes, however busy the machine is.
    ample = "budget=600"
    return compose(["data=folder", f"data.root={root}", "model.candidates=[cnn,compact]", *TINY, ample, *words])


@pytest.fixture
def photos(tmp_path, make_folder) -> Path:
    return make_folder(tmp_path / "photos", {"cat": 24, "dog": 24})


def test_comparison_leaves_a_complete_run_of_the_network_chosen_and_the_others_beside_it(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = Run(tmp_path / "run")
    train_best(config_of(photos), run, conclude)
    names = {path.name for path in run.path.iterdir()}
    assert names >= {"config.yaml", "split.csv", "metrics.csv", "metrics.json", "predictions.csv", "report.html"}
    chosen = run.config["model_name"]
    assert [path.name for path in (run.path / "candidates").iterdir()] == [
        name for name in ("cnn", "compact") if name != chosen
    ]
    assert [(one["name"], one["taken"]) for one in run.info["compared"]] == [
        (name, name == chosen) for name in ("cnn", "compact")
    ]
    section = (run.path / "report.html").read_text("utf-8").partition('<h3 id="compared">')[2].partition("</table>")[0]
    assert "cnn" in section
    assert section.count("taken") == 1
    assert "First answer: cnn " in caplog.text
    assert "test accuracy" not in caplog.text.partition("Chosen")[0]  # the test images are looked at once
    assert caplog.text.count("48 images in 2 classes") == 1
    assert caplog.text.count("Audit: ") == 1
    assert imgbench.load(run.path).class_names == ["cat", "dog"]
    assert run.holds(choose.fingerprint(config_of(photos, "budget=4")))
    assert not run.holds(choose.fingerprint(config_of(photos, "seed=1")))


def test_interrupted_comparison_goes_on_with_what_was_trained(photos, tmp_path, monkeypatch):
    class Interrupt(Callback):
        def on_train_start(self, trainer, pl_module):
            if Path(trainer.default_root_dir).name == "compact":
                raise KeyboardInterrupt

    run = Run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_best(config_of(photos), run, conclude, [Interrupt()])
    trained = Run(run.path / "candidates" / "cnn")
    before = trained.info
    assert before["status"] == "finished"
    assert run.config["model"] == {"candidates": ["cnn", "compact"]}
    weights = trained.best.read_bytes()
    monkeypatch.setattr(choose, "best_of", lambda trials: trials[0])
    assert train_best(config_of(photos), run, conclude) == before["score"]
    kept = run if run.config["model_name"] == "cnn" else trained
    assert kept.best.read_bytes() == weights
    assert run.concluded


def test_comparison_of_others_in_the_same_directory_takes_nothing_from_the_first(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = Run(tmp_path / "run")
    train_best(config_of(photos, *QUICK), run, unconcluded)
    left = next((run.path / "candidates").iterdir()).name

    def trained_anew(*words: str) -> bool:
        caplog.clear()
        train_best(config_of(photos, *QUICK, *words), run, unconcluded)
        return f"\n{left}:" in caplog.text

    assert not trained_anew("budget=4")
    next((photos / "cat").iterdir()).unlink()
    assert trained_anew()


def test_whatever_decides_the_weights_makes_another_comparison(photos):
    words = [[], ["seed=1"], ["optimizer.lr=1e-4"], ["trainer.max_epochs=2"], ["fast.channels_last=false"]]
    assert len({choose.fingerprint(config_of(photos, *own)) for own in words}) == len(words)
    assert choose.fingerprint(config_of(photos, "data.cache=memory")) == choose.fingerprint(config_of(photos))


def test_budget_too_short_takes_the_first_and_says_so(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = Run(tmp_path / "run")
    train_best(config_of(photos, "budget=1e-6"), run, conclude)
    assert run.config["model_name"] == "cnn"
    assert run.info["compared"][1] == {
        "name": "compact",
        "accuracy": None,
        "multiply_adds": 0,
        "seconds": 0,
        "taken": False,
    }
    assert run.info["cut_short"] == "1 of 4 epochs"
    assert run.config["trainer"]["max_epochs"] == run.epochs == 1
    assert run.concluded
    assert "The time sufficed for 1 of 4 epochs." in caplog.text
    assert "there was no time for it" in (run.path / "report.html").read_text("utf-8")
    assert "Chosen: cnn, the first; budget=1e-06 minutes is too short to train compact." in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget=0"], "budget=0, but it is a number of minutes"),
        (["budget=soon"], "budget=soon, but it is a number of minutes"),
        (["model.candidates=[vgg99]"], "model.candidates=.'vgg99'., but they are any of .'cnn'"),
        (["head=gap"], "model.hidden is of one network, but model=auto tries"),
        (["trainer.devices=2"], "trainer.devices=2: networks are compared on one device"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_what_can(photos, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train_best(config_of(photos, *words), Run(tmp_path / "run"), conclude)


def test_a_candidate_is_the_network_of_its_file_and_keeps_what_was_said():
    said = compose(["data=folder", "data.root=photos", "optimizer.lr=0.5", "data.image_size=64"])
    assert said.model.candidates == ["pretrained", "compact", "finetuned"]
    config = with_model(said, "finetuned")
    assert config.model == compose(["model=finetuned", "data.image_size=64", "data.num_classes=null"]).model
    assert (config.optimizer.lr, config.data.image_size, config.model_name) == (0.5, 64, "finetuned")


@pytest.mark.parametrize("name", ["cnn_weather", "vgg16_separable", "vgg16_torchvision"])
def test_a_candidate_whose_file_builds_on_another_is_composed_whole(name):
    said = compose(["data=folder", "data.root=photos", f"model.candidates=[{name}]", "data.num_classes=3"])
    alone = compose(["data=folder", "data.root=photos", f"model={name}", "data.num_classes=3", "data.image_size=null"])
    assert "_target_" in alone.model
    assert with_model(said, name).model == alone.model


def test_digits_stay_with_the_compact_network():
    assert compose([]).model["_target_"].endswith("CompactCNN")


def test_what_is_quiet_for_further_networks_is_a_module_that_logs():
    assert all(hasattr(importlib.import_module(name), "log") for name in progress.FACTS)
