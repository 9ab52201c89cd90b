import csv
import inspect
import math

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from imgbench.experiment.build import build_classifier, plain
from imgbench.experiment.compose import compose
from imgbench.run import CONF
from imgbench.training import schedules
from imgbench.training.callbacks import EpochTable, LastCheckpoint
from imgbench.training.fast import FastSettings

SCHEDULERS = sorted(path.stem for path in (CONF / "scheduler").glob("*.yaml"))


def rates(schedule, steps, lr=2.0, momentum=None):
    """The learning rate (and, if a list is given, the momentum) of each of `steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = schedule(optimizer)["scheduler"]
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        if momentum is not None:
            momentum.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return values


def test_every_schedule_has_a_configuration_that_names_it():
    functions = inspect.getmembers(schedules, inspect.isfunction)
    public = [name for name, f in functions if not name.startswith("_") and f.__module__ == schedules.__name__]
    assert sorted(public) == SCHEDULERS


def test_constant_stays():
    assert rates(lambda o: schedules.constant(o, total_steps=9), 5) == [2.0] * 5


@pytest.mark.parametrize(("staircase", "at_49"), [(True, 2.0), (False, 2 * 0.98**0.98)])
def test_exponential_decays_by_keras_formula(staircase, at_49):
    values = rates(lambda o: schedules.exponential(o, rate=0.98, every=50, staircase=staircase), 101)
    assert [values[step] for step in (0, 49, 50, 100)] == pytest.approx([2.0, at_49, 1.96, 1.9208])


def test_cosine_falls_to_zero_by_half_a_cosine():
    values = rates(lambda o: schedules.cosine(o, total_steps=100), 102)
    assert [values[step] for step in (0, 25, 50, 100, 101)] == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 0.0, 0.0])


def test_warmup_cosine_rises_in_equal_steps_then_falls():
    values = rates(lambda o: schedules.warmup_cosine(o, total_steps=100, warmup=0.1), 101)
    assert values[:10] == pytest.approx([2 * step / 11 for step in range(1, 11)])
    assert [values[step] for step in (10, 55, 100)] == pytest.approx([2.0, 1.0, 0.0])


def test_one_cycle_peaks_at_the_learning_rate_while_momentum_dips():
    momentum = []
    values = rates(lambda o: schedules.one_cycle(o, total_steps=101, warmup=0.3, start=25.0), 101, momentum=momentum)
    peak = values.index(max(values))
    assert (values[0], values[peak]) == pytest.approx((2 / 25, 2.0), rel=1e-3)
    assert 28 <= peak <= 31  # near 30 % of all steps
    assert values[-1] < 1e-4
    assert momentum[peak] == min(momentum) < momentum[0]


def test_step_multiplies_every_so_many_epochs():
    schedule = schedules.step(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    assert schedule["interval"] == "epoch"
    assert rates(lambda o: schedules.step(o, rate=0.1, every=2), 5) == pytest.approx([2, 2, 0.2, 0.2, 0.02])


class Recorder(Callback):
    """Notes the learning rate of every step, scores each epoch, and crashes in the epoch `crash`."""

    def __init__(self, scores, crash=None):
        self.scores, self.crash, self.rates = scores, crash, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.crash:
            raise RuntimeError("crash")
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/score", self.scores[trainer.current_epoch])


@pytest.fixture
def fit(make_folder, make_data, tmp_path):
    """Trains a tiny network on twelve images, and returns the learning rates: of each step, and of metrics.csv."""
    folder = make_folder(tmp_path / "images", {"a": 6, "b": 6})

    def run(name, *overrides, scores=(0.5,) * 9, crash=None, ckpt_path=None, **trainer_options):
        small = ["model=cnn", "optimizer=adam", "data.num_classes=2", "data.image_size=18", "monitor=val/score"]
        config = compose([*small, *overrides])
        data = make_data(folder, image_size=18, split={"val": 2, "test": 2})
        torch.manual_seed(0)
        classifier = build_classifier(config, data.class_names, data.preprocessing, FastSettings(), class_weights=None)
        recorder, path = Recorder(scores, crash), tmp_path / name
        path.mkdir()
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=path,
            callbacks=[recorder, EpochTable(), LastCheckpoint(share=math.inf)],
            **trainer_options,
        )
        if crash is None:
            trainer.fit(classifier, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        else:
            with pytest.raises(RuntimeError, match="crash"):
                trainer.fit(classifier, datamodule=data)
        with (path / "metrics.csv").open() as file:
            return recorder.rates, [float(row["lr"]) for row in csv.DictReader(file)]

    return run


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_falls_when_the_monitored_metric_stops_improving(fit, mode):
    scores = [score if mode == "max" else 1 / score for score in (1, 2, 2, 2, 3, 3)]
    overrides = ["scheduler=plateau", "scheduler.patience=1", f"mode={mode}"]
    _, epochs = fit("run", *overrides, scores=scores, max_epochs=6)
    assert epochs == pytest.approx([1e-3] * 4 + [1e-4] * 2)  # two epochs without improvement are one too many


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (2, 2)])
def test_schedules_by_step_span_all_optimizer_steps(fit, accumulate, steps):
    by_batch, by_epoch = fit("run", "scheduler=cosine", max_epochs=2, accumulate_grad_batches=accumulate)
    half = rates(lambda o: schedules.cosine(o, total_steps=steps), steps, lr=1e-3)
    assert by_batch == pytest.approx([rate for rate in half for _ in range(accumulate)])
    assert by_epoch == pytest.approx([1e-3, 5e-4])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_goes_on_where_a_crashed_run_stopped(fit, tmp_path, name):
    overrides = [f"scheduler={name}"]
    known = plain(compose(overrides).scheduler)
    overrides += ["scheduler.every=2"] if "every" in known else []
    overrides += ["scheduler.patience=0"] if "patience" in known else []
    whole, _ = fit("whole", *overrides, max_epochs=4)
    fit("crashed", *overrides, crash=2, max_epochs=4)
    last = tmp_path / "crashed" / "checkpoints" / "last.ckpt"
    resumed, _ = fit("resumed", *overrides, ckpt_path=str(last), max_epochs=4)
    assert resumed == whole[4:]


def test_one_cycle_can_be_resumed_for_more_epochs(fit, tmp_path):
    fit("short", "scheduler=one_cycle", max_epochs=2)
    last = tmp_path / "short" / "checkpoints" / "last.ckpt"
    longer, _ = fit("longer", "scheduler=one_cycle", ckpt_path=str(last), max_epochs=4)
    expected = rates(lambda o: schedules.one_cycle(o, total_steps=8), 8, lr=1e-3)
    assert longer[1:] == pytest.approx(expected[5:])  # the first step still has the rate that was saved
