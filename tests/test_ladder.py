"""The ladder: rungs made once, measured on one scale, and the best that meets a target."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from filelock import FileLock

from imgbench import ladder
from imgbench.compression.ladder import Rung, table_lines
from imgbench.compression.methods import Options, compress
from imgbench.errors import UserError
from imgbench.evaluation.metrics import paired_difference, proportion
from imgbench.run import Run, sha256
from imgbench.training.checkpoint import load_classifier

RUNGS = "distilled,distilled_int8"


def climb(run, *words):
    line = [sys.executable, "-m", "imgbench.ladder", str(run), "--rungs", RUNGS, *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, make_folder, train_run):
    folder = tmp_path_factory.mktemp("ladder")
    root = make_folder(folder / "images", {"a": 30, "b": 30})
    return train_run(root, folder / "run", "trainer.max_epochs=2", "data.batch_size=8")


def test_rungs_are_made_measured_and_not_made_again(teacher):
    done = climb(teacher.path, "--target", "size<=5MB")
    assert done.returncode == 0, done.stderr
    folder = teacher.path.with_name("run_ladder")
    rungs = {rung["name"]: rung for rung in json.loads((folder / "ladder.json").read_text())}
    assert list(rungs) == ["teacher", "pruned_30", "pruned_60", "distilled", "distilled_int8"]
    assert rungs["distilled_int8"]["size_mb"] < rungs["distilled"]["size_mb"] / 2
    assert rungs["distilled_int8"]["parameters"] == rungs["distilled"]["parameters"]
    assert rungs["teacher"]["difference"]["value"] == rungs["teacher"]["val_drop"] == 0
    assert all(rung["accuracy"]["n"] == len(teacher.split_rows("test")) for rung in rungs.values())
    assert (folder / "ladder.png").stat().st_size > 1000
    assert "| distilled_int8 |" in (folder / "ladder.md").read_text()
    assert "Best rung with size<=5MB" in done.stdout

    before = (folder / "distilled" / "run.json").read_text()
    shutil.rmtree(folder / "distilled_int8" / "checkpoints", ignore_errors=True)
    Run(folder / "distilled_int8").note(status="interrupted")
    again = climb(teacher.path, "--target", "size<=0.001MB", "--reference", str(folder / "distilled"))
    assert (folder / "distilled" / "run.json").read_text() == before
    assert Run(folder / "distilled_int8").info["status"] == "finished"
    assert again.returncode == 2
    assert "no rung meets it" in again.stderr
    assert "distilled_int8: size" in again.stderr
    with_reference = {rung["name"]: rung for rung in json.loads((folder / "ladder.json").read_text())}
    assert list(with_reference)[:2] == ["reference", "teacher"]
    assert with_reference["reference"]["difference"] == rungs["distilled"]["difference"]
    assert with_reference["teacher"]["difference"]["value"] == 0
    assert "Smaller and faster than `reference`" in (folder / "ladder.md").read_text()


def test_another_head_starts_on_the_body_it_is_given(tmp_path, make_folder, train_run):
    root = make_folder(tmp_path / "images", {"a": 12, "b": 12})
    parent = train_run(root, tmp_path / "run", "model=vgg16", "+model.blocks=[[4],[8]]", "head=gap")
    run = Run(tmp_path / "slim")
    compress("reuse", parent, run, Options(), ["head=slim", "model.hidden=[16]", "optimizer.lr=0"])
    before, after = load_classifier(parent.best).state_dict(), load_classifier(run.best).state_dict()
    body = [name for name in before if name.startswith("model.features.")]
    assert len(body) == 4
    assert all(torch.equal(before[name], after[name]) for name in body)
    assert after["model.classifier.0.weight"].shape == (16, 8 * 7 * 7)
    assert run.config["trainer"]["max_epochs"] == 2


def test_without_the_body_a_model_is_trained_anew(teacher, tmp_path, caplog):
    caplog.set_level("INFO")
    run = Run(tmp_path / "vgg")
    compress("reuse", teacher, run, Options(), ["model=vgg16", "head=gap", "+model.blocks=[[4],[8]]"])
    assert "has another body: the model is trained anew" in caplog.text
    assert run.config["optimizer"]["lr"] == 3e-3  # suits batch normalisation
    assert run.config["trainer"]["max_epochs"] == teacher.config["trainer"]["max_epochs"]


def test_networks_whose_batch_normalisation_is_no_choice_are_reused(teacher, tmp_path):
    run = Run(tmp_path / "dense")
    compress("reuse", teacher, run, Options(), ["head=slim", "model.hidden=[8]", "optimizer.lr=0"])
    before, after = load_classifier(teacher.best).state_dict(), load_classifier(run.best).state_dict()
    assert torch.equal(before["model.features.0.weight"], after["model.features.0.weight"])
    assert after["model.classifier.1.weight"].shape == (8, 64 * 7 * 7)


def test_a_body_without_batch_normalisation_is_trained_anew(teacher, tmp_path):
    run = Run(tmp_path / "cnn")
    compress("reuse", teacher, run, Options(), ["model=cnn"])
    assert run.info["status"] == "finished"


def test_rungs_of_another_run_are_not_taken_for_its_own(teacher, tmp_path):
    rung = Run(tmp_path / "int8")
    rung.path.mkdir()
    with rung.recorded(seed=0, compressed_from={"path": "elsewhere", "sha256": "0" * 64}):
        pass
    with pytest.raises(UserError, match=r"int8 was not made of .*/run as it is now"):
        ladder.make({"int8": {"method": "quantize"}}, teacher, tmp_path, [])


def test_rung_that_another_process_makes_is_waited_for_and_taken(teacher, tmp_path, capsys):
    taken = FileLock(tmp_path / ".int8.lock")
    taken.acquire()
    with ThreadPoolExecutor() as pool:
        runs = pool.submit(ladder.make, {"int8": {"method": "quantize"}}, teacher, tmp_path, [])
        shown = ""
        while "waiting" not in shown and not runs.done():
            shown += capsys.readouterr().out
        run = Run(tmp_path / "int8")
        run.path.mkdir()
        with run.recorded(seed=0, compressed_from={"path": "", "sha256": sha256(teacher.best)}):
            pass
        taken.release()
        assert runs.result() == {"int8": run}
    assert "[1/1] int8: another process makes it; waiting" in shown
    assert "int8: is there already" in capsys.readouterr().out


def test_rungs_bring_their_parents_along():
    assert list(ladder.load_plan("gap_pruned_int8")) == ["gap", "gap_pruned", "gap_pruned_int8"]


def test_parents_stand_before_their_rungs():
    names = list(ladder.load_plan(None))
    for name, spec in ladder.load_plan(None).items():
        assert "parent" not in spec or names.index(spec["parent"]) < names.index(name)


def test_unknown_rung_is_an_error_that_lists_them():
    with pytest.raises(UserError, match=r"--rungs tiny: there are slim, gap"):
        ladder.load_plan("tiny")


def rung(name, size_mb, val_drop):
    number = proportion(9, 10)
    return Rung(name, 32, False, 1, 1, size_mb, 1.0, 2.0, number, number, val_drop)


def test_best_rung_is_the_most_accurate_on_validation_images_then_the_smallest():
    rungs = [rung("large", 100, 0.0), rung("middle", 5, 0.5), rung("small", 1, 0.5), rung("tiny", 0.1, 3.0)]
    assert ladder.best_rung(rungs, "drop<=1pt").name == "large"
    assert ladder.best_rung(rungs, "size<=10MB").name == "small"
    assert ladder.best_rung(rungs, "size<=0.5MB").name == "tiny"
    with pytest.raises(UserError, match="no rung meets it"):
        ladder.best_rung(rungs, "size<=0.5MB,drop<=1pt")


def test_table_writes_no_exponents():
    lines = table_lines([rung("large", 12345.6, 0), rung("small", 1.2345, 0)], 1)
    assert "| 12,346 | 1 |" in lines[-2]
    assert "| 1.23 | 10,000 |" in lines[-1]


def test_paired_difference_agrees_with_agresti_and_min():
    # 100 images: 12 that only the first has right, 4 that only the second has right.
    first = np.array([True] * 12 + [False] * 4 + [True] * 84)
    second = np.array([False] * 12 + [True] * 4 + [True] * 84)
    number = paired_difference(first, second)
    assert number["value"] == pytest.approx(0.08)
    # (12.5 - 4.5) / 102 -+ 1.96 sqrt(17 - 64 / 102) / 102
    assert (number["low"], number["high"]) == pytest.approx((0.00066, 0.15620), abs=1e-4)
    assert (number["gained"], number["lost"]) == (12, 4)


def test_equal_predictions_still_have_an_interval():
    same = np.array([True] * 430)
    number = paired_difference(same, same)
    assert number["value"] == 0
    assert -0.005 < number["low"] < 0 < number["high"] < 0.005


def test_folder_that_is_no_run_is_not_overwritten(tmp_path):
    photo = tmp_path / "slim" / "photo.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"slim is no run, and is not overwritten"):
        ladder.make({"slim": {"method": "train"}}, Run(tmp_path), tmp_path, [])
    assert photo.read_bytes() == b"precious"
