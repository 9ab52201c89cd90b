"""Which network to take, where the configuration leaves it open: several are trained, and validation images decide."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback, Timer
from omegaconf import DictConfig, open_dict

from imgbench.evaluation.metrics import classification_metrics, describe_accuracy
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.check import check_comparison
from imgbench.experiment.compose import is_open, storable, with_model
from imgbench.experiment.train import Conclude, Experiment, Fitted, epoch_seconds, finish, resolve, train
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.inference.torch_model import TorchModel
from imgbench.models.summary import multiply_adds
from imgbench.number import Number, group_codes, share, standard_error
from imgbench.progress import FACTS, quiet
from imgbench.run import Run, fingerprint_of
from imgbench.training.median_stopping import MedianStopping

log = logging.getLogger(__name__)

FEWEST = 4  # a network that has time for less than a quarter of its epochs is left out
SLACK = 1.25  # times what its epochs were planned to take, a network is stopped: the machine has got other work
RESERVED = 0.1  # share of the budget for what comes after training: the evaluation and the report


@dataclass(frozen=True)
class Trial:
    """A network that was trained, and what it makes of the validation images."""

    name: str
    fitted: Fitted
    validation: Predictions
    multiply_adds: int  # for one image
    seconds: float

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


def train_best(config: DictConfig, run: Run, conclude: Conclude, callbacks: Sequence[Callback] = ()) -> float | None:
    """Trains the configured network, or the best of the candidates; returns the monitored value of the epoch kept.

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
    names, seconds = check_comparison(config)
    start = time.perf_counter()
    run.path.mkdir(parents=True, exist_ok=True)
    run.forget_all("candidates")
    run.write_config(storable(config))  # from which an interrupted comparison goes on
    trials: list[Trial] = []
    left_out: list[str] = []
    for position, name in enumerate(names):
        left = (1 - RESERVED) * seconds - (time.perf_counter() - start)
        with quiet(*FACTS) if trials else nullcontext():
            trial = _try(config, name, run, left / (len(names) - position) if trials else None, callbacks)
        if trial is None:
            left_out.append(name)
            continue
        trials.append(trial)
        if len(trials) == 1 and len(names) > 1:
            test = predict_split(_model(trial.fitted.run), trial.fitted.experiment.data, "test")
            accuracy = describe_accuracy(classification_metrics(test, "test"), "test")
            log.info("First answer (%s): test accuracy %s", name, accuracy)
    chosen = best_of(trials)
    lines = explain_choice(trials, chosen, left_out, seconds, time.perf_counter() - start)
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
    config: DictConfig, name: str, parent: Run, seconds: float | None, callbacks: Sequence[Callback]
) -> Trial | None:
    """Trains a candidate below the run, or takes it from there if that was done; None if the time is too short."""
    start = time.perf_counter()
    run = Run(parent.path / "candidates" / name)
    experiment = resolve(with_model(config, name))
    limits: list[Timer] = []
    if run.status == "finished" and "score" in run.info and run.holds(experiment.fingerprint):
        fitted = Fitted(run, experiment, run.info["score"], interrupted=False)
    else:
        if seconds is not None and not experiment.frozen:
            epochs = int(seconds / epoch_seconds(experiment))
            if epochs < experiment.config.trainer.max_epochs / FEWEST:
                return None
            experiment.config.trainer.max_epochs = min(epochs, experiment.config.trainer.max_epochs)
            limits.append(Timer(timedelta(seconds=SLACK * seconds), interval="epoch"))
        log.info("\n%s:", name)
        run.path.mkdir(parents=True, exist_ok=True)
        # Interrupted, the comparison is as well; it goes on with the candidates that are finished.
        fitted = train(experiment, run, callbacks=[*callbacks, *limits])
        if any((timer.time_remaining() or 0) <= 0 for timer in limits):
            log.info("%s was stopped: its epochs take longer than they did at first. Is other work running?", name)
    model = _model(run)
    operations = multiply_adds(model.classifier.model, model.preprocessing.image_size)
    validation = predict_split(model, experiment.data, "val")
    return Trial(name, fitted, validation, operations, time.perf_counter() - start)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The lightest network that is no more than one standard error below the best (Breiman et al. 1984, sec. 3.4.3).

    The error is that of the difference on the same images, of which those of a group count as one. Of equally light
    ones the better is taken, and of equally good ones the one trained first.
    """
    best = max(trials, key=lambda trial: trial.accuracy)
    near = [trial for trial in trials if best.accuracy - trial.accuracy <= error_of_difference(best, trial) + 1e-9]
    return min(near, key=lambda trial: (trial.multiply_adds, -trial.accuracy))


def error_of_difference(one: Trial, other: Trial) -> float:
    """The standard error of the difference between two accuracies on the same validation images."""
    return standard_error(one.correct.astype(float) - other.correct, group_codes(one.validation.groups))


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


def explain_choice(
    trials: Sequence[Trial], chosen: Trial, left_out: Sequence[str], budget: float, seconds: float
) -> list[str]:
    """Three lines: what was compared, why one was chosen, and how to have it otherwise."""
    n = len(chosen.validation.targets)
    each = ", ".join(_described(trial) for trial in trials)
    best = max(trials, key=lambda trial: trial.accuracy)
    if len(trials) == 1 and left_out:
        why = f"the fastest; budget={budget / 60:.2g} minutes is too short to train {' or '.join(left_out)}."
    elif chosen is best:
        why = "the best on these images"
        why += "." if not left_out else f"; there was no time for {' and '.join(left_out)}."
    else:
        gap, error = best.accuracy - chosen.accuracy, error_of_difference(best, chosen)
        why = (
            f"lighter than {best.name}, and only {100 * gap:.1f} points below, less than a standard error "
            f"({100 * error:.1f})."
        )
    others = [trial.name for trial in trials if trial is not chosen] + list(left_out)
    otherwise = others and f"model={others[0]} trains another network; budget={2 * budget / 60:.3g} gives more time."
    return [
        f"Compared on {n} validation images, in {seconds:.0f} of {budget:.0f} seconds, with 95 % intervals: {each}.",
        f"Chosen: {chosen.name}, {why}",
        *([f"To change that: {otherwise}"] if otherwise else []),
    ]


def _described(trial: Trial) -> str:
    number = trial.interval
    interval = f"{100 * number.low:.0f} to {100 * number.high:.0f} %"
    return f"{trial.name} {100 * number.value:.1f} % ({interval}) in {trial.seconds:.0f} s"


def _adopt(trial: Run, run: Run) -> None:
    """Makes a trial the run. What says which network it is comes last, so that being killed here loses nothing."""
    shutil.copytree(trial.path, run.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run.json", "config.yaml"))
    facts = ("device", "precision", "selected_on_test", "provenance", "score", "fingerprint")
    run.note(**{name: value for name, value in trial.info.items() if name in facts})
    run.write_config(trial.stored_config)
    shutil.rmtree(trial.path)
