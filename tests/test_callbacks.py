import csv
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

from imgbench.experiment.build import build_classifier
from imgbench.experiment.compose import compose
from imgbench.training.callbacks import COLUMNS, BestCheckpoint, LastCheckpoint
from imgbench.training.classifier import ImageClassifier
from imgbench.training.fast import FastSettings

SCORES = [0.2, 0.9, 0.5, 0.4, 0.8, 0.7]  # the second epoch is the best
TIMES = {"epoch_seconds", "images_per_second"}


class Witness(Callback):
    """Scores the epochs by SCORES, notes what happens, and crashes where `crash`, (epoch, batch), says."""

    def __init__(self, crash=None):
        self.crash = crash
        self.rates, self.orders, self.steps, self.epochs = [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.crash == (trainer.current_epoch, batch_idx):
            raise RuntimeError("crash")
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.orders.append(batch[0].double().sum((1, 2, 3)).tolist())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(weights(pl_module.state_dict()))

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/score", SCORES[trainer.current_epoch])

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(weights(pl_module.state_dict()))


class Validated(L.LightningDataModule):
    """As much of an `ImageFolderDataModule` as counts here."""

    def __init__(self, number):
        super().__init__()
        self.num_independent_val = number

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(1)))

    val_dataloader = train_dataloader


class Scripted(L.LightningModule):
    """Has the accuracies it is given, epoch by epoch, on any data."""

    def __init__(self, accuracies):
        super().__init__()
        self.accuracies, self.weight = accuracies, torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return self.weight.square()

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", self.accuracies[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_scripted(path, number, accuracies, standard_errors=1, ckpt_path=None):
    """Trains for as many epochs as there are accuracies, validated on `number` independent images."""
    checkpoint = BestCheckpoint("val/acc", "max", standard_errors)
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=path, callbacks=[checkpoint, LastCheckpoint(share=math.inf)], logger=False,
        max_epochs=len(accuracies), enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Scripted(accuracies), Validated(number), ckpt_path=ckpt_path and str(ckpt_path), weights_only=True)
    return checkpoint, path / "checkpoints"


def weights(state):
    return torch.cat([value.flatten() for name, value in state.items() if name.startswith("model.")])


def load(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def fit(make_folder, make_data, tmp_path):
    """Trains as `imgbench.train` composes it; returns what came of it."""
    folder = make_folder(tmp_path / "images", {"a": 6, "b": 6, "c": 6})

    def run(name, *overrides, crash=None, ckpt_path=None):
        small = ["data.num_classes=3", "data.image_size=18", "trainer.accelerator=cpu", "trainer.max_epochs=4"]
        small += ["model=cnn", "optimizer=adam", "scheduler=cosine", "callbacks=early_stopping", "monitor=val/score"]
        small += ["+callbacks.last.share=inf"]  # after each epoch, however short
        config = compose([*small, *overrides])
        data = make_data(folder, image_size=18, split={"val": 3, "test": 3})
        torch.manual_seed(0)
        classifier = build_classifier(config, data.class_names, data.preprocessing, FastSettings(), class_weights=None)
        witness, path = Witness(crash), tmp_path / name
        path.mkdir()
        trainer = instantiate(
            config.trainer,
            default_root_dir=str(path),
            logger=False,
            callbacks=[witness, *filter(None, instantiate(config.callbacks).values())],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        error = None
        try:
            trainer.fit(classifier, datamodule=data, ckpt_path=ckpt_path and str(ckpt_path), weights_only=True)
        except RuntimeError as raised:
            error = raised
        assert (error is None) == (crash is None), error
        with (path / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        callbacks = {type(callback): callback for callback in trainer.callbacks}
        return SimpleNamespace(
            trainer=trainer, classifier=classifier, data=data, witness=witness, rows=rows,
            best=path / "checkpoints" / "best.ckpt", last=path / "checkpoints" / "last.ckpt",
            best_checkpoint=callbacks[BestCheckpoint], early_stopping=callbacks.get(EarlyStopping),
        )  # fmt: skip

    return run


def test_metrics_csv_has_a_row_per_epoch_with_every_column_filled(fit):
    run = fit("run")
    assert [list(row) for row in run.rows] == [COLUMNS] * 4
    assert [row["epoch"] for row in run.rows] == ["1", "2", "3", "4"]
    assert all(float(value) >= 0 for row in run.rows for value in row.values())
    assert [float(row["lr"]) for row in run.rows] == pytest.approx(run.witness.rates[::3], rel=1e-5)


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_best_checkpoint_is_the_best_epoch_and_holds_weights_only(fit, mode, best):
    run = fit("run", f"mode={mode}")
    content, last = load(run.best), load(run.last)
    assert (content["epoch"], last["epoch"]) == (best, 3)
    assert torch.equal(weights(content["state_dict"]), run.witness.epochs[best])
    assert torch.equal(weights(last["state_dict"]), run.witness.epochs[3])
    assert run.trainer.checkpoint_callback is run.best_checkpoint
    assert run.best_checkpoint.best_model_score.item() == pytest.approx(SCORES[best])
    assert "optimizer_states" not in content
    assert last["optimizer_states"]
    assert sorted(path.name for path in run.best.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("callbacks", ["default", "ema"])
def test_best_checkpoint_computes_the_validation_loss_of_its_epoch(fit, callbacks):
    run = fit("run", f"callbacks={callbacks}", *(["callbacks.ema.decay=0.5"] if callbacks == "ema" else []))
    best = ImageClassifier.load_from_checkpoint(run.best, weights_only=True).eval()
    images, targets = next(iter(run.data.val_dataloader()))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(best(images), targets).item()
    assert loss == pytest.approx(float(run.rows[1]["val/loss"]), rel=1e-4)
    assert loss != pytest.approx(float(run.rows[3]["val/loss"]), rel=1e-4)


def test_best_checkpoint_of_averaged_training_holds_the_average(fit):
    run = fit("run", "callbacks=ema", "callbacks.ema.decay=0.25")
    steps = run.witness.steps[: 3 * 2]  # up to the end of the best epoch
    average = steps[0]
    for kept, step in zip([2 / 11, 0.25, 0.25, 0.25, 0.25], steps[1:], strict=True):
        average = kept * average + (1 - kept) * step
    saved = weights(load(run.best)["state_dict"])
    torch.testing.assert_close(saved, average, rtol=0, atol=1e-6)
    assert (saved - steps[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("callbacks", ["early_stopping", "ema"])
def test_resumed_run_ends_like_an_uninterrupted_one(fit, callbacks):
    overrides = [f"callbacks={callbacks}", "model.drop_rate=0"]
    whole = fit("whole", *overrides)
    crashed = fit("crashed", *overrides, crash=(2, 1))
    assert len(crashed.rows) == 2
    resumed = fit("resumed", *overrides, ckpt_path=crashed.last)
    assert resumed.witness.rates == whole.witness.rates[6:]
    assert resumed.witness.orders == whole.witness.orders[6:]
    assert torch.equal(weights(resumed.classifier.state_dict()), weights(whole.classifier.state_dict()))
    assert [{name: row[name] for name in COLUMNS if name not in TIMES} for row in resumed.rows] == [
        {name: row[name] for name in COLUMNS if name not in TIMES} for row in whole.rows
    ]
    assert resumed.rows[:2] == crashed.rows
    if callbacks == "early_stopping":
        assert resumed.early_stopping.wait_count == whole.early_stopping.wait_count == 2
        assert resumed.early_stopping.best_score.item() == pytest.approx(0.9)


def test_resume_carries_the_best_epoch_over_to_the_new_directory(fit):
    crashed = fit("crashed", crash=(3, 0))
    before = crashed.best.read_bytes()
    resumed = fit("resumed", "trainer.max_epochs=6", ckpt_path=crashed.last)
    assert resumed.best_checkpoint.best_model_score.item() == pytest.approx(0.9)
    assert resumed.best_checkpoint.best_model_path == str(resumed.best)
    assert resumed.best.read_bytes() == crashed.best.read_bytes() == before
    assert load(resumed.last)["epoch"] == 5


def test_resume_replaces_the_best_epoch_by_a_better_one(fit):
    crashed = fit("crashed", crash=(1, 0))
    resumed = fit("resumed", ckpt_path=crashed.last)
    assert (load(crashed.best)["epoch"], load(resumed.best)["epoch"]) == (0, 1)


def test_early_stopping_counts_on_over_a_resume(fit):
    patience = "callbacks.early_stopping.patience=2"
    crashed = fit("crashed", patience, "trainer.max_epochs=6", crash=(3, 0))  # one epoch after the best
    resumed = fit("resumed", patience, "trainer.max_epochs=6", ckpt_path=crashed.last)
    assert [row["epoch"] for row in resumed.rows] == ["1", "2", "3", "4"]
    assert len(resumed.witness.epochs) == 1


def test_early_stopping_is_off_unless_chosen(fit):
    assert fit("run", "callbacks=default").early_stopping is None


def test_of_equally_good_epochs_the_later_is_kept(fit):
    run = fit("run", "monitor=val/acc", "optimizer.lr=0")  # nothing changes from epoch to epoch
    assert load(run.best)["epoch"] == 3


@pytest.mark.parametrize(
    ("number", "accuracies", "standard_errors", "best"),
    [
        (100, [0.5, 0.8, 0.77, 0.75], 1, 2),  # a standard error of 0.8 is four of the hundred images
        (100, [0.5, 0.8, 0.77, 0.75], 2, 3),
        (100, [0.5, 0.8, 0.77, 0.75], 0, 1),
        (10000, [0.5, 0.8, 0.77, 0.75], 1, 1),
        (100, [0.5, 1.0, 0.99, 0.98], 1, 2),  # one image, although 1.0 has no standard error
        (100, [0.5, 1.0, 0.99, 1.0], 0, 3),
        (100, [0.8, 0.77, 0.81, 0.76], 1, 2),  # the highest is 0.81 by then
        (100, [float("nan"), 0.5, 0.4, float("nan")], 1, 1),
    ],
)
def test_best_checkpoint_is_the_last_that_validation_cannot_tell_from_the_best(
    number, accuracies, standard_errors, best, tmp_path
):
    checkpoint, path = fit_scripted(tmp_path, number, accuracies, standard_errors)
    assert load(path / "best.ckpt")["epoch"] == best
    assert checkpoint.best_model_score == pytest.approx(accuracies[best])


def test_resumed_run_knows_the_highest_accuracy_and_not_only_that_of_the_checkpoint(tmp_path):
    _, crashed = fit_scripted(tmp_path / "crashed", 100, [0.5, 0.8, 0.77])
    _, resumed = fit_scripted(tmp_path / "resumed", 100, [0.5, 0.8, 0.77, 0.75], ckpt_path=crashed / "last.ckpt")
    assert load(resumed / "best.ckpt")["epoch"] == 2


def test_interruption_in_the_first_epoch_leaves_nothing_that_another_result_would_follow_from(fit):
    crashed = fit("crashed", crash=(0, 2))
    assert not crashed.last.exists()
    assert not crashed.best.exists()
    assert crashed.rows == []


def test_last_checkpoint_is_written_no_more_often_than_its_share_of_time_allows(fit):
    seldom = "callbacks.last.share=1e-9"
    crashed = fit("crashed", seldom, crash=(3, 0))
    assert load(crashed.last)["epoch"] == 0
    resumed = fit("resumed", seldom, ckpt_path=crashed.last)
    assert [row["epoch"] for row in resumed.rows] == ["1", "2", "3", "4"]
    assert load(resumed.last)["epoch"] == 3  # the end of training is always kept


@pytest.mark.parametrize("end", ["callbacks.early_stopping.patience=1", "+trainer.max_steps=9"])
def test_last_checkpoint_is_of_the_end_wherever_training_ends(fit, end):
    run = fit("run", "callbacks.last.share=1e-9", end)
    assert load(run.last)["epoch"] == len(run.rows) - 1 == 2


def test_accumulation_and_clipping_are_the_trainers(fit):
    sgd = ["optimizer=sgd", "optimizer.lr=1", "optimizer.momentum=0", "optimizer.nesterov=false", "scheduler=constant"]
    options = ["trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.001", "optimizer.weight_decay=0"]
    run = fit("run", *sgd, *options)
    assert run.trainer.global_step == 4  # one of three batches per epoch
    for before, after in zip(run.witness.epochs, run.witness.epochs[1:], strict=False):
        assert (after - before).norm().item() == pytest.approx(0.001, rel=1e-3)
