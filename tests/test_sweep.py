"""Sweeps and searches: what is left of them, and that they run on real engines."""

import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import hydra
import pytest
import yaml
from commands import command
from omegaconf import OmegaConf

from imgbench.errors import UserError
from imgbench.experiment.compose import compose, register_resolvers
from imgbench.run import CONF, Run
from imgbench.sweep.search import continue_search
from imgbench.sweep.table import SweepTable, SweptRun, experiment

SMALL = ["model=cnn", "data=folder", "data.image_size=20", "data.batch_size=4", "trainer.max_epochs=1",
         "data.audit=off"]  # fmt: skip


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"a": 8, "b": 8})


def test_best_run_becomes_an_experiment_that_composes(tiny_run, tmp_path):
    words = ["model=compact", "optimizer=sgd", "optimizer.lr=0.125", "+callbacks.last.share=0.5", "launcher=joblib",
             "ckpt_path=auto", "median_stopping.warmup=0.5", "data.split.group='[^_]+'"]  # fmt: skip
    text = experiment(SweptRun(words, tiny_run.path, 0.9), 5, "val/acc")
    assert "# The best of 5 runs by val/acc 0.9000" in text
    assert "95 % interval" in text
    content = yaml.safe_load(text)
    assert content["defaults"] == [{"override /model": "compact"}, {"override /optimizer": "sgd"}]
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "found.yaml").write_text(text)
    done = command("train", "--config-dir", "conf", "experiment=found", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["optimizer"]["lr"] == 0.125
    assert config["data"]["split"]["group"] == "[^_]+"
    assert config["model"]["_target_"] == compose(["model=compact"]).model._target_


@pytest.mark.parametrize(
    ("word", "extra"), [("launcher=joblib", "joblib"), ("launcher=slurm", "slurm"), ("sweeper=optuna", "optuna")]
)
def test_missing_package_and_missing_sweep_are_named(word, extra, tmp_path):
    script = "import sys, imgbench.hydra_entry as c; c._is_installed = lambda name: False; sys.argv[0] = 'train'; " \
             "from imgbench.train import main; main()"  # fmt: skip
    line = [sys.executable, "-c", script, "-m", word]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'pip install "imgbench[{extra}]"' in done.stderr
    pytest.importorskip(f"hydra_plugins.hydra_{'submitit' if extra == 'slurm' else extra}_{word.split('=')[0]}")
    done = command("train", word, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{word} runs a sweep: add -m" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launcher_runs_all_and_a_failing_run_ends_none_of_the_others(launcher, photos, tmp_path):
    package = {"submitit_local": "submitit"}.get(launcher, launcher)
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    words = ["-m", f"launcher={launcher}", *SMALL, f"data.root={photos}", "optimizer.lr=1e-3,1e-4,abc"]
    done = command("train", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
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
    done = command("train", *words, "optimizer.lr=tag(log,interval(1e-4,1e-2))", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 1e-4 <= yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())["optimizer"]["lr"] <= 1e-2
    done = command("train", "--resume", "found", "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 trials are done, 1 is missing" in done.stdout
    assert "3 runs, best val/acc first" in done.stdout
    done = command("train", "--resume", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials are done, 0 are missing" in done.stdout
    assert "3 runs, best val/acc first" in done.stdout
    done = command("train", *words, "optimizer.lr=choice(1,2)", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another sweep" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_search_that_was_killed_goes_on_with_the_trial_that_was_cut_off(photos, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "sweeper=optuna", *SMALL, f"data.root={photos}", "trainer.max_epochs=6",
             "+callbacks.last.share=1e6", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
             "hydra.sweeper.n_trials=3", "hydra.sweep.dir=found"]  # fmt: skip
    line = [sys.executable, "-m", "imgbench.train", *words]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        runs = 0
        for text in process.stdout:
            runs += text.startswith("epoch 1/")
            if runs == 2 and text.startswith("epoch 4/"):
                os.killpg(process.pid, signal.SIGKILL)
    cut_off = Run(next((tmp_path / "found").glob("1_*")))
    done = command("train", "--resume", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 trials are done, 2 are missing" in done.stdout
    assert "epoch 6/" in done.stdout
    assert done.stdout.count("epoch 1/") == 1  # of the third: the second goes on from its checkpoint
    runs = [Run(path) for path in sorted((tmp_path / "found").glob("[0-9]*"))]
    assert [run.path.name[:2] for run in runs] == ["0_", "1_", "2_"]
    assert cut_off.path == runs[1].path
    assert [run.info["status"] for run in runs] == ["finished"] * 3
    assert all((run.path / "metrics.csv").read_text().count("\n") == 7 for run in runs)


def search(folder, *words):
    """The configuration of a search below `folder`, with Hydra's own entries, as its callbacks get it."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    register_resolvers()
    folder.mkdir(exist_ok=True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(
            "train",
            ["sweeper=optuna", f"hydra.sweep.dir={folder}", "hydra.job.name=x", *words],
            return_hydra_config=True,
        )


def test_trials_cut_off_are_next_and_only_the_missing_are_run(tmp_path):
    optuna = pytest.importorskip("optuna")
    config = search(tmp_path, "hydra.sweeper.n_trials=5")
    continue_search(config, ["seed=1"])
    assert config.hydra.sweeper.n_trials == 5
    assert not [word for word in config.hydra.overrides.hydra if "subdir" in word]
    study = optuna.load_study(study_name="x", storage=config.hydra.sweeper.storage)
    values = optuna.distributions.UniformDistribution(0, 1)
    first, failed, second = (study.ask({"lr": values}) for _ in range(3))
    study.tell(first, 0.5)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)

    config = search(tmp_path, "hydra.sweeper.n_trials=5")
    continue_search(config, ["seed=1"])
    assert config.hydra.sweeper.n_trials == 3
    words: Any = OmegaConf.to_container(config.hydra.overrides.hydra)
    assert "imgbench.sum:2," in words[-1]
    study = optuna.load_study(study_name="x", storage=config.hydra.sweeper.storage)  # as the next process does
    again = study.ask({"lr": values})
    assert (again.number, again.params) == (second.number, second.params)
    assert study.ask({"lr": values}).number == 3


def test_search_of_more_trials_than_are_left_runs_none(tmp_path):
    optuna = pytest.importorskip("optuna")
    config = search(tmp_path, "hydra.sweeper.n_trials=1")
    continue_search(config, [])
    study = optuna.load_study(study_name="x", storage=config.hydra.sweeper.storage)
    for value in (0.1, 0.2):
        study.tell(study.ask(), value)
    continue_search(config, [])
    assert config.hydra.sweeper.n_trials == 0


def test_storage_of_another_study_or_none_is_refused(tmp_path):
    optuna = pytest.importorskip("optuna")
    config = search(tmp_path / "one")
    continue_search(config, ["optimizer.lr=choice(1,2)"])
    storage = config.hydra.sweeper.storage
    study = optuna.load_study(study_name="x", storage=storage)
    study.tell(study.ask({"lr": optuna.distributions.UniformDistribution(0, 1)}), 0.5)
    other = search(tmp_path / "two", f"hydra.sweeper.storage={storage}")
    with pytest.raises(
        UserError, match=r"holds another study called x, over optimizer\.lr=choice.*\n.*study_name=NAME"
    ):
        continue_search(other, ["seed=choice(1,2)"])
    other.hydra.sweeper.direction = "minimize"
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=.*cannot be used: Cannot overwrite study direction"):
        continue_search(other, ["optimizer.lr=choice(1,2)"])
    (tmp_path / "photo.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"photo\.db cannot be used: .*file is not a database"):
        continue_search(search(tmp_path / "three", f"hydra.sweeper.storage=sqlite:///{tmp_path}/photo.db"), [])


def test_search_that_is_still_going_on_is_left_alone(tmp_path):
    optuna = pytest.importorskip("optuna")
    config = search(tmp_path)
    continue_search(config, [])
    study = optuna.load_study(study_name="x", storage=config.hydra.sweeper.storage)
    study.ask()
    run = Run(tmp_path / "0_lr-1")
    run.path.mkdir()
    with run.recorded(seed=0), pytest.raises(UserError, match=r"0_lr-1 is being trained: the search is still going on"):
        continue_search(config, [])
    assert study.trials[0].state == optuna.trial.TrialState.RUNNING


def test_table_tells_the_runs_that_were_ended_from_those_that_failed(tmp_path, capsys, tiny_run):
    for name, score, facts in [("0", 0.9, {"pruned": {"epoch": 3}}), ("1", 0.8, {}), ("2", None, {})]:
        shutil.copytree(tiny_run.path, tmp_path / name)
        Run(tmp_path / name).note(sweep={"overrides": [f"seed={name}"], "score": score}, **facts)
    with pytest.raises(SystemExit):  # for the one that failed
        SweepTable().on_multirun_end(OmegaConf.create({"monitor": "val/acc", "mode": "max",
                                                       "hydra": {"sweep": {"dir": str(tmp_path)}}}))  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert any("seed=0" in line and "0.9000, ended after epoch 3" in line for line in lines)
    assert any("seed=2" in line and "failed" in line for line in lines)
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == {"seed": 1}
