"""Sweeps and searches: what is left of them, and that they run on real engines."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imgbench.experiment.compose import compose
from imgbench.experiment.sweep import SweptRun, experiment
from imgbench.run import CONF, Run

SMALL = ["model=cnn", "data=folder", "data.image_size=20", "data.batch_size=4", "trainer.max_epochs=1",
         "data.audit=off"]  # fmt: skip


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "imgbench.train", *map(str, words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"a": 8, "b": 8})


def test_best_run_becomes_an_experiment_that_composes(tiny_run, tmp_path):
    words = ["model=compact", "optimizer=sgd", "optimizer.lr=0.125", "+callbacks.last.share=0.5", "launcher=joblib",
             "ckpt_path=auto", "data.split.group='[^_]+'"]  # fmt: skip
    text = experiment(SweptRun(words, tiny_run.path, 0.9), 5, "val/acc")
    assert "# The best of 5 runs by val/acc 0.9000" in text
    assert "95 % interval" in text
    content = yaml.safe_load(text)
    assert content["defaults"] == [{"override /model": "compact"}, {"override /optimizer": "sgd"}]
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "found.yaml").write_text(text)
    done = command("--config-dir", "conf", "experiment=found", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["optimizer"]["lr"] == 0.125
    assert config["data"]["split"]["group"] == "[^_]+"
    assert config["model"]["_target_"] == compose(["model=compact"]).model._target_


@pytest.mark.parametrize(
    ("word", "extra"), [("launcher=joblib", "joblib"), ("launcher=slurm", "slurm"), ("sweeper=optuna", "optuna")]
)
def test_missing_package_and_missing_sweep_are_named(word, extra, tmp_path):
    script = "import sys, imgbench.cli as c; c._is_installed = lambda name: False; sys.argv[0] = 'train'; " \
             "import imgbench.train as t; t.main()"  # fmt: skip
    line = [sys.executable, "-c", script, "-m", word]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'pip install "imgbench[{extra}]"' in done.stderr
    pytest.importorskip(f"hydra_plugins.hydra_{'submitit' if extra == 'slurm' else extra}_{word.split('=')[0]}")
    done = command(word, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{word} runs a sweep: add -m" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launcher_runs_all_and_a_failing_run_ends_none_of_the_others(launcher, photos, tmp_path):
    package = {"submitit_local": "submitit"}.get(launcher, launcher)
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    words = ["-m", f"launcher={launcher}", *SMALL, f"data.root={photos}", "optimizer.lr=1e-3,1e-4,abc"]
    done = command(*words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 1
    runs = [Run(path) for path in sorted((tmp_path / "sweep").glob("[0-9]*"))]
    assert sorted(run.info["status"] for run in runs) == ["failed", "finished", "finished"]
    table = done.stdout[done.stdout.index("3 runs, best val/acc first") :]
    assert table.count("failed") == 1
    assert "Best  sweep/best.yaml" in table


@pytest.mark.slow
def test_search_goes_on_from_its_storage_and_refuses_that_of_another(photos, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "sweeper=optuna", *SMALL, f"data.root={photos}", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=found"]
    done = command(*words, "optimizer.lr=tag(log,interval(1e-4,1e-2))", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 1e-4 <= yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())["optimizer"]["lr"] <= 1e-2
    done = command("--resume", "found", "hydra.sweeper.n_trials=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 runs, best val/acc first" in done.stdout
    done = command(*words, "optimizer.lr=choice(1,2)", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another sweep" in done.stderr
