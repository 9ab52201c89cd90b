"""Sweeps and searches: what is left of them, and that they run on real engines."""

import os
import re
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from commands import command, forked, start_anew, started
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from imgbench import hydra_entry
from imgbench.errors import UserError
from imgbench.experiment.compose import compose, explain, register_resolvers
from imgbench.run import CONF, Run
from imgbench.sweep.search import OptunaSweeper, search_space
from imgbench.sweep.table import SweepTable, SweptRun, experiment
from imgbench.train import main

SMALL = ["model=cnn", "data=folder", "data.image_size=20", "data.batch_size=4", "trainer.max_epochs=1",
         "data.audit=false"]  # fmt: skip


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"a": 8, "b": 8})


def test_best_run_becomes_an_experiment_that_composes(tiny_run, tmp_path):
    words = ["model=compact", "optimizer=sgd", "optimizer.lr=0.125", "+callbacks.last.share=0.5", "launcher=joblib",
             "ckpt_path=auto", "median_stopping.warmup=0.5", "data.split.group='[^_]+'"]  # fmt: skip
    text = experiment([SweptRun(words, tiny_run.path, 0.9)], 5, "val/acc")
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


def train_with_nothing_installed(*words):
    hydra_entry._is_installed = lambda name: False
    sys.argv = ["train", *words]
    main()


@pytest.mark.parametrize(
    ("word", "extra"), [("launcher=joblib", "joblib"), ("launcher=slurm", "slurm"), ("sweeper=optuna", "optuna")]
)
def test_missing_package_and_missing_sweep_are_named(word, extra, tmp_path):
    done = forked(train_with_nothing_installed, "-m", word, cwd=tmp_path)
    assert done.returncode == 2
    assert f'pip install "imgbench[{extra}]"' in done.stderr
    plugin = f"hydra_plugins.hydra_{'submitit' if extra == 'slurm' else extra}_launcher"
    pytest.importorskip("optuna" if extra == "optuna" else plugin)
    done = command("train", word, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{word} runs a sweep: add -m" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launcher_runs_all_and_a_failing_run_ends_none_of_the_others(launcher, photos, tmp_path):
    package = {"submitit_local": "submitit"}.get(launcher, launcher)
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    words = ["-m", f"launcher={launcher}", *SMALL, f"data.root={photos}", "optimizer.lr=abc,1e-3"]
    done = start_anew("train", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 1
    runs = [Run(path) for path in sorted((tmp_path / "sweep").glob("[0-9]*"))]
    assert sorted(run.info["status"] for run in runs) == ["failed", "finished"]
    table = done.stdout[done.stdout.index("2 runs, best val/acc first") :]
    assert table.count("failed") == 1
    assert "Best  sweep/best.yaml" in table


@pytest.mark.slow
def test_search_goes_on_from_its_storage_and_refuses_that_of_another(photos, tmp_path):
    pytest.importorskip("optuna", minversion="5")
    words = ["-m", "sweeper=optuna", *SMALL, f"data.root={photos}", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=found"]
    done = command("train", *words, "optimizer.lr=tag(log,interval(1e-4,1e-2))", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 1e-4 <= yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())["optimizer"]["lr"] <= 1e-2
    done = command("train", "--resume", "found", "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 trials are done, 1 is missing" in done.stdout
    assert "3 runs, best val/acc first" in done.stdout
    done = command("train", *words, "optimizer.lr=choice(1,2)", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds another sweep" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_search_that_was_killed_goes_on_with_the_trial_that_was_cut_off(photos, tmp_path):
    pytest.importorskip("optuna", minversion="5")
    words = ["-m", "sweeper=optuna", *SMALL, f"data.root={photos}", "trainer.max_epochs=4",
             "+callbacks.last.share=1e6", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
             "hydra.sweeper.n_trials=3", "hydra.sweep.dir=found"]  # fmt: skip
    with started("train", *words, cwd=tmp_path) as process:
        runs = 0
        for text in process.stdout:
            runs += text.startswith("epoch 1/")
            if runs == 2 and text.startswith("epoch 2/"):
                process.send_signal(signal.SIGKILL)
    cut_off = Run(next((tmp_path / "found").glob("1_*")))
    done = command("train", "--resume", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 trials are done, 2 are missing" in done.stdout
    assert "epoch 4/" in done.stdout
    assert done.stdout.count("epoch 1/") == 1  # of the third: the second goes on from its checkpoint
    runs = [Run(path) for path in sorted((tmp_path / "found").glob("[0-9]*"))]
    assert [run.path.name[:2] for run in runs] == ["0_", "1_", "2_"]
    assert cut_off.path == runs[1].path
    assert [run.info["status"] for run in runs] == ["finished"] * 3
    assert all((run.path / "metrics.csv").read_text().count("\n") == 5 for run in runs)


class Answers(Launcher):
    """Runs nothing: returns the given values, an exception as that of a run, and notes what was to be run."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.launched: list[tuple[int, list[str]]] = []

    def setup(self, **_: Any) -> None:
        pass

    def launch(self, job_overrides, initial_job_idx):
        self.launched += [(initial_job_idx + i, list(words)) for i, words in enumerate(job_overrides)]
        returns = []
        for _ in job_overrides:
            value = self.values.pop(0)
            if isinstance(value, KeyboardInterrupt):
                raise value
            status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
            returns.append(JobReturn(status=status, _return_value=value))
        return returns


SPACE = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "seed=range(1,5)"]


def search(folder, words, *values, options=()):
    """What a search below `folder` runs, whose runs reach `values`: job numbers and words."""
    pytest.importorskip("optuna", minversion="4")
    register_resolvers()
    folder.mkdir(exist_ok=True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(
            "train",
            ["sweeper=optuna", f"hydra.sweep.dir={folder}", "hydra.job.name=x", *options],
            return_hydra_config=True,
        )
    sweeper = hydra.utils.instantiate(config.hydra.sweeper, _target_=OptunaSweeper)
    context: Any = None
    sweeper.setup(hydra_context=context, task_function=context, config=config)
    sweeper.launcher = Answers(*values)
    sweeper.sweep(words)
    assert not sweeper.launcher.values
    return sweeper.launcher.launched


def states(folder):
    optuna = pytest.importorskip("optuna")
    return [
        trial.state.name for trial in optuna.load_study(study_name="x", storage=f"sqlite:///{folder}/optuna.db").trials
    ]


def test_trials_cut_off_are_next_and_only_the_missing_are_run(tmp_path, capsys):
    options = ["hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2"]
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, SPACE, 0.5, None, float("nan"), ValueError("a fault"), KeyboardInterrupt(), options=options)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "RUNNING", "RUNNING"]
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="x", storage=f"sqlite:///{tmp_path}/optuna.db")
    cut_off = [[f"{name}={value}" for name, value in trial.params.items()] for trial in study.trials[4:]]
    options[0] = "hydra.sweeper.n_trials=7"
    launched = search(tmp_path, [*SPACE, "ckpt_path=auto"], 0.1, 0.2, 0.3, options=options)
    assert "4 of 7 trials are done, 3 are missing" in capsys.readouterr().out
    assert launched[:2] == [(4, [*cut_off[0], "ckpt_path=auto"]), (5, [*cut_off[1], "ckpt_path=auto"])]
    assert launched[2][0] == 6
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "FAIL", *["COMPLETE"] * 3]
    assert search(tmp_path, SPACE, options=["hydra.sweeper.n_trials=3"]) == []
    assert "7 of 3 trials are done, 0 are missing" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*Distribution has been deprecated:FutureWarning")  # Optuna's, of what it upgrades
def test_search_of_an_earlier_optuna_goes_on_where_no_other_uses_its_storage(tmp_path):
    old, other = tmp_path / "old", tmp_path / "other"
    for folder, name in ((old, "optuna.db"), (other, "mine.db")):
        folder.mkdir()
        with closing(sqlite3.connect(folder / name)) as connection:
            connection.executescript((Path(__file__).parent / "old_run" / "optuna.sql").read_text())
    launched = search(old, SPACE, 0.1, 0.2, options=["hydra.sweeper.n_trials=3"])
    assert launched[0] == (1, ["optimizer.lr=0.0002268292474574342", "seed=5"])
    assert launched[1][0] == 2
    assert states(old) == ["COMPLETE"] * 3
    with pytest.raises(UserError, match=r"mine\.db cannot be used: .*set up by optuna 2\.10\.1.*storage upgrade"):
        search(other, SPACE, options=[f"hydra.sweeper.storage=sqlite:///{other}/mine.db"])


def test_seed_makes_a_search_repeatable_and_no_resumed_one_repeats_itself(tmp_path):
    options = ["hydra.sweeper.sampler.seed=3", "hydra.sweeper.n_trials=2"]
    first = search(tmp_path / "one", SPACE, 0.1, 0.2, options=options)
    assert search(tmp_path / "two", SPACE, 0.1, 0.2, options=[*options, "hydra.sweeper.storage=null"]) == first
    options[1] = "hydra.sweeper.n_trials=3"
    [(number, words)] = search(tmp_path / "one", SPACE, 0.3, options=options)
    assert number == 2
    assert words not in [earlier for _, earlier in first]


def test_search_space_is_what_hydra_s_words_say():
    distributions = pytest.importorskip("optuna.distributions")
    space, fixed = search_space(
        ["a=1,2", "b=x,null", "c=range(1,5,2)", "d=range(0.0,1,0.25)", "e=interval(0.5,1)", "f=int(interval(1,9))",
         "g=tag(log,int(interval(1,9)))", "h=tag(log,interval(1e-4,1e-2))", "i=shuffle(range(1,3))", "j=1,2", "j=3",
         "+new='a b'", "~gone"]
    )  # fmt: skip
    assert space == {
        "a": distributions.CategoricalDistribution((1, 2)),
        "b": distributions.CategoricalDistribution(("x", "null")),
        "c": distributions.IntDistribution(1, 5, step=2),
        "d": distributions.FloatDistribution(0, 1, step=0.25),
        "e": distributions.FloatDistribution(0.5, 1),
        "f": distributions.IntDistribution(1, 9),
        "g": distributions.IntDistribution(1, 9, log=True),
        "h": distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "i": space["i"],
    }
    assert set(vars(space["i"])["choices"]) == {1, 2}
    assert fixed == ["j=3", "+new='a b'", "~gone"]


def test_number_that_is_none_and_an_earlier_optuna_are_named(tmp_path, monkeypatch):
    with pytest.raises(InstantiationException) as caught:
        search(tmp_path, SPACE, options=["hydra.sweeper.n_trials=many"])
    assert explain(caught.value) == "hydra.sweeper.n_trials=many, but it is a whole number of 1 or more."
    monkeypatch.setattr("optuna.__version__", "4.9.0")
    with pytest.raises(UserError, match=r"needs Optuna 5 or later, and 4\.9\.0 is installed"):
        search(tmp_path, SPACE)


def test_storage_of_another_study_or_none_is_refused(tmp_path):
    one = ["hydra.sweeper.n_trials=1"]
    search(tmp_path / "one", ["optimizer.lr=choice(1,2)"], 0.5, options=one)
    storage = [f"hydra.sweeper.storage=sqlite:///{tmp_path}/one/optuna.db"]
    with pytest.raises(
        UserError, match=r"holds another study called x, over optimizer\.lr=choice.*\n.*study_name=NAME"
    ):
        search(tmp_path / "two", ["seed=choice(1,2)"], options=storage)
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=.* holds a study called x of another mode"):
        search(tmp_path / "two", ["optimizer.lr=choice(1,2)"], options=[*storage, "mode=min"])
    (tmp_path / "photo.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"photo\.db cannot be used: .*file is not a database"):
        search(tmp_path / "three", SPACE, options=[f"hydra.sweeper.storage=sqlite:///{tmp_path}/photo.db"])


def test_search_that_is_still_going_on_is_left_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, SPACE, KeyboardInterrupt())
    run = Run(tmp_path / "0_lr-1")
    run.path.mkdir()
    with run.recorded(seed=0), pytest.raises(UserError, match=r"0_lr-1 is being trained: the search is still going on"):
        search(tmp_path, SPACE)
    assert states(tmp_path) == ["RUNNING"]


def table_of(folder, tiny_run, runs, capsys):
    """What is printed of a sweep whose runs have these overrides, scores and facts."""
    for i, (words, score, facts) in enumerate(runs):
        shutil.copytree(tiny_run.path, folder / str(i))
        Run(folder / str(i)).note(sweep={"overrides": words, "score": score}, **facts)
    config = {"monitor": "val/acc", "mode": "max", "hydra": {"sweep": {"dir": str(folder)}}}
    try:
        SweepTable().on_multirun_end(OmegaConf.create(config))
    except SystemExit as end:
        assert end.code == 1 and any(score is None for _, score, _ in runs)
    return capsys.readouterr().out


def test_table_tells_the_runs_that_were_ended_from_those_that_failed(tmp_path, capsys, tiny_run):
    runs = [(["lr=0"], 0.9, {"pruned": {"epoch": 3}}), (["lr=1"], 0.8, {}), (["lr=2"], None, {})]
    lines = table_of(tmp_path, tiny_run, runs, capsys).splitlines()
    assert any("lr=0" in line and "0.9000, ended after epoch 3" in line for line in lines)
    assert any("lr=2" in line and "failed" in line for line in lines)
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == {"lr": 1}


def test_sweep_over_seeds_has_mean_and_spread_and_no_best_seed(tmp_path, capsys, tiny_run):
    scores = [0.7] * 10 + [0.9]
    runs = [(["model=cnn", f"seed={i}"], score, {}) for i, score in enumerate(scores)]
    printed = table_of(tmp_path, tiny_run, [*runs, (["model=cnn", "seed=11"], None, {})], capsys)
    assert "12 runs of one configuration" in printed and "best" not in printed.lower()
    assert re.search(r"model=cnn +11 +0\.7182 ± 0\.0603 +1\.0000 ± 0\.0000", printed)
    assert re.findall(r"seed=(\d+)", printed) == [str(i) for i in range(12)]
    assert not (tmp_path / "best.yaml").exists()


def test_best_of_several_configurations_is_the_one_of_the_best_mean_and_names_no_seed(tmp_path, capsys, tiny_run):
    scores = {("1e-3", 1): 0.5, ("1e-3", 2): 0.95, ("1e-4", 1): 0.8, ("1e-4", 2): 0.9}
    runs = [([f"optimizer.lr={lr}", f"seed={seed}"], score, {}) for (lr, seed), score in scores.items()]
    printed = table_of(tmp_path, tiny_run, runs, capsys)
    assert re.search(r"optimizer\.lr=1e-4 +2 +0\.8500 ± 0\.0707", printed)
    assert printed.index("optimizer.lr=1e-4") < printed.index("optimizer.lr=1e-3")
    text = (tmp_path / "best.yaml").read_text()
    assert yaml.safe_load(text) == {"optimizer": {"lr": 1e-4}}
    assert "# The best of 2 configurations by the mean val/acc 0.8500 of 2 runs" in text
