"""The main command, and what it leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import command, started
from hydra.errors import InstantiationException

import imgbench
from imgbench.data.pixels import digest
from imgbench.errors import UserError
from imgbench.experiment.compose import compose
from imgbench.run import Run
from imgbench.train import train
from imgbench.training.callbacks import COLUMNS
from imgbench.training.checkpoint import load_classifier

FILES = {"config.yaml", "run.json", "split.csv", "audit.json", "summary.txt", "metrics.csv", "metrics.json",
         "predictions.csv", "validation.csv", "features.npz",
         "checkpoints", "samples.png", "curves.png", "confusion.png", "reliability.png", "report.html"}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_directory_holds_what_the_contract_lists(tiny_run):
    assert {path.name for path in tiny_run.path.iterdir()} == FILES
    assert {path.name for path in (tiny_run.path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert tiny_run.info["status"] == "finished"
    assert tiny_run.info["seconds"] > 0
    assert list(rows(tiny_run.path / "metrics.csv")[0]) == COLUMNS


def test_split_csv_holds_every_image_once_with_the_hash_of_its_content(tiny_run):
    root = Path(tiny_run.config["data"]["root"])
    split = rows(tiny_run.path / "split.csv")
    assert sorted(row["path"] for row in split) == sorted(str(p.relative_to(root)) for p in root.glob("*/*"))
    assert all(digest((root / row["path"]).read_bytes()).hex() == row["hash"] for row in split)
    assert {row["split"] for row in split} == {"train", "val", "test"}


def test_metrics_of_the_test_split_follow_from_the_predictions(tiny_run):
    predictions = rows(tiny_run.path / "predictions.csv")
    accuracy = json.loads((tiny_run.path / "metrics.json").read_text())["test/acc"]
    hits = [row["target"] == row["predicted"] for row in predictions]
    assert accuracy["value"] == pytest.approx(sum(hits) / len(hits))
    assert accuracy["n"] == len(hits) == len(tiny_run.split_rows("test"))
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_configuration_is_resolved_and_states_the_facts_of_the_data(tiny_run):
    assert "${" not in yaml.safe_dump(tiny_run.config)
    assert tiny_run.config["data"]["num_classes"] == tiny_run.config["model"]["num_classes"] == 2


def test_checkpoint_knows_classes_preprocessing_and_split(tiny_run):
    hparams = torch.load(tiny_run.best, weights_only=True)["hyper_parameters"]
    assert hparams["class_names"] == ["cat", "dog"]
    assert hparams["preprocessing"]["image_size"] == 20
    assert len(hparams["provenance"]["split_hash"]) == 32


def test_predictions_of_the_loaded_run_are_those_of_its_evaluation(tiny_run):
    predictor = imgbench.load(tiny_run.path)
    root = Path(tiny_run.config["data"]["root"])
    for row in rows(tiny_run.path / "predictions.csv"):
        prediction = predictor.predict(root / row["path"])[0]
        assert prediction.label == row["predicted"]
        assert prediction.probabilities["cat"] == pytest.approx(float(row["cat"]), abs=1e-5)


def test_run_again_from_its_configuration_gives_the_same_run(tiny_run, tmp_path):
    words = ["--config-dir", tiny_run.path, "--config-name", "config", "hydra.run.dir=again"]
    done = command("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = Run(tmp_path / "again")
    assert (again.path / "split.csv").read_text() == (tiny_run.path / "split.csv").read_text()
    assert (again.path / "predictions.csv").read_text() == (tiny_run.path / "predictions.csv").read_text()
    assert again.config == tiny_run.config
    assert "Test accuracy" in done.stdout
    assert "imgbench predict again PHOTOGRAPHS" in done.stdout


def test_classifier_overfits_a_few_images(make_folder, tmp_path, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 4, "b": 4, "c": 4})
    words = ["trainer.max_epochs=60", "model.drop_rate=0", "data.split.val=3", "data.split.test=3"]
    words += ["objective.label_smoothing=0"]  # else the loss stays above that of the smoothed labels
    run = fit_run(root, tmp_path / "run", *words)
    last = rows(run.path / "metrics.csv")[-1]
    assert float(last["train/loss"]) < 0.01
    assert float(last["train/acc"]) == 1


def test_selection_on_the_test_images_is_said_everywhere(make_folder, tmp_path, train_run, capsys):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    run = train_run(root, tmp_path / "run", "data.split.val=test")
    assert "selected on its own test images" in capsys.readouterr().out
    assert run.info["selected_on_test"] is True
    assert "selected on its own test images" in (run.path / "report.html").read_text("utf-8")
    assert "val/acc" not in json.loads((run.path / "metrics.json").read_text())


def test_truncated_and_mislabelled_files_are_left_out_and_counted(make_folder, tmp_path, train_run, caplog):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8}, size=64, ending=".jpg")
    whole = (root / "a" / "0.jpg").read_bytes()
    (root / "a" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "text.jpg").write_text("no image")
    (root / "b" / "empty.jpg").touch()
    with caplog.at_level("INFO"):
        run = train_run(root, tmp_path / "run")
    assert "1 empty file" in caplog.text
    assert "2 damaged images" in caplog.text
    assert len(rows(run.path / "split.csv")) == 15


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data.num_classes=3"], "data.num_classes=3"),
        (["data.cache=ram"], "data.cache"),
        (["data.normalize=none"], "data.normalize"),
        (["data.resize=10"], "data.resize=10 is smaller than data.image_size="),
        (["data.resize=squash"], "data.resize=squash, but it is stretch, crop, pad, or"),
        (["objective.class_weights=inverse"], "objective.class_weights"),
        (["fast.precision=half"], "fast.precision"),
        (["trainer.accelerator=tpu"], "trainer.accelerator"),
        (["monitor=val/accuracy"], "monitor=val/accuracy"),
        (["monitor=val/loss"], "Use mode=min"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["data.image_size=8"], "image_size=8"),
        (["model=torchvision", "model.name=resnet19"], "resnet19"),
    ],
)
def test_wrong_option_is_named(words, named, make_folder, tmp_path, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    with pytest.raises((UserError, InstantiationException), match=named):
        fit_run(root, tmp_path / "run", *words)
    assert Run(tmp_path / "run").info["status"] == "failed"


def test_missing_root_is_an_error_without_a_stack_trace(tmp_path):
    done = command("train", "data=folder", f"data.root={tmp_path}/nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "data.root" in done.stderr
    assert "<class>" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["model=vgg99", "data=vegetables"])
def test_unknown_name_lists_the_choices(word, tmp_path):
    done = command("train", word, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert ("vgg16" if word.startswith("model") else "potato") in done.stderr


def test_output_directory_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    done = command("train", "hydra.run.dir=file/run", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.run.dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_configuration_need_no_torch(tmp_path):
    check = "import sys, runpy; sys.argv = ['train', '--cfg', 'job']; from imgbench.train import main; main(); " \
            "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_interrupted_run_keeps_checkpoints_and_curves_and_can_be_resumed(make_folder, tmp_path, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    words = [
        "data=folder",
        f"data.root={root}",
        "data.image_size=20",
        "model=cnn",
        "optimizer=adam",
        "scheduler=constant",
    ]
    with started("train", *words, "trainer.max_epochs=1000", "hydra.run.dir=run", cwd=tmp_path) as process:
        for text in process.stdout:
            if text.startswith("epoch 3/"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    run = Run(tmp_path / "run")
    assert run.info["status"] == "interrupted"
    assert {path.name for path in run.path.iterdir()} == FILES
    done = len(rows(run.path / "metrics.csv"))
    assert done >= 3
    resumed = fit_run(root, tmp_path / "resumed", f"ckpt_path={run.last}",
                        f"trainer.max_epochs={done + 2}")  # fmt: skip
    assert [int(row["epoch"]) for row in rows(resumed.path / "metrics.csv")] == list(range(1, done + 3))


RANDOM = ["model=cnn", "augment=strong", "optimizer=adam", "scheduler=one_cycle", "data.image_size=20",
          "data.batch_size=4",
          "trainer.max_epochs=6", "callbacks=ema", "+callbacks.last.share=1e6", "hydra.run.dir=run"]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")  # other signals: tests/test_kills.py
def test_run_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(make_folder, tmp_path, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    words = ["data=folder", f"data.root={root}", *RANDOM]
    with started("train", *words, cwd=tmp_path) as process:
        for text in process.stdout:
            if text.startswith("epoch 3/"):
                process.send_signal(signal.SIGKILL)
    done = command("train", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed, whole = Run(tmp_path / "run"), fit_run(root, tmp_path / "whole", *words)
    assert resumed.info["status"] == "finished"
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(run.path / "checkpoints" / name, weights_only=True)["state_dict"] for run in (resumed, whole)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    untimed = [[{key: row[key] for key in row if "/" in key and "second" not in key}
                for row in rows(run.path / "metrics.csv")] for run in (resumed, whole)]  # fmt: skip
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 6
    assert yaml.safe_load((resumed.path / "config.yaml").read_text())["ckpt_path"] is None
    again = command("train", "--resume", "run", cwd=tmp_path)
    assert again.returncode == 0
    assert "run is finished: nothing is left to do" in again.stdout


def test_resuming_no_run_names_what_a_run_is(tmp_path):
    for words in (["--resume"], ["--resume", "nowhere"], ["--resume=nowhere"]):
        done = command("train", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert "outputs/digits/c" in done.stderr
        assert "Traceback" not in done.stderr


def test_sweep_ends_with_its_runs_best_first_and_goes_on_past_a_failure(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    done = command("train", "-m", "data=folder", f"data.root={root}", "data.image_size=20,8", "optimizer.lr=1e-3,1e-9",
                   "model=cnn", "trainer.max_epochs=3", cwd=tmp_path)  # fmt: skip
    table = done.stdout[done.stdout.index("4 runs, best val/acc first") :]
    assert done.returncode == 1
    assert table.count("failed") == 2
    scores = [json.loads(path.read_text())["val/acc"]["value"] for path in tmp_path.rglob("metrics.json")]
    assert table.index(f"{max(scores):.4f}") <= table.index(f"{min(scores):.4f}") < table.index("failed")
    assert any(path.name.startswith("0_") and "=" not in path.name for path in tmp_path.glob("outputs/photos/cnn/*/*"))


def test_the_monitored_value_of_the_best_epoch_is_returned(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    config = compose(["data=folder", f"data.root={root}", "model=cnn", "data.image_size=20", "trainer.max_epochs=4"])
    run = Run(tmp_path)
    score = train(config, run)
    assert score == pytest.approx(float(rows(tmp_path / "metrics.csv")[run.info["best_epoch"] - 1]["val/acc"]))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(precision, make_folder, tmp_path, fit_run):
    root = make_folder(tmp_path / "photos", {"a": 4, "b": 4})
    words = ["optimizer=sgd", "optimizer.weight_decay=0", "trainer.gradient_clip_val=1e-9"]
    words.append(f"fast.precision={precision}")
    slow, quick = (
        load_classifier(fit_run(root, tmp_path / f"lr{lr}", *words, f"optimizer.lr={lr}").best) for lr in (0.001, 1)
    )
    for before, after in zip(slow.parameters(), quick.parameters(), strict=True):
        assert torch.allclose(before, after, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "words",
    [
        ["augment=strong", "objective.label_smoothing=0.1"],
        ["augment=post", "data.resize=24", "data.normalize=train"],
        ["augment=post", "data.resize=pad", "data.cache=off"],
        ["optimizer=sgd", "scheduler=one_cycle", "callbacks=ema", "callbacks.ema.decay=0.5"],
        ["objective.class_weights=balanced", "trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2"],
        ["scheduler=plateau", "monitor=val/loss", "mode=min", "data.cache=memory"],
        ["fast.precision=bf16-mixed", "fast.channels_last=false", "fast.keep_heap=false", "fast.fused_optimizer=false"],
    ],
)
def test_options_train_and_reload(words, make_folder, tmp_path, train_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 9})
    run = train_run(root, tmp_path / "run", *words)
    assert run.info["status"] == "finished"
    assert imgbench.load(run.path).predict(sorted(root.glob("a/*"))[0])[0].label in ("a", "b")


def test_sweep_over_several_devices_is_refused(tmp_path):
    done = command("train", "-m", "trainer.devices=2,3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("would start the sweep once per device") == 2
