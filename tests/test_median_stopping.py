"""Runs of a search that are ended because half of the others were ahead of them."""

import csv
import json
from typing import Any

import pytest
from conftest import unconcluded

from imgbench.experiment.compose import compose
from imgbench.report.conclude import conclude
from imgbench.run import Run
from imgbench.sweep.resume import resumed
from imgbench.train import train
from imgbench.training.callbacks import write_epochs
from imgbench.training.median_stopping import median_of_averages, metric_by_epoch

WORDS = ["data=folder", "model=cnn", "data.image_size=20", "data.batch_size=4", "data.audit=false",
         "data.thumbnails=false", "trainer.max_epochs=4", "augment=none", "scheduler=constant",
         "+median_stopping.startup_runs=2"]  # fmt: skip


@pytest.fixture
def train_beside(make_folder, tmp_path):
    """Trains a run in the directory of a sweep, beside runs with these validation accuracies in each epoch."""

    def run(accuracies: list[list[float]], *words: str, sweep: bool = True, conclude: Any = unconcluded) -> Run:
        root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
        folder = tmp_path / "sweep"
        folder.mkdir()
        if sweep:
            (folder / "multirun.yaml").touch()
        for number, values in enumerate(accuracies):
            (folder / str(number)).mkdir()
            rows = [{"epoch": epoch, "val/acc": value, "val/loss": 0} for epoch, value in enumerate(values, 1)]
            write_epochs(folder / str(number) / "metrics.csv", rows)
        result = Run(folder / "9")
        train(compose([*WORDS, f"data.root={root}", *words]), result, conclude)
        return result

    return run


def epochs(run: Run) -> int:
    with (run.path / "metrics.csv").open(newline="") as file:
        return len(list(csv.DictReader(file)))


def test_median_is_that_of_the_averages_of_the_runs_that_came_as_far():
    assert median_of_averages([[0.0, 1.0, 9.0], [0.3, 0.5], [0.9], [0.6, 0.6]], 2) == pytest.approx(0.5)


def test_hopeless_run_ends_complete_and_marked_and_is_not_failed(train_beside):
    run = train_beside([[1.5, 1.5], [1.5, 1.5], [0.1]], "+median_stopping.warmup=0.25", conclude=conclude)
    assert epochs(run) == 2  # a quarter of four epochs is given to all
    info = run.info
    assert info["status"] == "finished"
    assert (info["pruned"]["epoch"], info["pruned"]["median"]) == (2, 1.5)
    assert run.concluded
    assert run.last.is_file()
    assert "median_stopping" not in run.config  # trained again alone, it is trained to its end


@pytest.mark.parametrize(
    ("others", "words", "sweep"),
    [
        ([[1.5, 1.5], [1.5]], [], True),  # too few have come as far
        ([[-1, -1], [-1, -1], [2, 2]], [], True),  # half of them are behind
        ([[1.5] * 4, [1.5] * 4], [], False),  # whatever they are, they are no runs of one sweep
        ([[-1] * 4, [-1] * 4], ["monitor=val/loss", "mode=min", "+median_stopping.warmup=1"], True),
    ],
)
def test_others_are_trained_to_their_end(others, words, sweep, train_beside):
    run = train_beside(others, *words, sweep=sweep)
    assert epochs(run) == 4
    assert "pruned" not in run.info


def test_lower_is_better_where_the_monitor_says_so(train_beside):
    run = train_beside([[0.5] * 4, [0.5] * 4], "monitor=val/loss", "mode=min", "optimizer.lr=0")
    assert run.info["pruned"]["epoch"] == 2  # since a loss of 0.69 is worse than one of 0
    assert run.info["pruned"]["best"] > run.info["pruned"]["median"] == 0


def test_hopeless_run_that_was_killed_in_its_evaluation_trains_no_further(train_beside):
    run = train_beside([[1.5] * 4, [1.5] * 4], conclude=conclude)
    pruned = run.info["pruned"]
    (run.path / "report.html").unlink()
    (run.path / "run.json").write_text(json.dumps({**run.info, "status": "running"}))
    train(compose([*WORDS, f"data.root={run.config['data']['root']}", "ckpt_path=auto"]), run)
    assert epochs(run) == 2
    assert run.info["pruned"] == pruned
    assert resumed(["--resume", str(run.path)]) is None


def test_damaged_table_of_a_neighbour_does_no_harm(tmp_path):
    assert metric_by_epoch(tmp_path, "val/acc") == []
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n1,0.5\n2,\n")
    assert metric_by_epoch(tmp_path, "val/acc") == []
    (tmp_path / "metrics.csv").write_text("epoch,val/loss\n1,0.5\n")
    assert metric_by_epoch(tmp_path, "val/acc") == []
