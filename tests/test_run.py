"""The run directory."""

import csv
import json
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest
import yaml

from imgbench import trust
from imgbench.errors import UserError
from imgbench.experiment.compose import compose, override, storable
from imgbench.files import write_atomically
from imgbench.fingerprint import fingerprint_of
from imgbench.run import Run
from imgbench.train import train
from imgbench.trust import check_target, refers_to_plain_entries, trust_target


@pytest.fixture
def run(tiny_run, tmp_path) -> Run:
    """A run that a test may damage."""
    shutil.copytree(tiny_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt", "*.png", "*.html"))
    return Run(tmp_path / "run")


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


def test_finished_run_stays_one_when_work_in_its_directory_does_not_begin(tiny_run, tmp_path):
    shutil.copytree(tiny_run.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    with pytest.raises(UserError), run.recorded():
        raise UserError("nothing is left to do")
    assert run.info == tiny_run.info
    with pytest.raises(UserError), run.recorded():
        run.forget_results()  # as training does when it begins
        raise UserError("damaged images")
    assert run.info["status"] == "failed"


@pytest.mark.parametrize("kept", ["nothing", "best.ckpt", "last.ckpt"])
def test_full_disk_says_what_is_kept(kept, tmp_path):
    run = Run(tmp_path)
    run.best.parent.mkdir()
    if kept != "nothing":
        (run.best.parent / kept).touch()
    with pytest.raises(UserError, match=r"metrics.csv: No space left") as caught, run.recorded():
        raise OSError(28, "No space left on device", str(tmp_path / "metrics.csv"))
    named = {
        "nothing": "Nothing of the training",
        "best.ckpt": f"Kept: {run.best}",
        "last.ckpt": f"--resume {tmp_path} hydra.run.dir=DIR",
    }
    assert named[kept] in str(caught.value)
    assert run.info["status"] == "failed"


def test_run_is_found_by_its_directory_and_by_its_checkpoint(tiny_run):
    assert Run.open(tiny_run.path) == Run.open(tiny_run.best) == tiny_run


def test_missing_run_names_the_latest_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("whole", "failed"):
        run = Run(tmp_path / "outputs" / "digits" / "cnn" / name)
        (run.path / "checkpoints").mkdir(parents=True)
        run.note(status="finished")
        (run.path / "config.yaml").touch()
    Run(tmp_path / "outputs" / "digits" / "cnn" / "whole").best.touch()
    with pytest.raises(UserError, match="outputs/digits/cnn/whole") as caught:
        Run.open("outputs/digits/cnn/then")
    assert "failed" not in str(caught.value)


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
    monkeypatch.setattr("imgbench.trust._own_targets", set())
    trust_target("my_nets.Net")
    check_target("my_nets.Net", "model._target_")
    with pytest.raises(UserError, match="is not imported"):
        check_target("my_nets.Other", "model._target_")


@pytest.mark.parametrize("file", ["timm.py", "timm/__init__.py"])
def test_trusted_name_is_that_of_an_installed_package_not_of_a_file_at_hand(tmp_path, monkeypatch, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("raise AssertionError('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(UserError, match=r"timm.Net is not imported"):
        check_target("timm.Net", "model._target_")


def test_write_that_fails_names_the_file(tmp_path):
    with pytest.raises(OSError, match="nowhere") as caught:
        write_atomically(tmp_path / "nowhere" / "file.txt", "text")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file.txt")


def test_configuration_holds_nothing_of_hydra_and_no_alias(run):
    shared = {"scale": [0.5, 1.0]}
    run.write_config({**run.stored_config, "augment": shared, "extra": shared})
    text = (run.path / "config.yaml").read_text()
    assert set(yaml.safe_load(text)) >= {"data", "model", "seed"}
    assert "hydra" not in yaml.safe_load(text)
    assert "*" not in text
    assert run.config["extra"] == shared


LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\n"
GROWING = "a0: x\na1: ${a0}${a0}\na2: ${a1}${a1}\na3: ${a2}${a2}\n"


@pytest.mark.parametrize(
    "content",
    [
        "", "- a\n", "text", "3", "{", "data: 3", "data: null", "data: [a]", "x: y", "data: {root: [a]}",
        "!!python/object/apply:os.system ['touch marker']", "data: {}\nx: !!python/name:os.system ''",
        "data: {}\n" + LAUGHS, "data: {}\na: &a [*a]", "data: {}\n" + GROWING, "data: {}\nx: " + "[" * 1_500,
        "data: {}\nx: " + "y" * 200_000, "data: {}\ndata: {}",
        "data: {}\nx: ${oc.env:HOME}", "data: {}\nx: ${oc.decode:'${oc.env:HOME}'}", "data: {}\n${oc.env:HOME}: x",
        "data: {}\na: oc\nx: ${${a}.env:HOME}", r"{data: {}, x: '\${oc.env:HOME}'}", "data: {}\nx: ${.:}",
        "data: {}\nx: ${oc.env:HOME", "data: {}\nx: ${hydra:runtime.cwd}", "data: {}\nx: ${now:%Y}",
        "data: {}\nx: ${data}", "data: {}\nx: ${x}", "data: {}\nx: ${..x}", "data: {}\nmodel: 3",
        "data: {}\ncallbacks: 5", "data: {}\nseed: x", "data: {}\nlogger: 3", "data: {}\nmonitor: 3",
        "data: {}\ndata_name: ../../x", "data: {}\nmodel_name: /x", "data: {_target_: 3}",
        "data: {}\nx: os.system\ny: {_target_: '${x}'}", "data: {}\ninit_from: [x]",
        "data: {}\ncallbacks: {x: {_target_: imgbench.training.callbacks.EpochTable, "
        "path: {_target_: imgbench.training.callbacks.Path, _args_: [x]}}}",
        "data: {}\ncallbacks: {x: {_target_: imgbench.training.callbacks.EpochTable, "
        "_args_: [[{_target_: imgbench.training.callbacks.Path}]]}}",
    ],
)  # fmt: skip
def test_foreign_or_damaged_configuration_is_named_and_does_nothing(content, run, monkeypatch):
    monkeypatch.chdir(run.path)
    (run.path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml is damaged") as caught:
        assert run.config
    assert os.environ["HOME"] not in str(caught.value)
    assert not Path("marker").exists()


def rewrite(run, **changes):
    """As by another process: what this one writes is the user's own."""
    content = yaml.safe_load((run.path / "config.yaml").read_text())
    for name, value in changes.items():
        content[name] = {**(content.get(name) or {}), **value}
    (run.path / "config.yaml").write_text(yaml.safe_dump(content))


LIGHTNING = "lightning.pytorch"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"callbacks": {"x": {"_target_": f"{LIGHTNING}.callbacks.ModelCheckpoint", "dirpath": "/x"}}}, "callbacks.x"),
        ({"callbacks": {"best": {"_target_": f"{LIGHTNING}.callbacks.ModelCheckpoint"}}}, "callbacks.best._target_"),
        ({"callbacks": {"last": {"_target_": "imgbench.training.callbacks.LastCheckpoint", "dirpath": "/x"}}},
         "callbacks.last.dirpath"),
        ({"callbacks": {"last": {"_target_": "imgbench.training.callbacks.LastCheckpoint", "share": [1]}}},
         "callbacks.last.share"),
        ({"callbacks": {"last": {"_target_": "imgbench.training.callbacks.LastCheckpoint", "_partial_": True}}},
         "callbacks.last._partial_"),
        ({"callbacks": {"best": {"_target_": "imgbench.training.callbacks.BestCheckpoint", "monitor": "../../x"}}},
         "callbacks.best.monitor"),
        ({"callbacks": {"best": 3}}, "callbacks.best"),
        ({"logger": {"_target_": f"{LIGHTNING}.loggers.CSVLogger", "save_dir": "x"}}, "logger"),
        ({"logger": {"_target_": f"{LIGHTNING}.loggers.TensorBoardLogger", "save_dir": "/x"}}, "logger.save_dir"),
        ({"logger": {"_target_": f"{LIGHTNING}.loggers.TensorBoardLogger", "save_dir": "outputs/tensorboard",
                     "name": "../x"}}, "logger.name"),
        ({"logger": {"_target_": f"{LIGHTNING}.loggers.WandbLogger", "entity": "mallory"}}, "logger.entity"),
        ({"logger": {"save_dir": "/x"}}, "logger.save_dir"),
    ],
)  # fmt: skip
def test_callbacks_and_loggers_of_a_foreign_run_are_those_of_conf(changes, named, run):
    rewrite(run, **changes)
    with pytest.raises(UserError, match=rf"config\.yaml: {re.escape(named)} is .*, expected what conf/"):
        assert run.config


def test_address_of_a_foreign_runs_logger_is_that_of_the_users_own_environment(run, monkeypatch):
    evil = {"_target_": f"{LIGHTNING}.loggers.MLFlowLogger", "tracking_uri": "http://evil.example"}
    rewrite(run, logger=evil)
    assert run.config["logger"]["tracking_uri"] == "sqlite:///outputs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine.example")
    assert run.config["logger"]["tracking_uri"] == "http://mine.example"


@pytest.mark.parametrize("logger", ["none", "tensorboard", "mlflow", "wandb"])
@pytest.mark.parametrize("callbacks", ["default", "early_stopping", "ema"])
def test_callbacks_and_loggers_of_conf_are_read_from_a_run(callbacks, logger, run):
    words = [f"callbacks={callbacks}", f"logger={logger}", "callbacks.best.standard_errors=0.5",
             "+callbacks.last.share=1", "monitor=val/loss", "mode=min"]  # fmt: skip
    if logger == "wandb":
        words.append("logger.project=leaves")
    stored = storable(compose(words))
    (run.path / "config.yaml").write_text(yaml.safe_dump({**stored, "data": run.stored_config["data"]}))
    config = run.config
    assert config["callbacks"]["best"]["monitor"] == "val/loss"
    assert config["callbacks"]["last"]["share"] == 1
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))  # earlier versions resolved all references
    assert run.config == config


def test_callback_of_an_earlier_version_is_read(run):
    rewrite(run, callbacks={"ema": {"_target_": f"{LIGHTNING}.callbacks.EMAWeightAveraging", "decay": 0.9}})
    assert run.config["callbacks"]["ema"]["decay"] == 0.9


def test_users_own_callbacks_are_read_by_the_process_that_trained_and_where_they_are_trusted(run, monkeypatch):
    own = {"_target_": f"{LIGHTNING}.callbacks.LearningRateMonitor", "logging_interval": "epoch"}
    stored = run.stored_config
    run.write_config({**stored, "callbacks": {**stored["callbacks"], "lr": own}})
    assert run.config["callbacks"]["lr"] == own
    monkeypatch.setattr("imgbench.trust._own_configurations", set())
    with pytest.raises(UserError, match=rf"callbacks\.lr is .*\n.*IMGBENCH_TRUST={LIGHTNING}\.callbacks"):
        assert run.config
    monkeypatch.setenv("IMGBENCH_TRUST", f"{LIGHTNING}.callbacks")
    assert run.config["callbacks"]["lr"] == own


def test_configuration_that_is_no_utf8_is_named(run):
    (run.path / "config.yaml").write_bytes(b"data: {root: \xff}")
    with pytest.raises(UserError, match=r"config\.yaml is damaged"):
        assert run.config


def test_references_to_plain_entries_are_followed(run):
    (run.path / "config.yaml").write_text("data: {root: a, size: 3}\nx: ${data.size}\ny: ${data.root}_${data.size}")
    assert (run.config["x"], run.config["y"]) == (3, "a_3")
    assert run.stored_config["x"] == "${data.size}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("${a}", True), ("x${b.c}y", True), ("plain", True), ("${b}", False), ("${d}", False), ("${oc.env:A}", False),
     ("${a", False), (r"\${a}", False), ("${a}${", False), ("${long}", False)],
)  # fmt: skip
def test_what_refers_to_plain_entries(value, expected):
    content = {"a": 1, "b": {"c": "x"}, "d": "${a}", "long": "x" * 10_000}
    assert refers_to_plain_entries(value, content) is expected


def test_older_run_with_entries_of_hydra_is_read_without_them(run):
    stored = run.stored_config
    hydra = {"defaults": ["evil"], "hydra": {"run": {"dir": "/elsewhere"}, "job": {"env_set": {"A": "${oc.env:HOME}"}}}}
    (run.path / "config.yaml").write_text(yaml.safe_dump({**hydra, **stored}))
    assert run.stored_config == stored


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\0", "[" * 100_000, '{"status": 3}', '{"provenance": 1}'])
def test_damaged_run_json_is_named(content, run):
    (run.path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        assert run.info
    (run.path / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json does not exist"):
        assert run.info


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "a/../../b", "/etc/passwd", "//server/share/x", "", ".", "..", "a\0b"]
    + [r"C:\Windows\x", "C:x", r"\x", r"a\..\..\b"] * (os.name == "nt"),
)
def test_path_outside_the_data_is_refused(path, run):
    lines = list(csv.reader((run.path / "split.csv").read_text().splitlines()))
    lines[1][0] = path
    with (run.path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(
        UserError, match=r"split\.csv is damaged: line 2 has the path .* not a file below the data's folder"
    ):
        run.split_rows("train")


@pytest.mark.parametrize(
    ("path", "is_below"),
    [
        *((path, False) for path in (r"C:\x\y", "C:x", "C:/x", r"\x", r"\\server\x\y", r"\\?\C:\x", r"a\..\..\b")),
        *((path, True) for path in (r"cat\1.png", "cat/1.png", "猫/1.png", "..a/..b")),
    ],
)
def test_what_lies_below_the_data_is_told_by_the_rules_of_windows_there(path, is_below, monkeypatch):
    monkeypatch.setattr(trust, "PurePath", PureWindowsPath)
    assert trust.stays_below(path) == is_below


@pytest.mark.parametrize(
    "path",
    ["cat/a b=(1).png", "猫/图.png", "..a/..b", "a..b", "cat/caf\udce9.png", "cat/a,b\n.png"]
    + ["A: healthy/1.png", r"C:\x.png", r"a\..\..\b"] * (os.name == "posix"),
)
def test_awkward_path_below_the_data_is_read(path, run):
    row = [path, "cat", path, "test", "0" * 32]
    with (run.path / "split.csv").open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows([["path", "class", "group", "split", "hash"], row])
    assert [found["path"] for found in run.split_rows("test")] == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace("path,class", "class,path"),
        lambda text: text.replace(",group", ""),
        lambda text: text[: len(text) // 2],
        lambda text: text[:-10],
        lambda text: text.replace(",train,", ",training,"),
        lambda text: text.replace(",train,", ",,"),
        lambda text: text + "a,b\n",
        lambda text: text + 'a,"b',
        lambda text: text.replace("cat", "c\0t").replace(",train,", "\0"),
    ],
)
def test_damaged_split_is_named(damage, run):
    path = run.path / "split.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"split\.csv is damaged"):
        run.split_rows("test")


def test_missing_and_unreadable_files_are_named(run):
    (run.path / "split.csv").unlink()
    with pytest.raises(UserError, match=r"split\.csv does not exist"):
        run.split_rows("test")
    (run.path / "split.csv").mkdir()
    with pytest.raises(UserError, match=r"split\.csv cannot be read: Is a directory"):
        run.split_rows("test")


def test_notes_add_up(tmp_path):
    run = Run(tmp_path)
    run.note(a=1)
    run.note(b=2)
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": 1, "b": 2}


def test_two_processes_never_work_in_one_directory(run):
    def work() -> None:
        with run.recorded():
            pass

    with run.recorded(), ThreadPoolExecutor() as another:
        with pytest.raises(UserError, match=r"Another process is at work in .*hydra\.run\.dir=DIR"):
            another.submit(work).result()
        assert run.info["status"] == "running"
    assert run.info["status"] == "finished"
    with run.recorded():
        pass


def test_work_within_work_adds_to_what_is_recorded(tmp_path):
    run = Run(tmp_path)
    with run.recorded(seed=1):
        with run.recorded(amount=0.5):
            pass
        assert run.info["status"] == "running"
    assert (run.info["status"], run.info["seed"], run.info["amount"]) == ("finished", 1, 0.5)


def test_seconds_do_not_depend_on_the_clock(tmp_path, monkeypatch):
    times = iter([2e9, 1e9, 0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    with Run(tmp_path).recorded():
        pass
    assert 0 <= Run(tmp_path).info["seconds"] < 100


def test_what_failed_is_not_offered_as_a_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.path, tmp_path / "outputs" / "whole")
    (tmp_path / "outputs" / "failed").mkdir()
    Run(tmp_path / "outputs" / "failed").note(status="failed")
    with pytest.raises(UserError) as error:
        Run.open("nowhere")
    assert "outputs/whole" in str(error.value) and "failed" not in str(error.value)


def test_endless_training_that_was_interrupted_is_not_finished(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.write_config({**run.stored_config, "trainer": {**run.stored_config["trainer"], "max_epochs": -1}})
    run.note(status="interrupted")
    assert run.status == "interrupted"


def test_a_directory_that_is_trained_again_keeps_nothing_of_the_run_before(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    of_other_work = {"method": "prune", "compressed_from": {"path": "x"}, "facts": {}, "asked": {}, "compared": []}
    run.note(cost={"parameters": 1}, parent_cost={"parameters": 2}, best_epoch=99, **of_other_work)
    stale = ["model.onnx", "small.onnx", "export.json", "small/int8/run.json", "audit.html", "pairs.png",
             "left_out.csv", "candidates/cnn/run.json", "checkpoints/init.ckpt", "learning_curve.json"]  # fmt: skip
    users = ["notes.txt", "steps/1.jpg"]
    for name in (*stale, *users):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    (run.path / "study.json").write_text(json.dumps({"target": "drop<=1pt", "budget": 1, "small": {}}))
    words = ["trainer.max_epochs=1", "seed=2"]
    train(override(run, words), run)
    assert {"cost", "parent_cost", *of_other_work}.isdisjoint(run.info)
    assert (run.info["seed"], run.info["status"]) == (2, "finished")
    assert run.info["best_epoch"] == 1
    assert not any((run.path / name).exists() for name in stale)
    assert all((run.path / name).is_file() for name in users)
    assert json.loads((run.path / "study.json").read_text()) == {"target": "drop<=1pt", "budget": 1}


def test_a_run_holds_what_it_was_asked_for_and_nothing_else(tiny_run, tmp_path):
    images, config = tiny_run.info["provenance"]["split_hash"], tiny_run.stored_config
    assert tiny_run.info["fingerprint"] == fingerprint_of(config, images)
    assert tiny_run.holds(fingerprint_of(config, images))
    moved = {**config, "data": {**config["data"], "root": "elsewhere"}, "report": {}}
    assert tiny_run.holds(fingerprint_of(moved, images))
    assert not tiny_run.holds(fingerprint_of(config, "0" * 32))
    assert not tiny_run.holds(fingerprint_of({**config, "trainer": {"max_epochs": 7}}, images))
    earlier = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    earlier.note(fingerprint=None)  # as imgbench did not know them
    assert earlier.holds(fingerprint_of(config, images))
