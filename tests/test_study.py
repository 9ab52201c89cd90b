"""The whole way in one command: what it leaves, that it goes on where it stopped, and what it refuses."""

import errno
import importlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest

import imgbench
from imgbench.compression import smallest
from imgbench.compression.options import Quantize, Train
from imgbench.compression.plan import LadderEntry
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.experiment import choose
from imgbench.experiment.compose import compose
from imgbench.inference.torch_model import TorchModel
from imgbench.report import content, tested
from imgbench.report.study_file import read_study
from imgbench.run import Run
from imgbench.study import division, study
from imgbench.sweep.resume import resumed_study
from imgbench.train import is_trained

study_module = importlib.import_module("imgbench.study")
TINY = ["data.image_size=20", "data.batch_size=8", "trainer.max_epochs=2", "augment=none", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_folder) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "photos", {"cat": 60, "dog": 60})


# Minutes in which none of these runs out of time, however busy the machine is: what is reserved for later steps grows
# with the slowdown.
AMPLE = "budget=600"


def begin(photos: Path, place: Path, *words: str) -> Run:
    run = Run(place)
    study(compose(["data=folder", f"data.root={photos}", *TINY, AMPLE, *words], "study"), run)
    return run


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory) -> Run:
    return begin(photos, tmp_path_factory.mktemp("study") / "run", "model=compact", "target=drop<=50pt")


def test_study_leaves_a_run_the_small_file_and_one_report_over_both(finished):
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        "config.yaml",
        "split.csv",
        "metrics.json",
        "audit.html",
        "small.onnx",
        "study.json",
        "report.html",
    }
    assert finished.info["status"] == "finished"
    small = imgbench.load(finished.path / "small.onnx")
    assert small.class_names == imgbench.load(finished.path).class_names == ["cat", "dog"]
    page = (finished.path / "report.html").read_text("utf-8")
    section = page.partition('<section id="small">')[2].partition("</section>")[0]
    assert "the model of this page" in section
    assert "the same in 8 bits" in section
    assert section.count("taken") == 1
    assert "imgbench.compress" not in page  # a study has made it smaller


def test_small_file_is_smaller_and_answers_as_its_run(finished):
    found = read_study(finished)
    assert found is not None
    assert found["small"]["name"] == "int8"
    sizes = {row["name"]: row["size_mb"] for row in found["small"]["rows"]}
    assert sizes["int8"] < 0.5 * sizes["teacher"]
    assert (finished.path / "small.onnx").read_bytes() == (finished.path / "small/int8/model.onnx").read_bytes()


def test_what_is_finished_is_not_done_again(finished, photos, tmp_path, capsys):
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    run = Run(place)
    (place / "small.onnx").unlink()
    (place / "study.json").write_text(
        json.dumps({"target": "drop<=50pt", "budget": 5})
    )  # as if killed while it made the models
    trained, quantized = run.best.stat().st_mtime_ns, (place / "small/int8/model.onnx").stat().st_mtime_ns
    begin(photos, place, "model=compact", "target=drop<=50pt")
    printed = capsys.readouterr().out
    assert "is trained already" in printed
    assert "84 images to learn from, 18 to choose by and 18 to test on, once; data.split.val=0.2 or" in printed
    assert run.best.stat().st_mtime_ns == trained
    assert (place / "small/int8/model.onnx").stat().st_mtime_ns == quantized
    assert (place / "small.onnx").is_file()
    for word, same in (("budget=1", True), ("seed=2", False), ("optimizer.lr=1e-5", False)):
        config = compose(["data=folder", f"data.root={photos}", *TINY, "model=compact", word], "study")
        assert is_trained(config, run) is same


def test_student_that_is_finished_or_can_be_is_taken_however_long_it_learns(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    (run.path / "small" / "distilled").mkdir(parents=True)
    words = [*smallest.COMPACT, "trainer.max_epochs=7", "objective.views=2"]
    student = Run(run.path / "small" / "distilled")
    student.note(status="finished", method="distill", asked={"options": {}, "words": words})
    attempt, _, entries = next(smallest._attempts(run, Target(), end=0))
    assert (attempt, list(entries[0].words)) == ("distilled_int8", words)

    student.note(status="interrupted")
    student.last.parent.mkdir()
    student.last.touch()
    (student.path / "metrics.csv").write_text("epoch,epoch_seconds\n1,9\n2,11\n")
    for seconds, goes_on in ((49, False), (51, True)):  # for five more epochs of ten seconds
        assert smallest._words_of_begun(run, seconds) == (words if goes_on else None)


def test_nothing_of_another_target_is_left_where_a_study_is_killed(finished, photos, tmp_path, monkeypatch):
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    monkeypatch.setattr(study_module, "audit", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin(photos, place, "model=compact", "target=drop<=40pt")
    assert read_study(Run(place)) == {"target": "drop<=40pt", "budget": 600}
    assert not (place / "small.onnx").exists()
    assert resumed_study(["--resume", str(place)]) is not None


def test_resuming_gives_the_words_that_go_on_and_none_when_all_is_done(finished, tmp_path, capsys):
    assert resumed_study(["--resume", str(finished.path)]) is None
    assert "nothing is left to do" in capsys.readouterr().out
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    (place / "study.json").write_text(json.dumps({"target": "drop<=50pt", "budget": 5}))
    words = resumed_study([f"--resume={place}", "budget=1"]) or []
    assert words[:2] == ["--config-dir", str(place)]
    assert words[-3:] == ["target=drop<=50pt", "budget=5", "budget=1"]


def test_study_of_somebody_else_has_nothing_looked_up(finished, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    (place / "study.json").write_text(json.dumps({"target": "${oc.env:HOME}", "budget": 5}))
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        resumed_study(["--resume", str(place)])


def test_division_names_what_the_folders_leave_open(make_folder, make_data, tmp_path):
    def divided() -> str:
        (tmp_path / "split.csv").write_text("".join(make_data(root).table.csv_lines()))
        return division(Run(tmp_path))

    root = tmp_path / "photos"
    for split, number in (("train", 20), ("test", 4)):
        make_folder(root / split, {"cat": number, "dog": number})
    assert "data.split.val=0.2 or data.split.group=REGEX divides otherwise" in divided()
    make_folder(root / "val", {"cat": 4, "dog": 4})
    assert divided().endswith("8 to test on, once; the folders say so.")


def test_compact_network_that_was_not_chosen_is_the_smallest_where_it_is_as_good(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "best_of", lambda trials: trials[0])
    run = begin(photos, tmp_path / "run", "model.candidates=[cnn,compact]", "target=drop<=100pt")
    found = read_study(run)
    assert found is not None
    assert run.config["model_name"] == "cnn"
    assert found["small"]["name"] == "compact_int8"


def test_where_no_difference_is_sure_the_nearest_is_taken_and_the_doubt_said(finished, tmp_path):
    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    small = smallest.make_smallest(run, tmp_path / "small.onnx", Target(drop=1), seconds=3600)
    assert small.name == "int8"
    assert (tmp_path / "small.onnx").is_file()
    said = small.lines(tmp_path / "small.onnx")[-1]
    assert re.search(
        r"18 validation images are too few to tell whether the loss is at most 1 pt: .* one photograph is 5.6 pt", said
    )


def test_compact_network_that_is_worse_than_the_target_allows_is_not_quantised(tiny_run, tmp_path, monkeypatch):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    compact = Run(run.path / "candidates" / "compact")
    compact.best.parent.mkdir(parents=True)
    compact.best.touch()
    for drop, expected in ((99.0, "compact_int8"), (101.0, "distilled_int8")):
        monkeypatch.setattr(smallest, "_drop_of_candidate", lambda run, name, drop=drop: drop)
        attempt, _, _ = next(smallest._attempts(run, Target(drop=100), end=0))
        assert attempt == expected


def test_no_int8_is_made_of_a_network_that_is_worse_in_float_than_the_target_allows(finished, tmp_path):
    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    untaught = LadderEntry("untaught", Train(), ("model=cnn", "optimizer.lr=1e-9", "trainer.max_epochs=1"))
    with pytest.raises(UserError, match=r"in float already: drop \d+.* pt, above 1 pt"):
        smallest._made([untaught, LadderEntry("int8", Quantize())], run, tmp_path, run, Target(drop=1), math.inf)
    assert not (tmp_path / "int8").exists()


@pytest.mark.slow
def test_a_student_of_the_chosen_network_is_the_smallest_where_it_is_as_good(photos, tmp_path):
    run = begin(photos, tmp_path / "run", "model=cnn", "target=drop<=100pt", "budget=5")
    found = read_study(run)
    assert found is not None
    assert found["small"]["name"] == "distilled_int8"
    assert (run.path / "small/distilled/checkpoints/best.ckpt").is_file()


def test_without_time_for_smaller_ones_the_network_itself_is_written_and_the_page_drawn_once(
    photos, tmp_path, monkeypatch
):
    answers, pages = [], []
    predict, draw = tested.predict_split, content.report_page
    monkeypatch.setattr(tested, "predict_split", lambda *args: answers.append(args) or predict(*args))
    monkeypatch.setattr(content, "report_page", lambda *args: pages.append(args[0].commands) or draw(*args))
    run = begin(photos, tmp_path / "run", "model=cnn", "target=drop<=100pt", "budget=0.001")
    found = read_study(run)
    assert found is not None
    too_late = ["there was too little time to make it"]
    assert found["small"]["unmet"] == {"distilled_int8": too_late, "int8": too_late}
    assert found["small"]["name"] == "teacher"
    assert (run.path / "small.onnx").is_file()
    assert [split for model, _, split in answers if isinstance(model, TorchModel)] == ["test", "val"]
    assert sum(f"--config-dir {run.shown} " in commands["again"] for commands in pages) == 1


def test_where_nothing_meets_the_target_there_is_no_small_file_and_the_report_says_why(
    finished, photos, tmp_path, capsys
):
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    begin(photos, place, "model=compact", "target=size<=0.001MB")
    assert "none meets the target" in capsys.readouterr().out
    assert not (place / "small.onnx").exists()
    section = (place / "report.html").read_text("utf-8").partition('<section id="small">')[2].partition("</section>")[0]
    assert "size&lt;=0.001MB" in section
    assert "taken" not in section


@pytest.mark.parametrize(
    ("word", "message"),
    [("target=small", "target='small'"), ("trainer.devices=2", "a study trains on one device")],
)
def test_what_cannot_be_done_is_said_before_anything_is_begun(word, message, photos, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        begin(photos, tmp_path / "run", word)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_no_study_is_not_resumed_as_one(tiny_run: Run):
    with pytest.raises(UserError, match=r"no study.*imgbench\.train --resume"):
        resumed_study(["--resume", str(tiny_run.path)])


def test_damaged_study_file_is_named(finished, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(finished.path, place)
    (place / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json is damaged"):
        resumed_study(["--resume", str(place)])


def test_a_study_is_finished_once_its_pages_are_there_and_goes_on_after_its_training(photos, tmp_path, monkeypatch):
    place, words = tmp_path / "run", ("model=compact", "target=drop<=50pt")
    with monkeypatch.context() as broken:
        broken.setattr("imgbench.inspection.record.write_audit", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(photos, place, *words)
    run = Run(place)
    assert run.info["status"] == "failed"
    assert resumed_study(["--resume", str(place)]) is not None
    trained, before = run.best.stat().st_mtime_ns, run.info["seconds"]
    begin(photos, place, *words)
    assert run.best.stat().st_mtime_ns == trained
    assert run.info["status"] == "finished"
    assert run.info["seconds"] > before
    assert (place / "audit.html").is_file()


def test_a_full_disk_where_the_best_network_becomes_the_run_is_one_error_and_what_was_trained_stays(
    photos, tmp_path, monkeypatch
):
    def full(source, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    place = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(choose, "copy_atomically", full)
        with pytest.raises(UserError, match=r"No space left on device"):
            begin(photos, place, "model.candidates=[cnn,compact]", "target=drop<=100pt")
    assert {path.name for path in (place / "candidates").iterdir() if path.is_dir()} == {"cnn", "compact"}
    assert Run(place).info["status"] == "failed"


def test_a_small_model_that_cannot_be_written_ends_the_study_and_is_not_taken_for_one_that_is_too_bad(
    finished, tmp_path, monkeypatch
):
    def full(*arguments):
        raise UserError("no space") from OSError(errno.ENOSPC, "No space left on device")

    run = Run(shutil.copytree(finished.path, tmp_path / "run"))
    monkeypatch.setattr(smallest, "_made", full)
    with pytest.raises(UserError, match="no space"):
        smallest.make_smallest(run, tmp_path / "small.onnx", Target(drop=50), seconds=3600)
