"""Going on where a run or a sweep has stopped, and what cannot go on."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import command

from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.run import RESULTS, Run
from imgbench.sweep.resume import resumed
from imgbench.train import train

SMALL = ["data=folder", "model=cnn", "data.image_size=20", "data.batch_size=4", "augment=strong",
         "+callbacks.last.share=1e6", "data.audit=false"]  # fmt: skip


def copy_of(run: Run, place: Path) -> Run:
    shutil.copytree(run.path, place)
    return Run(place)


def unevaluated(run: Run) -> Run:
    for name in RESULTS:
        (run.path / name).unlink()
    run.note(status="running")
    return run


def weights(run: Run, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run.path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def epochs(run: Run) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{name: row[name] for name in row if "second" not in name} for row in csv.DictReader(file)]


def assert_same_end(run: Run, other: Run) -> None:
    for name in ("best", "last"):
        ours, theirs = weights(run, name), weights(other, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert epochs(run) == epochs(other)


def test_words_without_resume_stay_as_they_are():
    assert resumed(["model=cnn", "seed=1"]) == ["model=cnn", "seed=1"]


def test_finished_run_says_that_nothing_is_left(tiny_run, capsys):
    assert resumed(["--resume", str(tiny_run.path)]) is None
    assert "is finished: nothing is left to do. To train on, add trainer.max_epochs=N." in capsys.readouterr().out
    assert resumed([f"--resume={tiny_run.path}", "trainer.max_epochs=2"]) is not None


def test_run_killed_after_its_report_is_finished(tiny_run, tmp_path, capsys):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.note(status="running")
    assert resumed(["--resume", str(run.path)]) is None
    assert run.info["status"] == "finished"


def test_sweep_takes_a_finished_run_only_if_it_is_of_its_options(tiny_run, tmp_path, capsys):
    run = copy_of(tiny_run, tmp_path / "run")
    assert train(override(run, ["ckpt_path=auto"]), run) == float(epochs(run)[0]["val/acc"])
    assert "is finished: nothing is left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="or train with other options in another directory"):
        train(override(run, ["ckpt_path=auto", "seed=5"]), run)
    assert run.info == tiny_run.info


def test_run_without_a_checkpoint_begins_anew(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    run.note(status="running")
    run.last.unlink()
    words = resumed(["--resume", str(run.path)])
    assert words is not None
    assert not any(word.startswith("ckpt_path") for word in words)


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_damaged_file_of_the_run_is_named(name, tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    (run.path / name).write_text("{[")
    done = command("train", "--resume", run.path, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{run.path}/{name} is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_checkpoint_is_named_with_what_is_left_to_do(tiny_run, tmp_path):
    run = unevaluated(copy_of(tiny_run, tmp_path / "run"))
    run.last.write_bytes(run.last.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"last.ckpt is no checkpoint of imgbench, or a damaged one.*init_from=RUN"):
        train(override(run, [f"ckpt_path={run.last}"]), run)
    assert run.best.is_file()


def test_other_images_are_refused(tiny_run, make_folder, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    other = make_folder(tmp_path / "other", {"cat": 16, "dog": 16})
    with pytest.raises(UserError, match=r"was trained on other images.*split\.csv.*\n.*init_from=RUN"):
        train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=2", f"data.root={other}"]), run)
    assert run.info["status"] == "finished"
    with pytest.raises(UserError, match="or in other splits"):
        train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=2", "data.split.seed=1"]), run)


def test_run_whose_images_are_gone_is_named(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    run.write_config({**run.stored_config, "data": {**run.stored_config["data"], "root": str(tmp_path / "gone")}})
    done = command("train", "--resume", run.path, "trainer.max_epochs=2", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path}/gone" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_network_is_refused_and_the_run_stays_as_it_was(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    done = command("train", "--resume", run.path, "model=compact", "trainer.max_epochs=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "was trained with model" in done.stderr
    assert "imgbench.train --resume RUN" in done.stderr
    assert run.info == tiny_run.info
    assert run.concluded


def test_checkpoint_of_another_run_is_refused(tiny_run, make_folder, tmp_path, fit_run):
    other = fit_run(make_folder(tmp_path / "others", {"cat": 16, "dog": 16}), tmp_path / "other")
    run = unevaluated(copy_of(tiny_run, tmp_path / "run"))
    shutil.copy(other.last, run.last)
    words = resumed(["--resume", str(run.path), "trainer.max_epochs=2"]) or []
    checkpoint = next(word for word in words if word.startswith("ckpt_path="))
    with pytest.raises(UserError, match="was trained on other images"):
        train(override(run, [checkpoint, "trainer.max_epochs=2"]), run)


def test_damaged_table_of_epochs_is_named_with_what_is_left_to_do(tiny_run, tmp_path):
    run = unevaluated(copy_of(tiny_run, tmp_path / "run"))
    (run.path / "metrics.csv").write_text("epoch,val/acc\none,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged\. Remove it"):
        train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=2"]), run)


def test_foreign_run_gives_no_words_that_could_call_something(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "run")
    for change in ({"logger": {"_target_": "os.system", "command": "touch ran"}}, {"seed": "${oc.env:HOME}"}):
        run.write_config({**tiny_run.stored_config, **change})
        done = command("train", "--resume", run.path, "trainer.max_epochs=2", cwd=tmp_path)
        assert done.returncode == 2
        assert f"{run.path}/config.yaml" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "name the run directory"),
        (["--resume", "a", "--resume", "b"], "one run at a time"),
        (["--resume", "."], r"no config\.yaml"),
    ],
)
def test_what_is_no_run_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        resumed(words)


def test_foreign_sweep_gives_no_words_that_could_call_something(tmp_path):
    for word in ("model._target_=os.system", "hydra.launcher._target_=x", "~hydra.x", "seed=${oc.env:HOME}"):
        content = {"hydra": {"overrides": {"task": [word]}, "job": {"config_name": "train"}}}
        (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=r"not taken from a file.*ckpt_path=auto"):
            resumed(["--resume", str(tmp_path)])
    (tmp_path / "multirun.yaml").write_text("{[")
    with pytest.raises(UserError, match=r"multirun\.yaml is damaged"):
        resumed(["--resume", str(tmp_path)])


def test_sweep_keeps_how_many_trials_it_has_and_how_many_run_at_once(tmp_path):
    typed = ["hydra.sweeper.n_trials=7", "hydra.launcher.n_jobs=2", "hydra.launcher._target_=os.system"]
    content = {"hydra": {"overrides": {"task": ["seed=1,2"], "hydra": typed}, "job": {"config_name": "train"}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
    words = resumed(["--resume", str(tmp_path), "hydra.sweeper.n_trials=9"])
    assert words == ["-m", "seed=1,2", *typed[:2], f"hydra.sweep.dir={tmp_path}", "ckpt_path=auto",
                     "hydra.sweeper.n_trials=9"]  # fmt: skip


def test_sweep_makes_only_the_runs_that_are_not_finished(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    words = [*SMALL, f"data.root={root}", "trainer.max_epochs=1"]
    done = command("train", "-m", *words, "seed=1,2,3", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = (Run(path) for path in sorted((tmp_path / "sweep").glob("[0-9]*")))
    whole, kept = epochs(second), first.last.stat().st_mtime_ns
    unevaluated(second)
    shutil.rmtree(third.path)
    done = command("train", "--resume", "sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is finished: nothing is left to do") == 1
    assert "3 runs of one configuration" in done.stdout
    assert "failed" not in done.stdout
    assert first.last.stat().st_mtime_ns == kept
    assert epochs(second) == whole
    assert all(run.info["status"] == "finished" for run in (first, second, third))
    names = {path.name for path in (tmp_path / "sweep").iterdir() if not path.is_dir()}
    assert names <= {"multirun.yaml", "best.yaml", ".lock"}


def test_early_stopped_run_killed_in_its_evaluation_trains_no_further_epoch(make_folder, tmp_path, train_run):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    words = ["trainer.max_epochs=20", "callbacks=early_stopping", "callbacks.early_stopping.patience=1",
             "callbacks.early_stopping.min_delta=1"]  # fmt: skip
    whole = train_run(root, tmp_path / "whole", *words)
    assert len(epochs(whole)) < 20
    run = unevaluated(copy_of(whole, tmp_path / "run"))
    train(override(run, [f"ckpt_path={run.last}"]), run)
    assert run.info["status"] == "finished"
    assert_same_end(run, whole)
    assert json.loads((run.path / "metrics.json").read_text()) == json.loads((whole.path / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_two_processes_resumed_end_as_if_they_had_not_been_killed(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 12, "b": 12})
    words = [*SMALL, f"data.root={root}", "trainer.max_epochs=4", "trainer.accelerator=cpu", "trainer.devices=2"]
    line = [sys.executable, "-m", "imgbench.train", *words, "hydra.run.dir=run"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("epoch 2/"):
                os.killpg(process.pid, signal.SIGKILL)
    done = command("train", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert command("train", *words, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    assert_same_end(run, whole)
    assert len(epochs(run)) == 4
    assert run.info["status"] == "finished"
    alone = command("train", "--resume", "run", "trainer.max_epochs=5", "trainer.devices=1", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert "was trained by 2 processes, and goes on with 1" in alone.stdout + alone.stderr
    assert len(epochs(run)) == 5
