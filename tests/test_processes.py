"""Several processes train one model: with the numbers of one, and ending together."""

import csv
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from imgbench.run import Run

# Sizes that 1, 2 and 3 processes divide evenly: 54 images to train on, in 3 batches of 18.
WORDS = ["data=folder", "model=cnn", "model.drop_rate=0", "data.image_size=20", "augment=none", "optimizer=sgd",
         "optimizer.lr=0.01", "scheduler=constant", "trainer.accelerator=cpu", "fast.precision=32-true",
         "data.audit=false", "data.split.group=null", "data.split.val=18", "data.split.test=18"]  # fmt: skip


@pytest.fixture
def start(tmp_path, make_folder):
    root = make_folder(tmp_path / "photos", {"a": 30, "b": 30, "c": 30})

    def run(name: str, *words: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "imgbench.train", *WORDS, f"data.root={root}", f"hydra.run.dir={name}"]
        return subprocess.Popen([*line, *map(str, words)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    return run


def epochs(run: Run) -> list[dict[str, float]]:
    names = ("train/loss", "train/acc", "val/loss", "val/acc")
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{name: float(row[name]) for name in names} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_and_three_processes_give_the_numbers_of_one(start, tmp_path):
    for number in (1, 2, 3):
        words = (f"trainer.devices={number}", f"data.batch_size={18 // number}", "trainer.max_epochs=2")
        with start(str(number), *words) as process:
            process.communicate()
        assert process.returncode == 0
    alone, *together = (Run(tmp_path / str(number)) for number in (1, 2, 3))
    for run in together:
        assert epochs(run) == [pytest.approx(row, rel=1e-4) for row in epochs(alone)]
        assert (run.path / "split.csv").read_text() == (alone.path / "split.csv").read_text()
        accuracy, expected = (json.loads((found.path / "metrics.json").read_text()) for found in (run, alone))
        assert accuracy["test/acc"] == expected["test/acc"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_one_process_that_dies_ends_all(start, tmp_path):
    with start("run", "trainer.devices=2", "trainer.max_epochs=1000") as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch 1/"))
        family = psutil.Process(process.pid).children()
        next(child for child in family if "imgbench.train" in child.cmdline()).send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode != 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)
    assert len(epochs(Run(tmp_path / "run"))) >= 1
