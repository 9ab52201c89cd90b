"""Several processes train one model: with the numbers of one, and ending together."""

import csv
import json
import os
import signal

import psutil
import pytest
from commands import command, started

from imgbench.run import Run

# Sizes that one and two processes divide evenly: 54 images to train on, in 3 batches of 18.
WORDS = ["data=folder", "model=cnn", "model.drop_rate=0", "data.image_size=20", "augment=none", "optimizer=sgd",
         "optimizer.lr=0.01", "scheduler=constant", "trainer.accelerator=cpu", "fast.precision=32-true",
         "data.audit=false", "data.split.group=null", "data.split.val=18", "data.split.test=18"]  # fmt: skip


@pytest.fixture
def words(tmp_path, make_folder) -> list[str]:
    return [*WORDS, f"data.root={make_folder(tmp_path / 'photos', {'a': 30, 'b': 30, 'c': 30})}"]


def epochs(run: Run) -> list[dict[str, float]]:
    names = ("train/loss", "train/acc", "val/loss", "val/acc")
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{name: float(row[name]) for name in names} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(words, tmp_path):
    for number in (1, 2):
        own = (f"trainer.devices={number}", f"data.batch_size={18 // number}", f"hydra.run.dir={number}")
        done = command("train", *words, *own, "trainer.max_epochs=2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    alone, together = Run(tmp_path / "1"), Run(tmp_path / "2")
    assert epochs(together) == [pytest.approx(row, rel=1e-4) for row in epochs(alone)]
    assert (together.path / "split.csv").read_text() == (alone.path / "split.csv").read_text()
    accuracy, expected = (json.loads((run.path / "metrics.json").read_text()) for run in (together, alone))
    assert accuracy["test/acc"] == expected["test/acc"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_one_process_that_dies_ends_all(words, tmp_path):
    words += ["trainer.devices=2", "trainer.max_epochs=1000", "hydra.run.dir=run"]
    with started("train", *words, cwd=tmp_path) as process:
        next(line for line in process.stdout if line.startswith("epoch 1/"))
        family = psutil.Process(process.pid).children()
        next(child for child in family if "imgbench.train" in child.cmdline()).send_signal(signal.SIGKILL)
    assert process.returncode != 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)
    assert len(epochs(Run(tmp_path / "run"))) >= 1
