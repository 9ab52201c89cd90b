"""Which network to take, where the configuration leaves it open: several are trained, and validation images decide."""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, open_dict

from imgbench.budget import Budget
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.check import check_comparison, cross_validates
from imgbench.experiment.compose import is_open, storable, with_model
from imgbench.experiment.train import Conclude, Experiment, Fitted, finish, resolve, train
from imgbench.files import copy_atomically, keep_names
from imgbench.fingerprint import fingerprint_of
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.inference.torch_model import TorchModel
from imgbench.models.summary import multiply_adds
from imgbench.number import Number, group_codes, share, standard_error
from imgbench.progress import FACTS, quiet
from imgbench.run import FOLDS, Run
from imgbench.training.median_stopping import MedianStopping

log = logging.getLogger(__name__)

RESERVED = 0.1  # share of the time for what comes after training: the evaluation and the report, which take
CONCLUSION = 8  # seconds on two idle cores
# Of two networks the lighter is taken where so many independent photographs could not tell which is the better one.
TELLING = 1000


@dataclass(frozen=True)
class Trial:
    """A network that was trained, and what it makes of the validation images."""

    name: str
    fitted: Fitted
    validation: Predictions
    multiply_adds: int  # for one image
    seconds: float

    @property
    def cut_short(self) -> str | None:
        """What the time sufficed for, where it was over before the training was."""
        return self.fitted.cut_short

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool."""
        return self.validation.predicted == self.validation.targets

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def interval(self) -> Number:
        """The accuracy with its interval."""
        return share(self.correct, np.ones_like(self.correct), group_codes(self.validation.groups))


def train_best(
    config: DictConfig,
    run: Run,
    conclude: Conclude,
    callbacks: Sequence[Callback] = (),
    budget: Budget | None = None,
) -> float | None:
    """Trains the configured network, or the best of the candidates; returns the monitored value of the epoch kept.

    Args:
        budget: for finding the best and for its report; None: the configured minutes, from now.

    Raises:
        UserError: the data or the configuration cannot be used; or a candidate or the budget is none.
        KeyboardInterrupt: training was interrupted.
    """
    config = config.copy()
    with open_dict(config):
        rule = config.pop("median_stopping", None)  # of a search, and not of the run, which may be repeated alone
    if rule is not None:
        callbacks = [*callbacks, MedianStopping(config.monitor, config.mode, **rule)]
    if not is_open(config):
        return train(resolve(config), run, conclude, callbacks).score
    names = check_comparison(config)
    budget = budget or Budget.from_now(config.budget)
    run.path.mkdir(parents=True, exist_ok=True)
    run.forget_all("candidates", *([FOLDS] if cross_validates(config) else []))
    run.write_config(storable(config))  # from which an interrupted comparison goes on
    trials: list[Trial] = []
    left_out: list[str] = []
    training = budget.before(RESERVED, CONCLUSION)
    for name in names:
        if trials and training.left <= 0:
            left_out.append(name)
            continue
        share = 1 if name == names[-1] else 1 / 2  # of what is left: what one does not need is for the others
        with quiet(*FACTS) if trials else nullcontext():
            trial, spent_before = _try(config, name, run, training.part(share), callbacks)
        training, budget = training.but(spent_before), budget.but(spent_before)
        trials.append(trial)
        if len(trials) == 1 and len(names) > 1:
            log.info("First answer: %s", _described(trial))
    chosen = best_of(trials)
    lines = explain_choice(trials, chosen, left_out, budget)
    log.info("%s", "\n".join(lines))
    _adopt(chosen.fitted.run, run)
    run.note(
        compared=[*compared(trials, chosen, left_out)],
        fingerprint_of_comparison=_of_comparison(config, chosen.fitted.experiment),
    )
    finish(chosen.fitted, run, conclude)
    return chosen.fitted.score


def fingerprint(config: DictConfig) -> str:
    """Of what a configuration trains on its images: a network, or several that are compared.

    Raises:
        UserError: the data or the configuration cannot be used.
    """
    with quiet(*FACTS):
        if not is_open(config):
            return resolve(config).fingerprint
        return _of_comparison(config, resolve(with_model(config, config.model.candidates[0])))


def _of_comparison(config: DictConfig, candidate: Experiment) -> str:
    return fingerprint_of(storable(config), candidate.data.table.hash)


def _model(run: Run) -> TorchModel:
    model = Predictor.load(run.best).model
    assert isinstance(model, TorchModel)
    return model


def _try(
    config: DictConfig, name: str, parent: Run, budget: Budget, callbacks: Sequence[Callback]
) -> tuple[Trial, float]:
    """Trains a candidate below the run, or takes it from there if that was done.

    The second value is how many seconds it took then, before the interruption.
    """
    start, spent_before = time.monotonic(), 0.0
    run = Run(parent.path / "candidates" / name)
    experiment = resolve(with_model(config, name))
    if run.status == "finished" and "score" in run.info and run.holds(experiment.fingerprint):
        info = run.info
        fitted, spent_before = Fitted(run, experiment, info["score"], False, info.get("cut_short")), info["seconds"]
    else:
        log.info("\n%s:", name)
        run.path.mkdir(parents=True, exist_ok=True)
        # Interrupted, the comparison is as well; it goes on with the candidates that are finished.
        fitted = train(experiment, run, callbacks=callbacks, end=budget.end)
    model = _model(run)
    operations = multiply_adds(model.classifier.model, model.preprocessing.image_size)
    validation = predict_split(model, experiment.data, "val")
    seconds = spent_before + time.monotonic() - start
    return Trial(name, fitted, validation, operations, seconds), spent_before


def best_of(trials: Sequence[Trial]) -> Trial:
    """The best on the validation images; a lighter network, where nobody could tell which of the two is the better one.

    That is where the difference is at most the standard error that it would have on a thousand independent images, and
    at most that on these. Images of a group count as one. Of equally light networks the better is taken, and of equally
    good ones the one trained first.
    """
    best = max(trials, key=lambda trial: trial.accuracy)
    near = [trial for trial in trials if best.accuracy - trial.accuracy <= indistinct(best, trial) + 1e-9]
    return min(near, key=lambda trial: (trial.multiply_adds, -trial.accuracy))


def indistinct(one: Trial, other: Trial) -> float:
    """The standard error of the difference between two accuracies, as of the more images: these, or `TELLING`."""
    codes = group_codes(one.validation.groups)
    error = standard_error(one.correct.astype(float) - other.correct, codes)
    return error * min(1.0, math.sqrt((codes.max() + 1) / TELLING))


def compared(trials: Sequence[Trial], chosen: Trial, left_out: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What `run.json` keeps of them, for the report: `accuracy` on the validation images, `seconds` of training."""
    for trial in trials:
        yield {
            "name": trial.name,
            "accuracy": trial.interval.to_dict(),
            "multiply_adds": trial.multiply_adds,
            "seconds": round(trial.seconds, 1),
            "taken": trial is chosen,
        }
    for name in left_out:
        yield {"name": name, "accuracy": None, "multiply_adds": 0, "seconds": 0.0, "taken": False}


def explain_choice(trials: Sequence[Trial], chosen: Trial, left_out: Sequence[str], budget: Budget) -> list[str]:
    """Three lines: what was compared, why one was chosen, and how to have it otherwise."""
    n = len(chosen.validation.targets)
    each = ", ".join(_described(trial) for trial in trials)
    best = max(trials, key=lambda trial: trial.accuracy)
    if len(trials) == 1 and left_out:
        why = f"the first; budget={budget.minutes:g} minutes is too short to train {' or '.join(left_out)}."
    elif chosen is best:
        why = "the best on these images"
        why += "." if not left_out else f"; there was no time for {' and '.join(left_out)}."
    else:
        why = (
            f"lighter than {best.name}, and only {100 * (best.accuracy - chosen.accuracy):.2g} points below: "
            f"{max(n, TELLING):,} photographs could not tell which is better."
        )
    others = [trial.name for trial in trials if trial is not chosen] + list(left_out)
    otherwise = others and f"model={others[0]} trains another network; budget={2 * budget.minutes:g} gives more time."
    return [
        f"Compared on {n} validation images, with 95 % intervals, after {budget.spent:.0f} of "
        f"{60 * budget.minutes:.0f} seconds: {each}.",
        f"Chosen: {chosen.name}, {why}",
        *([f"To change that: {otherwise}"] if otherwise else []),
    ]


def _described(trial: Trial) -> str:
    number = trial.interval
    interval = f"{100 * number.low:.0f} to {100 * number.high:.0f} %"
    epochs = f", {trial.cut_short}" if trial.cut_short else ""
    return f"{trial.name} {100 * number.value:.1f} % ({interval}) in {trial.seconds:.0f} s{epochs}"


def _adopt(trial: Run, run: Run) -> None:
    """Makes a trial the run. What says which network it is comes last, so that being killed here loses nothing."""
    for file in sorted(trial.path.rglob("*")):
        name = file.relative_to(trial.path)
        if file.is_file() and file.name not in ("run.json", "config.yaml"):
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            copy_atomically(file, run.path / name)
    facts = ("device", "precision", "selected_on_test", "provenance", "score", "fingerprint", "cut_short")
    run.note(**{name: value for name, value in trial.info.items() if name in facts})
    run.write_config(trial.stored_config)
    shutil.rmtree(trial.path)
    keep_names(trial.path.parent)
