"""What commands do where a directory is mounted read-only, of which even root's permissions make no exception."""

import shutil
import subprocess
from pathlib import Path

import pytest
from commands import command, forked

from imgbench import trust
from imgbench.run import Run


@pytest.fixture(autouse=True)
def mounts(tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    tried = forked((folder / "file").touch, read_only=folder)
    if "Read-only file system" not in tried.stderr:
        pytest.skip(f"this machine lets nobody mount: {tried.stderr.strip()}")


@pytest.fixture
def run(tiny_run, tmp_path) -> Run:
    return Run(Path(shutil.copytree(tiny_run.path, tmp_path / "run")))


def imgbench(folder: Path, name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs a command for which a folder is read-only."""
    done = command(name, *words, cwd=folder.parent, read_only=folder)
    assert "Traceback" not in done.stderr
    return done


def train_words(run: Run) -> list[object]:
    return ["--config-dir", run.path, "--config-name", "config"]


@pytest.mark.parametrize(
    ("command", "words", "mend"),
    [
        ("train", ["hydra.run.dir={out}/new"], "hydra.run.dir=DIR"),
        ("train", ["hydra.run.dir={out}"], "hydra.run.dir=DIR"),
        ("train", ["-m", "seed=1,2", "hydra.sweep.dir={out}/new"], "hydra.sweep.dir=DIR"),
        ("evaluate", ["--output", "{out}/new"], "Name another one"),
        ("predict", ["{image}", "--output", "{out}/new.csv"], "Name another place"),
        ("predict", ["{image}", "--save-images", "{out}/new"], "Name another place"),
        ("predict", ["{image}", "--sort-into", "{out}/new"], "Name another place"),
        ("compress", ["prune", "--output", "{out}/new"], "Name another one"),
        ("ladder", ["--output", "{out}/new"], "Name another one"),
        ("export", ["--output", "{out}/new.onnx", "--images", "0"], "--output FILE"),
    ],
)
def test_output_that_is_read_only_is_one_error_with_what_mends_it(command, words, mend, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    image = Path(run.config["data"]["root"]) / "cat" / "0.png"
    first = train_words(run) if command == "train" else [run.path]
    done = imgbench(out, command, *first, *(word.format(out=out, image=image) for word in words))
    assert done.returncode == 2, done.stderr
    error = done.stderr[done.stderr.index("\nError: ") :]
    assert error.count("Error") == 1
    assert str(out) in error
    assert "Read-only file system" in error
    assert mend in error
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_run_that_is_read_only_serves_all_that_only_read_it(run, tmp_path):
    image = Path(run.config["data"]["root"]) / "cat" / "0.png"
    for name, words in [
        ("predict", [image]),
        ("evaluate", []),
        ("export", ["--output", tmp_path / "m.onnx", "--images", 2]),
        ("train", ["--resume"]),
    ]:
        words = [*words, run.path] if name == "train" else [run.path, *words]
        done = imgbench(run.path, name, *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.onnx").is_file()


def test_run_that_is_read_only_is_not_trained_on_and_says_how_it_goes_on(run):
    done = imgbench(run.path, "train", "--resume", run.path, "trainer.max_epochs=2")
    assert done.returncode == 2
    assert f"{run.path}/run.json: Read-only file system" in done.stderr
    assert "--resume run hydra.run.dir=DIR" in done.stderr
    done = imgbench(run.path, "export", run.path, "--images", "0")
    assert done.returncode == 2
    assert f"{run.path}/model.onnx cannot be written: Read-only file system" in done.stderr
    assert "--output FILE" in done.stderr


@pytest.mark.slow
def test_cache_that_is_read_only_is_said_and_done_without(run, tmp_path, cache_home):
    done = imgbench(cache_home, "train", *train_words(run), f"hydra.run.dir={tmp_path}/new")
    assert done.returncode == 0, done.stderr
    assert "cannot be written (Read-only file system)" in done.stdout + done.stderr
    assert "IMGBENCH_CACHE=DIR moves it" in done.stdout + done.stderr
    assert Run(tmp_path / "new").info["status"] == "finished"
    done = imgbench(cache_home, "train", "data=digits", f"hydra.run.dir={tmp_path}/digits")
    assert done.returncode == 2
    assert "IMGBENCH_CACHE=DIR" in done.stderr


def test_a_package_that_is_read_only_serves_every_step_of_a_run(run, tmp_path):
    package, image = Path(trust.__file__).parent, next(Path(run.config["data"]["root"]).rglob("*.png"))
    for name, *words in (
        ("train", *train_words(run), f"hydra.run.dir={tmp_path / 'new'}", "trainer.max_epochs=1"),
        ("predict", run.path, image, "--output", tmp_path / "answers.csv"),
        ("export", run.path, "--output", tmp_path / "new.onnx", "--images", "0"),
    ):
        done = command(name, *words, cwd=tmp_path, read_only=package)
        assert done.returncode == 0, done.stderr
