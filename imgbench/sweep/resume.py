"""`--resume`: going on with a run, or with the runs of a sweep, where they stopped; torch is not needed."""

import csv
import re
import shlex
from pathlib import Path

import yaml
from omegaconf import DictConfig

from imgbench.errors import UserError
from imgbench.experiment.compose import is_open
from imgbench.report.study_file import read_study
from imgbench.run import Run

OPTION = "--resume"
AUTO = "auto"  # ckpt_path: the run directory's own last checkpoint, if it has one
NUMBER_OF = re.compile(r"hydra\.sweeper\.(n_trials|sampler\.seed)=\d+|hydra\.(sweeper|launcher)\.n_jobs=-?\d+")
EXAMPLE = "outputs/digits/compact/2026-01-31_12-00-00"


def resumed(words: list[str]) -> list[str] | None:
    """A command line in which `--resume RUN` has become what goes on with it; None where nothing is left to do.

    A run without a checkpoint was killed in its first epoch, and begins anew.

    Raises:
        UserError: there is neither a run nor a sweep, or it cannot go on.
    """
    path, others = _taken_out(words)
    if path is None:
        return words
    if _is_sweep(path):
        return [*_words_of_sweep(path), *others]
    run = Run.open(path)
    _ = run.stored_config  # damaged, it is an error, even if nothing is left to do
    if run.status == "finished" and run.concluded and not others:
        if run.info.get("status") != "finished":
            run.note(status="finished")
        print(f"{run.shown} is finished: nothing is left to do. To train on, add trainer.max_epochs=N.")
        return None
    return [*_words_of_run(run), *others]


def resumed_study(words: list[str]) -> list[str] | None:
    """As `resumed`, of a study, which goes on after its training as well.

    Raises:
        UserError: there is no study, or it cannot go on.
    """
    path, others = _taken_out(words)
    if path is None:
        return words
    run = Run.open(path)
    study = read_study(run)
    if study is None:
        raise UserError(
            f"{run.shown} is a run, but no study. It goes on with: python -m imgbench.train {OPTION} "
            f"{shlex.quote(str(run.shown))}"
        )
    if "small" in study and run.info.get("status") == "finished" and run.concluded and not others:
        print(f"{run.shown} is finished: nothing is left to do.")
        return None
    return [*_words_of_run(run), f"target={study['target']}", f"budget={study['budget']}", *others]


def _taken_out(words: list[str]) -> tuple[Path | None, list[str]]:
    """What `--resume` names, None where it is not there, and the other words."""
    place = next((i for i, word in enumerate(words) if word.partition("=")[0] == OPTION), None)
    if place is None:
        return None, words
    before, (option, *after) = words[:place], words[place:]
    _, equals, path = option.partition("=")
    if not equals and after:
        path, *after = after
    if not path:
        raise UserError(f"{OPTION} RUN: name the run directory, for example {EXAMPLE}")
    if any(word.partition("=")[0] == OPTION for word in after):
        raise UserError(f"{OPTION} goes on with one run at a time. Name one of them.")
    return Path(path), [*before, *after]


def _words_of_run(run: Run) -> list[str]:
    checkpoint = [f"ckpt_path={run.last.resolve()}"] if run.last.is_file() else []
    return [
        "--config-dir",
        str(run.path),
        "--config-name",
        "config",
        f"hydra.run.dir={run.path.resolve()}",
        *checkpoint,
    ]


def _is_sweep(path: Path) -> bool:
    return (path / "multirun.yaml").is_file() and not (path / "config.yaml").exists()


def _words_of_sweep(path: Path) -> list[str]:
    """The words that started a sweep, to go on in its directory: each job resumes its own run.

    Of `multirun.yaml`, which may come from anybody, no more than plain words is taken.
    """
    file = path / "multirun.yaml"
    try:
        hydra = yaml.safe_load(file.read_text("utf-8"))["hydra"]
        words, config_name = hydra["overrides"]["task"], hydra["job"]["config_name"]
        numbers = [word for word in hydra["overrides"].get("hydra", []) if NUMBER_OF.fullmatch(word)]
        plain = all(isinstance(word, str) and not _reaches_beyond(word) for word in words)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{file} is damaged: {' '.join(str(error).split())}. Repeat the command of the sweep."
        ) from error
    goes_on = [f"hydra.sweep.dir={path.resolve()}", f"ckpt_path={AUTO}"]
    if not plain or config_name != "train":
        raise UserError(
            f"{file} is of a sweep over more than plain key=value words of imgbench.train, which are not taken from a "
            f"file. Repeat its command, and add {shlex.join(goes_on)}"
        )
    return ["-m", *(word for word in words if word not in goes_on), *numbers, *goes_on]


def _reaches_beyond(word: str) -> bool:
    """Whether a word could call something, or look something up, and is no plain entry of a run's configuration."""
    return "_target_" in word or "${" in word or word.lstrip("+~").startswith("hydra")


def score_of(run: Run, monitor: str) -> float:
    """The monitored value of the epoch that a finished run has kept.

    Raises:
        UserError: a file of the run is damaged.
    """
    path = run.path / "metrics.csv"
    try:
        with path.open(newline="") as file:
            return float(list(csv.DictReader(file))[run.info["best_epoch"] - 1][monitor])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. Restore it from a copy, or remove the run.") from error


def own_checkpoint(config: DictConfig, run: Run) -> DictConfig:
    """The configuration with the run's last checkpoint, if there is one of the network that is configured."""
    config = config.copy()
    config.ckpt_path = str(run.last.resolve()) if run.last.is_file() and not is_open(config) else None
    return config
