"""The run directory."""

import sys

import pytest

from imgbench.errors import UserError
from imgbench.run import Run, check_target, trust_target, write_atomically


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


@pytest.mark.parametrize(
    "target", ["imgbench.models.cnn.CNN", "torch.optim.AdamW", "torch.nn.Linear", "torchvision.models.ResNet"]
)
def test_targets_of_trusted_packages_pass(target):
    check_target(target, "model._target_")


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.load", "torch.hub.load", "joblib.load", "pathlib.Path.unlink", "torchvision_evil.Net",
     "imgbench_evil.Net", "torch.nnevil.Net", "builtins.eval", "hydra.utils.instantiate"],
)  # fmt: skip
def test_targets_of_other_packages_are_refused_with_what_to_do(target):
    with pytest.raises(UserError, match=rf"(?s)objective\._target_={target} is not imported.*IMGBENCH_TRUST="):
        check_target(target, "objective._target_")


@pytest.mark.parametrize(
    "target", [None, 3, ["torch.nn.Linear"], "", "Linear", "torch.nn.", "torch..nn", "torch.nn.a b"]
)
def test_what_is_no_dotted_name_is_no_target(target):
    with pytest.raises(UserError, match=r"model\._target_=.*dotted name of a class"):
        check_target(target, "model._target_")


def test_users_own_modules_pass_once_they_are_trusted(monkeypatch):
    monkeypatch.setenv("IMGBENCH_TRUST", "my_nets, other.deep")
    check_target("my_nets.Net", "model._target_")
    check_target("other.deep.Net", "model._target_")
    with pytest.raises(UserError, match="is not imported"):
        check_target("other.Net", "model._target_")
    with pytest.raises(UserError, match="is not imported"):
        check_target("my_nets_too.Net", "model._target_")


def test_what_the_users_configuration_names_passes_and_nothing_else(monkeypatch):
    monkeypatch.setattr("imgbench.run._own_targets", set())
    trust_target("my_nets.Net")
    check_target("my_nets.Net", "model._target_")
    with pytest.raises(UserError, match="is not imported"):
        check_target("my_nets.Other", "model._target_")


@pytest.mark.parametrize("file", ["timm.py", "timm/__init__.py", "timm/nets.py"])
def test_trusted_name_is_that_of_an_installed_package_not_of_a_file_at_hand(tmp_path, monkeypatch, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise AssertionError('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(UserError, match=r"timm.Net is not imported"):
        check_target("timm.Net", "model._target_")
