"""`sweeper=optuna`: a search that goes on with the trials that were cut off, and runs only as many as are missing."""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig

from imgbench.errors import UserError
from imgbench.run import Run

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

log = logging.getLogger(__name__)

FIRST_VERSION = 5  # of Optuna whose programming interface this is
WORDS = "words"  # an attribute of a study: what is searched, which tells it from others in the same storage
DIRECTIONS: dict[str, Any] = {"max": "maximize", "min": "minimize"}


def own_words(words: Iterable[str]) -> list[str]:
    """The words of a sweep that make it what it is, however often it goes on, and wherever it runs."""
    return sorted(word for word in words if not word.startswith(("ckpt_path=", "launcher=")))


class OptunaSweeper(Sweeper):
    """Trains as Optuna proposes; each trial is a run whose job number, and so its directory's, is the trial's.

    Args:
        sampler: what Hydra makes a sampler of Optuna from.
        study_name: of the study in the storage.
        storage: an address of SQLAlchemy; None keeps nothing.
        n_trials: how many there are to be in all, however often the search goes on.
        n_jobs: how many are proposed, and handed to the launcher, at once.
        params: key -> its values, in the place of `key=values` on the command line.
    """

    def __init__(
        self,
        sampler: DictConfig,
        study_name: str | None,
        storage: str | None,
        n_trials: int,
        n_jobs: int,
        params: DictConfig | None,
    ) -> None:
        for name, number in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if not isinstance(number, int) or number < 1:
                raise UserError(f"hydra.sweeper.{name}={number}, but it is a whole number of 1 or more.")
        self.sampler, self.study_name, self.storage = sampler, study_name, storage
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.folder = Path(config.hydra.sweep.dir)
        self.is_own_storage = self.storage == f"sqlite:///{config.hydra.sweep.dir}/optuna.db"
        self.direction = DIRECTIONS[config.mode]
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that are missing.

        Raises:
            UserError: the storage cannot be used or holds another study, or a run of the search is being trained.
        """
        from optuna.trial import TrialState  # an extra

        study = self.study(own_words(arguments))
        space, fixed = search_space([*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments])
        done = sum(trial.state.is_finished() for trial in study.trials)
        missing = max(0, self.n_trials - done)
        if done:
            verb = "is" if missing == 1 else "are"
            print(f"The search goes on: {done} of {self.n_trials} trials are done, {missing} {verb} missing.")
        seed = self.sampler.get("seed")
        # With the seed itself, a search that goes on would repeat the values that it began with.
        study.sampler = instantiate(self.sampler, **({} if seed is None else {"seed": seed + done}))
        while missing:
            trials = [study.ask(space) for _ in range(min(self.n_jobs, missing))]
            batch = [[*(f"{name}={trial.params[name]}" for name in space), *fixed] for trial in trials]
            assert self.launcher is not None
            # Trials are asked for in the order of their numbers, those that were cut off first.
            returns = self.launcher.launch(batch, initial_job_idx=trials[0].number)
            for trial, job in zip(trials, returns, strict=True):
                value = _value(job)
                study.tell(trial, value, TrialState.FAIL if value is None else None)
            missing -= len(trials)

    def study(self, words: list[str]) -> "Study":
        """The study in the storage, made where it is not there, in which trials that were cut off wait to be asked for.

        Args:
            words: what makes the search what it is.
        """
        from optuna.trial import TrialState

        storage, study = self._opened()
        place = f"hydra.sweeper.storage={self.storage}"
        if study.trials and study.user_attrs.get(WORDS) != words:
            searched = (
                " ".join(study.user_attrs.get(WORDS, [])) or f"{', '.join(study.trials[0].params)}, not by imgbench"
            )
            raise UserError(
                f"{place} holds another study called {self.study_name}, over {searched}, and this is over "
                f"{' '.join(words)}.\nName another storage, or call this one otherwise: hydra.sweeper.study_name=NAME"
            )
        if study.direction.name.lower() != self.direction:
            raise UserError(f"{place} holds a study called {self.study_name} of another mode than this one's.")
        study.set_user_attr(WORDS, words)
        cut_off = [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]
        runs = (Run(path) for path in self.folder.iterdir())
        if cut_off and (busy := next((run for run in runs if run.is_busy), None)):
            raise UserError(f"{busy.path} is being trained: the search is still going on. Wait for its end.")
        for number in cut_off:
            study_id = storage.get_study_id_from_name(study.study_name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
        return study

    def _opened(self) -> "tuple[BaseStorage, Study]":
        import optuna

        if int(optuna.__version__.partition(".")[0]) < FIRST_VERSION:
            raise UserError(
                f"sweeper=optuna needs Optuna {FIRST_VERSION} or later, and {optuna.__version__} is installed. Mend it "
                'with: pip install "imgbench[optuna]"'
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study that it opens
        try:
            storage = optuna.storages.InMemoryStorage() if self.storage is None else self._database(self.storage)
            return storage, optuna.create_study(
                storage=storage,
                study_name=self.study_name,
                direction=self.direction,
                load_if_exists=True,
            )
        except Exception as error:  # of Optuna, SQLAlchemy, or the database's own driver
            raise UserError(
                f"hydra.sweeper.storage={self.storage} cannot be used: {str(error).splitlines()[0]}\nName another, or "
                "leave it out: the search then has its own, beside its runs."
            ) from error

    def _database(self, address: str) -> "BaseStorage":
        from optuna.storages import RDBStorage

        try:
            return RDBStorage(address)
        except RuntimeError:  # an earlier Optuna made it
            if not self.is_own_storage:
                raise  # others may go on using it with that Optuna
            RDBStorage(address, skip_compatibility_check=True, skip_table_creation=True).upgrade()
            return RDBStorage(address)


def _value(job: JobReturn) -> float | None:
    """What the run of a trial has reached; None where it has failed, which was said if the user can mend it."""
    try:
        value = job.return_value
    except Exception:
        log.exception("The search goes on without this run.")
        return None
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def search_space(words: Sequence[str]) -> "tuple[dict[str, BaseDistribution], list[str]]":
    """What `key=value` words let a search choose, and the others; of two for one key, the last counts."""
    overrides = {word.get_key_element(): word for word in OverridesParser.create().parse_overrides(list(words))}
    space = {key: _distribution(word) for key, word in overrides.items() if word.is_sweep_override()}
    fixed = {key: word for key, word in overrides.items() if key not in space}
    return space, [
        key if word.is_delete() else f"{key}={word.get_value_element_as_str()}" for key, word in fixed.items()
    ]


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    is_range = override.is_range_sweep()
    if override.is_choice_sweep() or (is_range and sweep.shuffle):
        choices: Any = list(override.sweep_iterator(Transformer.encode))
        return CategoricalDistribution(choices)
    low, high, step = (sweep.start, sweep.stop, sweep.step) if is_range else (sweep.start, sweep.end, None)
    logarithmic = "log" in sweep.tags and not is_range
    if all(isinstance(number, int) for number in (low, high, step or 1)):
        return IntDistribution(low, high, logarithmic, step or 1)
    return FloatDistribution(low, high, logarithmic, step)
