"""A search by Optuna that goes on: with the trials that were cut off, and only as many more as are missing."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, read_write

from imgbench.errors import UserError
from imgbench.experiment.compose import quoted
from imgbench.run import Run

WORDS = "words"  # an attribute of a study: what is searched, by which another study in the same storage is told


def is_search(config: DictConfig) -> bool:
    """Whether a sweep is a search that keeps what it has found."""
    sweeper = config.hydra.sweeper
    return "optuna" in str(sweeper.get("_target_")) and isinstance(sweeper.get("storage"), str)


def continue_search(config: DictConfig, words: list[str]) -> None:
    """Makes a search begin where its storage says that it stopped.

    `hydra.sweeper.n_trials` becomes what is missing of it. A trial that was cut off is the next to be tried, with the
    same values; and job numbers, by which directories are named, go on with those of the trials, so that it finds its
    checkpoint.

    Args:
        config: of the sweep, Hydra's entries included; changed in place.
        words: what makes the search what it is.

    Raises:
        UserError: the storage holds another study or is none, or a run of the search is being trained.
    """
    from optuna.trial import TrialState  # an extra

    folder, sweeper = Path(config.hydra.sweep.dir), config.hydra.sweeper
    storage, study = _opened(sweeper)
    place = f"hydra.sweeper.storage={sweeper.storage}"
    if study.trials and study.user_attrs.get(WORDS) != words:
        searched = " ".join(study.user_attrs.get(WORDS, [])) or f"{', '.join(study.trials[0].params)}, not by imgbench"
        raise UserError(
            f"{place} holds another study called {sweeper.study_name}, over {searched}, and this is over "
            f"{' '.join(words)}.\nName another storage, or call this one otherwise: hydra.sweeper.study_name=NAME"
        )
    study.set_user_attr(WORDS, words)
    cut_off = [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]
    if cut_off and (busy := next((run for path in folder.iterdir() if (run := Run(path)).is_busy), None)):
        raise UserError(f"{busy.path} is being trained: the search is still going on. Wait for its end.")
    study_id = storage.get_study_id_from_name(sweeper.study_name)
    for number in cut_off:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_state(trial_id, TrialState.WAITING)
    done = sum(trial.state.is_finished() for trial in study.trials)
    if not done:
        return
    missing = max(0, sweeper.n_trials - done)
    verb = "is" if missing == 1 else "are"
    print(f"The search goes on: {done} of {sweeper.n_trials} trials are done, {missing} {verb} missing.")
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # pyright: ignore
    numbered = subdir.replace("${hydra.job.num}", f"${{imgbench.sum:{done},${{hydra.job.num}}}}")
    with read_write(config):
        sweeper.n_trials = missing
        # The configuration of a job is composed anew, of the words that the sweep was started with.
        config.hydra.overrides.hydra.append(quoted(f"hydra.sweep.subdir={numbered}"))


def _opened(sweeper: Any) -> tuple[Any, Any]:
    """The storage and the study in it, which is made where it is not there."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)  # it tells of every study that it opens
    one = sweeper.direction
    directions = [str(getattr(each, "name", each)) for each in (one if OmegaConf.is_list(one) else [one])]
    try:
        storage = optuna.storages.RDBStorage(sweeper.storage)
        study = optuna.create_study(
            storage=storage, study_name=sweeper.study_name, directions=directions, load_if_exists=True
        )
    except Exception as error:  # of Optuna, SQLAlchemy, or the database's own driver
        reason = str(error).splitlines()[0]
        raise UserError(
            f"hydra.sweeper.storage={sweeper.storage} cannot be used: {reason}\nName another, or leave it out: the "
            "search then has its own, beside its runs."
        ) from error
    return storage, study
