"""A run in four phases: resolve its configuration, begin its directory, fit its model, conclude with its results."""

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from imgbench.data.corrections import Decided
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.experiment.build import (
    apply_defaults,
    build_classifier,
    build_data,
    build_data_of,
    build_trainer,
    check_monitor,
    check_resume,
    check_values,
    class_weights,
    is_tuned,
    plain,
    resolve_report,
    with_facts,
)
from imgbench.experiment.compose import explain, storable
from imgbench.experiment.inspect import audit_before_training
from imgbench.experiment.last_layer import fit_head, solve_last_layer
from imgbench.experiment.learning_curve import measure_learning_curve
from imgbench.experiment.samples import write_grid
from imgbench.files import copy_atomically, write_atomically
from imgbench.fingerprint import fingerprint_of
from imgbench.models.summary import model_table
from imgbench.models.weights import facts_of_weights
from imgbench.progress import Step, quiet
from imgbench.provenance import first_process
from imgbench.run import FOLDS, INIT, Run
from imgbench.stored_config import switched_on
from imgbench.training import fast
from imgbench.training.callbacks import EpochProgress, run_of_checkpoint
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier
from imgbench.training.deadline import Deadline
from imgbench.training.memory import lack_of_memory_named, largest_batch
from imgbench.training.neighbours import Neighbours

log = logging.getLogger(__name__)

OVERHEAD = 1.2  # of an epoch over its steps: augmentation, the optimizer, checkpoints
SOLVED = "imgbench.models.backbone.pooled_features"
Conclude = Callable[[Run, ImageFolderDataModule], object]  # evaluates a trained run on its images


@dataclass(frozen=True)
class Experiment:
    """A configuration in which nothing is open, and what was found while resolving it."""

    config: DictConfig
    data: ImageFolderDataModule
    settings: fast.FastSettings
    device: str
    start: ImageClassifier | None  # whose weights training starts from
    max_epochs: int | None  # as configured: where it is open, fewer images have more epochs
    fingerprint: str  # of the configuration, before a batch size or fewer epochs were found out, and the images

    @property
    def frozen(self) -> bool:
        """Whether nothing but the last layer is to be learnt, which is solved for."""
        model = self.config.model
        return model.get("_target_") == SOLVED and bool(model.get("freeze_backbone", True))


@dataclass(frozen=True)
class Fitted:
    """What training left in a run's directory."""

    run: Run
    experiment: Experiment
    score: float | None  # the monitored value of the epoch kept; the highest of all would be chosen by luck
    interrupted: bool
    cut_short: str | None = None  # what the time sufficed for, where it was over before the training was
    first: bool = True  # process of several


def train(
    experiment: Experiment,
    run: Run,
    conclude: Conclude | None = None,
    callbacks: Sequence[Callback] = (),
    end: float = math.inf,
    **facts: Any,
) -> Fitted:
    """The one road to trained weights: begins the run, fits its model and concludes, recorded in `run.json`.

    Args:
        conclude: what is done with the trained run; None: nothing.
        callbacks: further ones than those of the configuration.
        end: moment of `time.monotonic()` at which training is to end, with as much as it has learnt by then.
        facts: for `run.json`.

    Raises:
        UserError: the configuration cannot be used.
        KeyboardInterrupt: training was interrupted; the run is complete up to there.
    """
    with run.recorded(seed=experiment.config.seed, **facts):
        with quiet_libraries():
            fitted = _fitted(experiment, run, callbacks, end)
        finish(fitted, run, conclude)
    return fitted


def _fitted(experiment: Experiment, run: Run, callbacks: Sequence[Callback], end: float) -> Fitted:
    classifier = begin(run, experiment)
    cut_short = None
    if experiment.frozen:
        score, learnt = fit_head(run, classifier.to(experiment.device), experiment.data, end)
        if learnt < (images := len(experiment.data.rows("train"))):
            cut_short = f"{learnt:,} of {images:,} training images"
        fitted = Fitted(run, experiment, score, False, cut_short, first_process())
    else:
        deadline = Deadline(end)
        with lack_of_memory_named(experiment.data.batch_size):
            limited = [deadline] if end < math.inf else []
            trainer, interrupted = fit(run, experiment, classifier, [*callbacks, *limited])
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        score = None if score is None else float(score)
        if deadline.cut_short:
            cut_short = f"{run.epochs} of {experiment.config.trainer.max_epochs} epochs"
        fitted = Fitted(run, experiment, score, interrupted, cut_short, trainer.is_global_zero)
    if fitted.first:
        run.note(score=fitted.score)
        if cut_short:
            _note_cut(run, experiment, cut_short)
    return fitted


def _note_cut(run: Run, experiment: Experiment, cut_short: str) -> None:
    """The configuration has the epochs that there was time for: it shall not be taken for an interrupted run."""
    experiment.config.trainer.max_epochs = epochs = run.epochs
    stored = run.stored_config
    run.write_config({**stored, "trainer": {**stored["trainer"], "max_epochs": epochs}})
    run.note(cut_short=cut_short)
    log.info("The time sufficed for %s.", cut_short)


def finish(fitted: Fitted, run: Run, conclude: Conclude | None) -> None:
    """Trains for the learning curve, where it is wanted, and concludes the run in whose directory lies what was fitted.

    Raises:
        KeyboardInterrupt: one of the trainings was interrupted.
    """
    experiment, interrupted = fitted.experiment, fitted.interrupted
    if fitted.first and conclude is not None:
        if experiment.config.report.learning_curve and not interrupted:
            part = experiment.config.copy()
            part.trainer.max_epochs = experiment.max_epochs
            interrupted = not measure_learning_curve(part, run, experiment.data, _train_part)
        if interrupted:
            log.info("\nTraining was stopped before its end. What follows is of the epochs until then.")
        conclude(run, experiment.data)
    if interrupted:
        raise KeyboardInterrupt


def _train_part(config: DictConfig, run: Run, data: ImageFolderDataModule) -> None:
    train(resolve(config, data), run)


def resolve(config: DictConfig, data: ImageFolderDataModule | None = None) -> Experiment:
    """Finds out what the configuration leaves open, in a new configuration: facts of the data, epochs, learning rate.

    Args:
        data: what `build_data` made of the configuration, where it is known already.

    Raises:
        UserError: no data, data of another shape than the configuration states, or no weights to start from.
    """
    config = config.copy()
    check_values(config)
    switched_on(config, "data.audit")  # found wrong before any time is spent
    resolve_report(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    settings, device = fast.apply(fast.FastSettings(**config.fast), config.trainer.accelerator)
    resumed = None if config.ckpt_path is None else Run(run_of_checkpoint(config.ckpt_path))
    if data is None and resumed is not None and (resumed.path / "split.csv").is_file():
        data = build_data_of(resumed, config)
    data = data or build_data(config)
    config, max_epochs = with_facts(config, data), config.trainer.max_epochs
    apply_defaults(config, len(data.rows("train")))
    start = None
    if config.init_from is not None:
        path = Path(config.init_from)
        path = path if path.is_file() else Run.open(path).best
        start = load_classifier(path)
        config.init_from = str(path.resolve())
    fingerprint = fingerprint_of(storable(config), data.table.hash)
    return Experiment(config, data, settings, device, start, max_epochs, fingerprint)


def begin(run: Run, experiment: Experiment) -> ImageClassifier:
    """Builds the model; the first process writes what the run consists of before anything is learnt.

    Raises:
        UserError: the configuration names a metric or a checkpoint that does not fit.
    """
    config, data, settings = experiment.config, experiment.data, experiment.settings
    selected_on_test = data.plan.selects_on_test
    provenance = {"data": config.data_name, "split_hash": data.table.hash, "selected_on_test": selected_on_test}
    classifier = build_classifier(
        config,
        data.class_names,
        data.preprocessing,
        settings,
        class_weights=class_weights(config.objective.class_weights, data),
        provenance=provenance,
        widths=kept_widths(config, experiment.start),
    )
    if config.data.batch_size == "auto":
        size, images = data.preprocessing.image_size, len(data.rows("train"))
        config.data.batch_size = data.batch_size = largest_batch(classifier, size, images, experiment.device)
        log.info("data.batch_size=%d is what fits.", data.batch_size)
    if config.model.get("pretrained"):
        classifier.hparams["provenance"]["weights"] = facts_of_weights(plain(config.model), classifier.model)
    if experiment.start:
        take_weights(classifier, experiment.start)
    check_monitor(config.monitor, config.mode, classifier)
    check_resume(config.ckpt_path, classifier, config.trainer.max_epochs)
    if first_process():
        goes_on = config.ckpt_path is not None and run_of_checkpoint(config.ckpt_path) == run.path.resolve()
        if goes_on:
            run.forget_results()
        else:  # but for the weights that it starts from
            run.forget_all(
                *([INIT] if config.init_from == str((run.path / INIT).resolve()) else []),
                *([FOLDS] if data.plan.cross_validates else []),
            )
        stored = storable(config)
        if goes_on:
            stored["ckpt_path"] = None  # its own: training from this configuration gives the same run
        run.write_config(stored)
        write_table(run, config, data)
        if data.table.decided is not None:
            run.note(corrections=facts_of_corrections(data.table, data.table.decided))
        run.note(
            fingerprint=experiment.fingerprint,
            device=experiment.device,
            precision=settings.precision,
            selected_on_test=selected_on_test,
            provenance=classifier.hparams["provenance"],
        )
        size = data.preprocessing.image_size
        write_atomically(run.path / "summary.txt", model_table(classifier.model, size))
        if switched_on(config, "data.thumbnails"):
            write_grid(data, run, augmented=not experiment.frozen)
    fast.prepare(classifier, settings)
    return classifier


def facts_of_corrections(table: ImageTable, decided: Decided) -> dict[str, Any]:
    """What `run.json` keeps: which decisions the images had, and the classes that test images had before them."""
    tested = np.flatnonzero(table.splits != NO_SPLIT) if table.plan.cross_validates else table.rows("test")
    changed = [row for row in tested if decided.labels[row] != table.labels[row]]
    before = {table.paths[row]: table.class_names[decided.labels[row]] for row in changed}
    return {"hash": decided.hash, "sentence": decided.sentence, "test_classes_before": before}


def write_table(run: Run, config: DictConfig, data: ImageFolderDataModule) -> None:
    """`split.csv`, `left_out.csv` where a file of the data's folder is no image of the table, and `audit.json`."""
    write_atomically(run.path / "split.csv", data.table.csv_lines(), errors="surrogateescape")
    if any(True for _ in data.table.left_out):
        write_atomically(run.path / "left_out.csv", data.table.left_out_lines(), errors="surrogateescape")
    audit_before_training(config, data.table, run)


def kept_widths(config: DictConfig, start: ImageClassifier | None) -> dict[str, list[int]] | None:
    """The widths of pruned layers, where training starts from a pruned network and keeps its architecture."""
    if start is None or not start.hparams["widths"]:
        return None
    if {**start.hparams["model"], "pretrained": None} != {**plain(config.model), "pretrained": None}:
        raise UserError(
            f"init_from={config.init_from} was pruned, so that its weights fit no other network: leave the model as "
            "it is, or start from the run that it was pruned from."
        )
    return start.hparams["widths"]


def take_weights(classifier: ImageClassifier, start: ImageClassifier) -> list[str]:
    """Copies the weights that have a place in the classifier, and says which have none; returns the names of the first.

    Raises:
        UserError: there are none.
    """
    own, known = classifier.state_dict(), start.state_dict()
    fitting = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise UserError("init_from: none of its weights has a place in the model. Start from a run of the same kind.")
    classifier.load_state_dict({**own, **fitting})
    new = sorted(own.keys() - fitting.keys())
    if new:
        log.info("Weights taken: %d of %d tensors; new: %s", len(fitting), len(own), ", ".join(new))
    return sorted(fitting)


def fit(
    run: Run, experiment: Experiment, classifier: ImageClassifier, callbacks: Sequence[Callback] = ()
) -> tuple[L.Trainer, bool]:
    """Trains; returns the Trainer, and whether it was interrupted."""
    config = experiment.config
    if is_tuned(config) and experiment.start is None and config.ckpt_path is None:
        solve_last_layer(classifier, experiment.data)
    others = [Neighbours()] if config.fast.threads is None else []
    trainer = build_trainer(config, experiment.settings, run.path, [*callbacks, *others, EpochProgress()])
    try:
        trainer.fit(classifier, datamodule=experiment.data, ckpt_path=config.ckpt_path, weights_only=True)
    except SystemExit:  # how Lightning ends when it was interrupted; it leaves further Ctrl-C ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return trainer, True
    except InstantiationException as error:  # of the optimizer or its schedule, which Lightning asks for
        raise UserError(explain(error)) from error
    if trainer.is_global_zero and config.ckpt_path is not None:
        _carry_over(Path(config.ckpt_path), run)
    return trainer, False


def first_batch(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Training images and their targets on the device, augmented, to time a step with."""
    batch = next(iter(experiment.data.loader("train")))
    return experiment.data.augment_batch(*(tensor.to(experiment.device) for tensor in batch))


def epoch_seconds(experiment: Experiment) -> float:
    """About how long an epoch takes, by the time of a step with gradients on a batch of training images."""
    config, data, settings = experiment.config, experiment.data, experiment.settings
    classifier = build_classifier(config, data.class_names, data.preprocessing, settings, class_weights=None)
    fast.prepare(classifier, settings)
    classifier.to(experiment.device).train()
    images, targets = first_batch(experiment)
    steps: list[float] = []
    with Step("Timing a training step"), fast.autocast(settings, experiment.device):
        while len(steps) < 2 or (len(steps) < 8 and sum(steps) < 2):
            start = time.perf_counter()
            loss = classifier.training_loss(images, classifier(images), targets)
            loss.backward()
            loss.item()  # waits for the device
            steps.append(time.perf_counter() - start)
    step = min(steps)  # the first is slower, and others are where something else runs beside it
    images_seen = len(data.rows("train")) + len(data.rows("val")) / 3  # a third of a step is the way forward
    return OVERHEAD * step * images_seen / len(images)


def _carry_over(checkpoint: Path, run: Run) -> None:
    """What epochs write, where none was left: the run resumed was killed after its last, before its evaluation."""
    copies = {run.last: checkpoint, run.path / "metrics.csv": run_of_checkpoint(checkpoint) / "metrics.csv"}
    for place, source in copies.items():
        if source.is_file() and not place.exists():
            copy_atomically(source, place)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """What Lightning has to say of devices, tips and cloud services would bury what a user needs to read."""
    with warnings.catch_warnings(), quiet("lightning.pytorch", "lightning.fabric"):
        # Lightning's own use of PyTorch, which only Lightning can mend.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        # The cache hands out batches in a millisecond without workers; see ImageFolderDataModule.
        warnings.filterwarnings("ignore", message=".*does not have many workers which may be a bottleneck")
        # Levels that are frozen stay in eval mode, which is meant.
        warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
        # A run resumed in its own directory, and one that starts from weights written there.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # Tiny data sets have fewer batches than Lightning's logging interval, which only concerns its own loggers.
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
        yield
