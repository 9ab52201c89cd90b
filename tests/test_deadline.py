"""Training by the clock: where there is time it is as without one, and else its schedule ends when the time does."""

import pytest
import torch

from imgbench.experiment.compose import compose
from imgbench.experiment.train import resolve, train
from imgbench.run import Run
from imgbench.training import deadline as module
from imgbench.training.deadline import Deadline

WORDS = ["model=cnn", "data.image_size=20", "data.batch_size=4", "augment=none", "trainer.accelerator=cpu"]


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Ticking(Deadline):
    """A step takes `seconds(step)`; what else is done takes none."""

    def __init__(self, end, seconds, clock) -> None:
        super().__init__(end)
        self.seconds, self.clock, self.rates = seconds, clock, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.clock.now += self.seconds(trainer.global_step)


@pytest.fixture
def fit(tmp_path, make_folder, monkeypatch):
    """Trains at most five epochs of four steps; returns the callback and the weights."""
    root = make_folder(tmp_path / "photos", {"cat": 12, "dog": 12})

    def fit(end=1e9, seconds=lambda step: 1.0):
        clock = Clock()
        monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
        config = compose(["data=folder", f"data.root={root}", *WORDS, "scheduler=cosine", "trainer.max_epochs=5"])
        run = Run(tmp_path / f"until {end}")
        run.path.mkdir()
        callback = Ticking(end, seconds, clock)
        train(resolve(config), run, callbacks=[callback])
        return callback, torch.load(run.last, weights_only=True), run

    return fit


def test_with_enough_time_every_step_is_as_without_a_deadline(fit, tmp_path, make_folder):
    timed, kept, _ = fit()
    config = compose(
        ["data=folder", f"data.root={tmp_path / 'photos'}", *WORDS, "scheduler=cosine", "trainer.max_epochs=5"]
    )
    run = Run(tmp_path / "without")
    run.path.mkdir()
    train(resolve(config), run)
    expected = torch.load(run.last, weights_only=True)["state_dict"]
    assert not timed.cut_short
    assert all(torch.equal(kept["state_dict"][name], value) for name, value in expected.items())


def test_the_learning_rate_is_down_when_the_time_is_over(fit):
    timed, kept, run = fit(end=11.5)  # of a second each, eleven of twenty steps
    assert timed.cut_short
    assert kept["global_step"] in (10, 11)
    assert timed.rates[0] == max(timed.rates)
    assert timed.rates[-1] < 0.1 * timed.rates[0]
    assert all(later <= earlier for earlier, later in zip(timed.rates, timed.rates[1:], strict=False))
    assert run.best.is_file()


def test_a_machine_that_was_slow_for_a_while_ends_none_of_the_epochs(fit):
    timed, kept, _ = fit(end=60, seconds=lambda step: 5.0 if step < 6 else 1.0)  # by which twelve steps would fit
    assert not timed.cut_short
    assert kept["global_step"] == 20
    assert timed.rates[-1] < 0.1 * timed.rates[0]
