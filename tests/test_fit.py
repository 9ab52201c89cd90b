"""The phases of a run: what is refused, what survives a full disk, and what is completed afterwards."""

import json
import resource
import shutil
import sys
from collections.abc import Sequence

import pytest
import torch
from commands import forked
from omegaconf import OmegaConf

from imgbench.errors import UserError
from imgbench.experiment.build import build_data_of
from imgbench.experiment.compose import override
from imgbench.report.conclude import conclude
from imgbench.run import RESULTS, Run
from imgbench.train import train


@pytest.fixture
def killed(tiny_run, tmp_path) -> Run:
    """A run that was killed after its last epoch, before its evaluation."""
    run = Run(tmp_path / "killed")
    shutil.copytree(tiny_run.path, run.path)
    for name in (*RESULTS, "curves.png", "confusion.png"):
        (run.path / name).unlink()
    run.note(status="running")
    return run


@pytest.mark.parametrize("place", ["killed", "new"])
def test_run_killed_after_its_last_epoch_is_completed_by_resuming_it(place, killed, tiny_run, tmp_path):
    run = Run(tmp_path / place)
    train(override(killed, [f"ckpt_path={killed.last}"]), run)
    assert run.info["status"] == "finished"
    assert json.loads((run.path / "metrics.json").read_text()) == json.loads(
        (tiny_run.path / "metrics.json").read_text()
    )
    assert (run.path / "metrics.csv").read_text() == (tiny_run.path / "metrics.csv").read_text()
    assert {path.name for path in run.path.iterdir()} == {path.name for path in tiny_run.path.iterdir()}
    weights = [torch.load(found.best, weights_only=True)["state_dict"] for found in (run, tiny_run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert run.last.is_file()


def test_finished_run_has_nothing_left_to_do_and_stays_finished(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run.path, run.path)
    config = override(run, [f"ckpt_path={run.last}"])
    for place in (run, Run(tmp_path / "new")):
        with pytest.raises(UserError, match=r"has trained 1 epochs.*nothing is left to do\. Raise it"):
            train(config, place)
    assert run.info == tiny_run.info
    assert run.concluded


def test_resumed_run_forgets_the_results_of_fewer_epochs(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run.path, run.path)
    (run.path / "report.html").write_text("old")
    train(override(run, [f"ckpt_path={run.last}", "trainer.max_epochs=2"]), run)
    assert len((run.path / "metrics.csv").read_text().splitlines()) == 3
    assert (run.path / "report.html").read_text() != "old"


def test_conclusion_needs_the_run_directory_only(killed, tiny_run, capsys):
    conclude(Run.open(killed.path), build_data_of(killed))
    assert killed.concluded
    assert "Test accuracy" in capsys.readouterr().out
    assert (killed.path / "predictions.csv").read_text() == (tiny_run.path / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("data.image_size", "big", r"data\.image_size=big, but it should be a whole number"),
        ("data.image_size", 10**9, r"data\.image_size=1000000000, but it should be 1 to"),
        ("data.batch_size", 0, r"data\.batch_size=0, but it should be 1 to"),
        ("optimizer.lr", -1, r"optimizer\.lr=-1, but it should be 0 to"),
        ("optimizer.foo", 1, r"optimizer\.foo: torch\.optim\.Adam takes params, lr"),
        ("data", 3, r"data=3, but it should be .*folder"),
        ("optimizer", {}, r"optimizer=\{\}, but it should be adam or adamw or sgd"),
        ("optimizer", {"_target_": "torch.optim.Nothing", "lr": 1}, r"optimizer: .*torch\.optim\.Nothing"),
        (
            "callbacks.x",
            {"_target_": "imgbench.training.callbacks.write_atomically"},
            r"callbacks defines no write_atom",
        ),
        ("objective._target_", "imgbench.training.classifier.instantiate", r"classifier defines no instantiate"),
        ("callbacks.x", 5, r"callbacks\.x=5, but it has no _target_"),
        ("callbacks.x", {"a": 1}, r"callbacks\.x=.*, but it has no _target_"),
        ("trainer", None, r"trainer=None, but it should be default"),
        ("seed", "x", r"seed='x', but it should be a whole number"),
    ],
)
def test_wrong_type_in_a_composed_configuration_is_named(entry, value, named, tiny_run, tmp_path):
    config = override(tiny_run)
    OmegaConf.update(config, entry, value, merge=False, force_add=True)
    with pytest.raises(UserError, match=named):
        train(config, Run(tmp_path / "run"))
    assert Run(tmp_path / "run").info["status"] == "failed"


def train_where_files_stay_small(run: Run, size: int, place: Run, words: Sequence[str]) -> None:
    config = override(run, words)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        train(config, place)
    except UserError as error:
        sys.exit(str(error))


def train_with_small_files_only(run: Run, size: int, place: Run, *words: str) -> str:
    """Trains where no file can grow beyond `size` bytes, as on a disk that is full; returns the error."""
    done = forked(train_where_files_stay_small, run, size, place, words)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("size", "named", "kept"),
    [
        (1_000, "config.yaml: File too large", "Nothing of the training was finished. hydra.run.dir=DIR"),
        (200_000, "last.ckpt: File too large", "Kept: {place}/checkpoints/best.ckpt"),
    ],
)
def test_full_disk_names_the_file_and_what_is_kept(size, named, kept, tiny_run, tmp_path):
    place = Run(tmp_path / "run")
    message = train_with_small_files_only(tiny_run, size, place)
    assert named in message
    assert kept.format(place=place.path) in message
    assert place.info["status"] == "failed"
    assert not list(place.path.rglob(".*"))


def test_checkpoint_that_no_longer_fits_leaves_the_earlier_ones_to_resume_from(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run.path, run.path)
    before = run.last.read_bytes()
    words = [f"ckpt_path={run.last}", "trainer.max_epochs=2"]
    message = train_with_small_files_only(run, 200_000, run, *words)
    assert "last.ckpt: File too large" in message
    assert f"--resume {run.path} hydra.run.dir=DIR" in message
    assert run.last.read_bytes() == before
    train(override(run, words), run)
    assert run.info["status"] == "finished"
