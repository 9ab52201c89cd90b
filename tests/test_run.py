"""The run directory."""

import pytest

from imgbench.errors import UserError
from imgbench.run import Run, write_atomically


def test_status_follows_the_work(tmp_path):
    run = Run(tmp_path)
    with run.recorded(seed=1):
        assert run.info["status"] == "running"
    assert run.info["status"] == "finished"
    assert run.info["seed"] == 1
    assert "torch" in run.info["versions"]


@pytest.mark.parametrize(("error", "status"), [(UserError("x"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_status_tells_how_the_work_ended(error, status, tmp_path):
    with pytest.raises(type(error)), Run(tmp_path).recorded():
        raise error
    assert Run(tmp_path).info["status"] == status


def test_run_is_found_by_its_directory_and_by_its_checkpoint(tiny_run):
    assert Run.open(tiny_run.path) == Run.open(tiny_run.best) == tiny_run


def test_missing_run_names_the_latest_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "digits" / "cnn" / "now").mkdir(parents=True)
    Run(tmp_path / "outputs" / "digits" / "cnn" / "now").note(status="finished")
    with pytest.raises(UserError, match="outputs/digits/cnn/now"):
        Run.open("outputs/digits/cnn/then")


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
