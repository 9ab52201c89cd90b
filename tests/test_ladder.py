"""The ladder: entries made once, measured on one scale, and the best that meets a target."""

import json
import os
import queue
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from commands import command
from filelock import FileLock

from imgbench import ladder
from imgbench.compression import measure
from imgbench.compression.apply import make_run
from imgbench.compression.ladder import LadderRow, best_entry, make_ladder, table_lines
from imgbench.compression.lifecycle import asked, effective
from imgbench.compression.options import Distill, Quantize, Reuse, Train
from imgbench.compression.plan import PLAN, LadderEntry, select_entries
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.experiment.compose import override
from imgbench.files import sha256
from imgbench.number import paired_difference, share
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

EPOCHS = ["trainer.max_epochs=2"]  # in place of as many as suit the number of images
QUICK = ["data.audit=false", "data.thumbnails=false"]
INT8 = [LadderEntry("int8", Quantize())]


@pytest.fixture
def run_ladder(monkeypatch, capsys):
    """The command; returns what it prints."""
    monkeypatch.setattr(measure.latency_ms, "__defaults__", (0.01, 5))  # not those of half a second of calls

    def run(run: Run, *words: object) -> str:
        monkeypatch.setattr(
            sys, "argv", ["ladder", str(run.path), "--only", "pruned_30,int8", *EPOCHS, *map(str, words)]
        )
        ladder.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def teacher(larger_run):
    return larger_run


def test_entries_are_made_measured_and_not_made_again(teacher, tmp_path, run_ladder):
    folder = tmp_path / "run_ladder"
    printed = run_ladder(teacher, "--target", "size<=5MB", "--output", folder)
    rows = {row["name"]: row for row in json.loads((folder / "ladder.json").read_text())}
    assert list(rows) == ["teacher", "pruned_30", "int8"]
    assert rows["int8"]["size_mb"] < rows["teacher"]["size_mb"] / 2
    assert rows["int8"]["parameters"] == rows["teacher"]["parameters"] > rows["pruned_30"]["parameters"]
    assert rows["teacher"]["difference"]["value"] == rows["teacher"]["val_drop"] == 0
    assert all(row["accuracy"]["n"] == len(teacher.split_rows("test")) for row in rows.values())
    assert (folder / "ladder.png").stat().st_size > 1000
    assert "| int8 |" in (folder / "ladder.md").read_text()
    assert "Best entry with size<=5MB" in printed

    before = (folder / "pruned_30" / "run.json").read_text()
    shutil.rmtree(folder / "int8" / "checkpoints", ignore_errors=True)
    Run(folder / "int8").note(status="interrupted")
    words = ["--output", folder, "--reference", folder / "pruned_30"]
    with pytest.raises(UserError, match=r"(?s)no entry of the ladder meets it.*int8: size"):
        run_ladder(teacher, "--target", "size<=0.001MB", *words)
    assert (folder / "pruned_30" / "run.json").read_text() == before
    assert Run(folder / "int8").info["status"] == "finished"
    with_reference = {row["name"]: row for row in json.loads((folder / "ladder.json").read_text())}
    assert list(with_reference)[:2] == ["reference", "teacher"]
    assert with_reference["reference"]["difference"] == rows["pruned_30"]["difference"]
    assert with_reference["teacher"]["difference"]["value"] == 0
    assert "relative to `reference`" in (folder / "ladder.md").read_text()


def same_end(run, other):
    """Whether two runs have the same weights, epochs and predictions."""
    weights = [torch.load(found.best, weights_only=True)["state_dict"] for found in (run, other)]
    epochs = [
        [line.rsplit(",", 2)[0] for line in (found.path / "metrics.csv").read_text().splitlines()]
        for found in (run, other)
    ]
    tested = [(found.path / "predictions.csv").read_text() for found in (run, other)]
    assert epochs[0] == epochs[1]
    assert tested[0] == tested[1]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_ladder_that_was_killed_goes_on_and_ends_as_one_that_was_not(teacher, tmp_path):
    words = ["++callbacks.last.share=1e6", "trainer.max_epochs=4"]
    words = [str(teacher.path), "--only", "distilled_int8", *words, "--output"]
    killed, intact = ([*words, str(tmp_path / name)] for name in ("killed", "intact"))
    line = [sys.executable, "-m", "imgbench.ladder", *killed]
    with subprocess.Popen(line, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = False
        for text in process.stdout:
            begun |= " distilled: " in text
            if begun and text.startswith("epoch 3/"):
                process.kill()
    finished = {name: (tmp_path / "killed" / name / "run.json").read_text() for name in ("pruned_30", "pruned_60")}
    done = command("ladder", *killed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished earlier") == 2
    assert "epoch 4/4" in done.stderr
    assert "epoch 1/4" not in done.stderr  # it goes on within the entry as well
    assert command("ladder", *intact).returncode == 0
    for name, text in finished.items():
        assert (tmp_path / "killed" / name / "run.json").read_text() == text
    for name in (*finished, "distilled"):
        same_end(Run(tmp_path / "killed" / name), Run(tmp_path / "intact" / name))
    ends = [json.loads((tmp_path / name / "ladder.json").read_text()) for name in ("killed", "intact")]
    for rows in ends:
        for row in rows:
            row.update(latency_ms=None, latency_32_ms=None)
    assert ends[0] == ends[1]


def test_training_goes_on_only_if_it_was_begun_by_the_same_words(teacher, tmp_path, caplog):
    caplog.set_level("INFO")
    run = Run(tmp_path / "run")
    make_run(Distill(), teacher, run, ["model=compact", "trainer.max_epochs=2", *QUICK])
    run.note(status="running")
    (run.path / "report.html").unlink()
    caplog.clear()
    make_run(Distill(), teacher, run, ["model=compact", "trainer.max_epochs=2", *QUICK])
    assert "epoch 1/" not in caplog.text
    (run.path / "steps" / "1").mkdir(parents=True)
    Run(run.path / "steps" / "1").note(status="failed")
    caplog.clear()
    make_run(Distill(), teacher, run, ["model=compact", "trainer.max_epochs=3", *QUICK])
    assert "epoch 1/3" in caplog.text
    assert not (run.path / "steps").exists()
    caplog.clear()
    make_run(Distill(alpha=0.5), teacher, run, ["model=compact", "trainer.max_epochs=3", *QUICK])
    assert "epoch 1/3" in caplog.text


def test_another_head_starts_on_the_body_it_is_given(tmp_path, make_folder, fit_run):
    root = make_folder(tmp_path / "images", {"a": 12, "b": 12})
    parent = fit_run(root, tmp_path / "run", "model=vgg16", "+model.blocks=[[4],[8]]", "head=gap")
    run = Run(tmp_path / "slim")
    make_run(Reuse(), parent, run, ["head=slim", "model.hidden=[16]", "optimizer.lr=0", *QUICK])
    before, after = load_classifier(parent.best).state_dict(), load_classifier(run.best).state_dict()
    body = [name for name in before if name.startswith("model.features.")]
    assert len(body) == 4
    assert all(torch.equal(before[name], after[name]) for name in body)
    assert after["model.classifier.0.weight"].shape == (16, 8 * 7 * 7)
    assert run.config["trainer"]["max_epochs"] == 2


def test_without_the_body_a_model_is_trained_anew(teacher, tmp_path, caplog):
    caplog.set_level("INFO")
    run = Run(tmp_path / "vgg")
    make_run(Reuse(), teacher, run, ["model=vgg16", "head=gap", "+model.blocks=[[4],[8]]", *QUICK])
    assert "has other layers before its head: the model is trained from new weights" in caplog.text
    assert run.config["optimizer"]["lr"] == 3e-3  # suits batch normalisation
    assert run.config["trainer"]["max_epochs"] == teacher.config["trainer"]["max_epochs"]


def test_networks_whose_batch_normalisation_is_no_choice_are_reused(teacher, tmp_path):
    run = Run(tmp_path / "dense")
    make_run(Reuse(), teacher, run, ["head=slim", "model.hidden=[8]", "optimizer.lr=0", *QUICK])
    before, after = load_classifier(teacher.best).state_dict(), load_classifier(run.best).state_dict()
    assert torch.equal(before["model.features.0.weight"], after["model.features.0.weight"])
    assert after["model.classifier.0.weight"].shape == (8, 64 * 7 * 7)


def test_a_body_without_batch_normalisation_is_trained_anew(teacher, tmp_path):
    run = Run(tmp_path / "cnn")
    make_run(Reuse(), teacher, run, ["model=cnn", *QUICK])
    assert run.info["status"] == "finished"


def test_entries_of_another_run_are_not_taken_for_its_own(teacher, tmp_path):
    other = Run(tmp_path / "int8")
    other.path.mkdir()
    with other.recorded(seed=0, compressed_from={"path": "elsewhere", "sha256": "0" * 64}):
        pass
    with pytest.raises(UserError, match=r"int8 was not made from .*/run as it is now"):
        make_ladder(INT8, teacher, tmp_path, [])


def facts_of_int8(teacher):
    """What `run.json` says of the entry of INT8."""
    source = {"path": "", "sha256": sha256(teacher.best)}
    return {"method": "quantize", "asked": asked(Quantize(), []), "compressed_from": source}


class Printed(queue.Queue[str]):
    """A stdout that another thread can wait for: capsys would lose what is printed while it is read."""

    write = queue.Queue.put

    def flush(self) -> None:
        """Nothing is held back."""

    def until(self, text: str) -> str:
        """What is printed up to this text; raises queue.Empty if it does not come."""
        shown = ""
        while text not in shown:
            shown += self.get(timeout=60)
        return shown


def test_entry_that_another_process_makes_is_waited_for_and_taken(teacher, tmp_path, monkeypatch):
    printed = Printed()
    monkeypatch.setattr(sys, "stdout", printed)
    with ThreadPoolExecutor() as pool, FileLock(tmp_path / ".int8.lock"):
        runs = pool.submit(make_ladder, INT8, teacher, tmp_path, [])
        printed.until("int8: waiting for another process that makes it")
        run = Run(tmp_path / "int8")
        run.path.mkdir()
        with run.recorded(**facts_of_int8(teacher)):
            pass
    assert runs.result() == {"int8": run}
    printed.until("int8: finished earlier")


def test_finished_entry_is_taken_only_if_it_was_made_with_the_same_options(teacher, tmp_path):
    run = Run(tmp_path / "int8")
    run.path.mkdir()
    with run.recorded(**facts_of_int8(teacher)):
        pass
    assert make_ladder(INT8, teacher, tmp_path, []) == {"int8": run}
    for other in (LadderEntry("int8", Quantize(calibration=100)), LadderEntry("int8", Quantize(), ("seed=1",))):
        with pytest.raises(UserError, match=r"int8 was not made from .* with these options: quantize"):
            make_ladder([other], teacher, tmp_path, [])


def test_entries_bring_their_parents_along():
    names = [entry.name for entry in select_entries(["gap_pruned_int8"])]
    assert names == ["gap", "gap_pruned", "gap_pruned_int8"]


def test_parents_stand_before_what_is_made_of_them():
    names = [entry.name for entry in PLAN]
    assert select_entries() == list(PLAN)
    assert len(set(names)) == len(names)
    for entry in PLAN:
        assert entry.parent is None or names.index(entry.parent) < names.index(entry.name)


def test_words_of_the_plan_choose_what_there_is(teacher):
    for entry in PLAN:
        assert override(teacher, entry.words).model["_target_"]


def test_unknown_entry_is_an_error_that_lists_them():
    with pytest.raises(UserError, match=r"--only tiny: there are slim, gap"):
        select_entries(["tiny", "gap"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": ["slim"]}, "slim: expected key=value. --only chooses entries"),
        ({"threads": 0}, "--threads 0"),
        ({"only": ["tiny"]}, "--only tiny"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(teacher, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        ladder.ladder(teacher, tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


def row(name, size_mb, val_drop):
    number = share(np.arange(10) < 9, np.ones(10, bool), np.arange(10))
    return LadderRow(name, 32, False, 1, 1, size_mb, 1.0, 2.0, number, number, val_drop)


def test_best_entry_is_the_most_accurate_on_validation_images_then_the_smallest():
    rows = [row("large", 100, 0.0), row("middle", 5, 0.5), row("small", 1, 0.5), row("tiny", 0.1, 3.0)]
    assert best_entry(rows, Target(drop=1)).name == "large"
    assert best_entry(rows, Target(size=10)).name == "small"
    assert best_entry(rows, Target(size=0.5)).name == "tiny"
    with pytest.raises(UserError, match="no entry of the ladder meets it"):
        best_entry(rows, Target(size=0.5, drop=1))


def test_words_that_leave_a_value_open_or_are_overridden_are_not_shown():
    words = ["model=compact", "optimizer.lr=null", "trainer.max_epochs=null", "trainer.max_epochs=1"]
    assert effective(words) == ["model=compact", "trainer.max_epochs=1"]


def test_table_writes_no_exponents():
    lines = table_lines([row("large", 12345.6, 0), row("small", 1.2345, 0)], 1)
    assert "| 12,346 | 1 |" in lines[-2]
    assert "| 1.23 | 10,000 |" in lines[-1]


def test_paired_difference_agrees_with_agresti_and_min():
    # 100 images: 12 that only the first has right, 4 that only the second has right.
    first = np.array([True] * 12 + [False] * 4 + [True] * 84)
    second = np.array([False] * 12 + [True] * 4 + [True] * 84)
    number = paired_difference(first, second)
    assert number.value == pytest.approx(0.08)
    # (12.5 - 4.5) / 102 -+ 1.96 sqrt(17 - 64 / 102) / 102
    assert (number.low, number.high) == pytest.approx((0.00066, 0.15620), abs=1e-4)
    assert (number.n, number.groups) == (100, 100)


def test_equal_predictions_still_have_an_interval():
    same = np.array([True] * 430)
    number = paired_difference(same, same)
    assert number.value == 0
    assert -0.005 < number.low < 0 < number.high < 0.005


def test_folder_that_is_no_run_is_not_overwritten(tmp_path):
    photo = tmp_path / "slim" / "photo.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"slim is not a run directory, and is not overwritten"):
        make_ladder([LadderEntry("slim", Train())], Run(tmp_path), tmp_path, [])
    assert photo.read_bytes() == b"precious"
