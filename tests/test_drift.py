"""Whether photographs are still like those that a run was validated on."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from made_files import chunk
from PIL import ExifTags, Image

from imgbench import drift
from imgbench.benchmark.development import drift as benchmark
from imgbench.data.taken import date_taken
from imgbench.errors import UserError
from imgbench.evaluation.martingale import (
    ALARM,
    Bettors,
    Comparison,
    Watch,
    class_bets,
    first_alarm,
    levels,
    novelty_bets,
    pushes,
    shares_of,
)
from imgbench.inference.drift import LEARNT
from imgbench.inference.journal import Journal
from imgbench.inference.onnx_file import write_onnx
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier


@pytest.fixture(scope="module")
def finished(run_of) -> Run:
    """A run with 60 validation images."""
    return run_of("drift", {"cat": 60, "dog": 60}, "data.split.val=60", "data.split.test=10", "report.language=en")


@pytest.fixture
def photos(make_folder, tmp_path, monkeypatch) -> Path:
    """25 photographs like those of the run, in one folder."""
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "later", {"cat": 13, "dog": 12})
    for file in root.glob("*/*.png"):
        file.rename(root / f"{file.stem} {file.parent.name}.png")
    return Path("later")


@pytest.fixture
def changed(tmp_path, monkeypatch) -> Path:
    """30 photographs of something else, dated from the last name to the first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "changed").mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).choice([0, 255], (24, 24, 3)).astype(np.uint8)
        save(pixels, Path("changed") / f"{number:02d} <b>.jpg", f"2026:03:{30 - number:02d} 12:00:00")
    return Path("changed")


def save(pixels: np.ndarray, file: Path, date: str = "") -> None:
    exif = Image.Exif()
    if date:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = date
    Image.fromarray(pixels).save(file, exif=exif)


def rows(path: str = "x.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_bets_are_fair():
    uniform = (np.arange(100_000) + 0.5) / 100_000
    assert novelty_bets(uniform).mean(0) == pytest.approx(1, abs=3e-3)
    assert np.isfinite(novelty_bets(np.array([0.0, 1.0]))).all()
    of_classes = class_bets(np.stack([uniform, uniform[::-1]], 1), np.array([0.0004, 0.9996]))
    assert of_classes.shape == (100_000, 2, 21)
    assert of_classes.mean(0) == pytest.approx(1, abs=3e-3)


def test_p_values_are_uniform_and_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(2000):
        scores, classes = rng.integers(0, 6, 12), rng.integers(0, 3, 12)  # few calibration images, and many equal
        compared = Comparison(scores[:5].astype(float), classes[:5], 3, seed)
        found.append([compared.p_values(float(s), int(c)) for s, c in zip(scores[5:], classes[5:], strict=True)])
    p = np.array(found)  # (2000, 7, 4)
    assert p.mean(0) == pytest.approx(0.5, abs=0.03)
    assert np.quantile(p, [0.05, 0.25, 0.75], 0) == pytest.approx(
        np.full((3, 7, 4), [[[0.05]], [[0.25]], [[0.75]]]), abs=0.04
    )
    for one in range(4):
        assert np.corrcoef(p[:, :, one].T) == pytest.approx(np.eye(7), abs=0.09)


def test_false_alarms_are_rarer_than_promised():
    rng = np.random.default_rng(0)
    streams, length = 300, 120
    compared = [Comparison(rng.gamma(2, size=30), rng.integers(0, 3, 30), 3, seed) for seed in range(streams)]
    bettors, raised = Bettors(streams, np.full(3, 1 / 3), True), np.zeros(streams, bool)
    for _ in range(length):
        p = [one.p_values(rng.gamma(2), int(rng.integers(0, 3))) for one in compared]
        raised |= (levels(bettors.step(np.array(p)), 3) >= np.log10(ALARM)).any(1)
    assert raised.mean() < 0.05 + 0.02


@pytest.mark.parametrize(
    ("novelty", "share", "most"), [((3, 1), 0.5, 8), ((-1.5, 1), 0.5, 40), ((0, 3), 0.5, 40), ((0, 1), 0.98, 60)]
)
def test_planted_change_is_noticed(novelty, share, most):
    rng = np.random.default_rng(1)
    watch = Watch(rng.normal(size=100), rng.integers(0, 2, 100), np.full(2, 0.5), 0)
    seen = [watch.see(rng.normal(), int(rng.integers(0, 2))) for _ in range(50)]
    seen += [watch.see(rng.normal(*novelty), int(rng.random() < share)) for _ in range(100)]
    alarm = first_alarm(seen)
    assert alarm is not None and 50 <= alarm < 50 + most
    assert pushes(seen[: alarm + 1])[50:].sum() > pushes(seen[: alarm + 1])[:50].sum()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_class_that_is_gone_or_comes_three_times_as_often_is_noticed(share):
    rng, noticed, others = np.random.default_rng(2), 0, np.arange(1, 8)
    counts = np.full(8, 20)
    for seed in range(20):
        watch = Watch(None, np.repeat(np.arange(8), counts), shares_of(counts), seed)
        drawn = np.where(rng.random(400) < share, 0, rng.choice(others, 400)).tolist()
        noticed += any(watch.see(0.0, one).alarm for one in drawn)
    assert noticed >= 15


def test_without_novelty_the_classes_are_watched():
    watch = Watch(None, np.arange(90) % 3, np.full(3, 1 / 3), 0)
    seen = [watch.see(0.0, 1) for _ in range(60)]
    assert first_alarm(seen) is not None and seen[-1].moved_class == 1 and seen[-1].p is None


def test_a_table_is_continued_until_the_alarm_and_the_page_shows_why(finished, photos, changed, capsys):
    assert drift.drift(finished.path, [photos], Path("x.csv")) == 0
    out = capsys.readouterr().out
    assert "No change was found in 25 photographs" in out and "the same" not in out and "void" not in out
    assert "Their order is random" in out  # they are named after their classes
    first = Path("x.csv").read_bytes()

    assert drift.drift(finished.path, [photos, changed], Path("x.csv")) == 1
    out = capsys.readouterr().out
    assert "A change was found" in out and "--max-error and --sets promise is void" in out
    assert "order is that of the dates" in out and "25 photographs were in the table already" in out
    assert f"python -m imgbench.review {finished.shown} --unlabelled changed" in out
    assert Path("x.csv").read_bytes().startswith(first)
    found = rows()
    assert [row["path"] for row in found[25:28]] == [f"changed/{number} <b>.jpg" for number in (29, 28, 27)]
    assert found[25]["date"] == "2026-03-01 12:00:00"
    assert max(max(float(row["novelty martingale"]), float(row["class martingale"])) for row in found) >= ALARM
    page = Path("x.html").read_text("utf-8")
    assert "default-src 'none'" in page and "<script" not in page and "<b>.jpg" not in page and "&lt;b&gt;.jpg" in page
    assert page.count('src="data:image/') > 3 and "<svg" in page

    whole = Path("x.csv").read_bytes()
    assert drift.drift(finished.path, [photos, changed], Path("x.csv")) == 1  # the alarm stays, nothing is added
    assert Path("x.csv").read_bytes() == whole


def test_page_is_written_in_chinese(finished, photos, tmp_path):
    run = Path(shutil.copytree(finished.path, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("language: en", "language: zh"))
    drift.drift(run, [photos], Path("x.csv"))
    assert "没有发现变化" in Path("x.html").read_text("utf-8")


def test_killed_between_batches_it_ends_with_the_same_table(finished, photos, changed, monkeypatch):
    drift.drift(finished.path, [photos, changed], Path("whole.csv"))

    def append(self, rows):
        if self.rows:
            raise KeyboardInterrupt
        original(self, rows)

    original = Journal.append
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "append", append)
        drift.drift(finished.path, [photos, changed], Path("x.csv"))
    assert len(rows()) == 32
    drift.drift(finished.path, [photos, changed], Path("x.csv"))
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_one_photograph_is_a_stream(finished, photos, capsys):
    assert drift.drift(finished.path, [photos / "3 cat.png"], Path("x.csv")) == 0
    assert "No change was found in 1 photograph:" in capsys.readouterr().out
    assert "<svg" in Path("x.html").read_text("utf-8")


def test_unreadable_files_in_the_middle_are_listed_and_skipped_and_tried_again(finished, photos, capsys):
    content = (photos / "5 cat.png").read_bytes()
    (photos / "5 cat.png").write_bytes(content[:300])
    (photos / "6 cat.png").write_text("no image")
    assert drift.drift(finished.path, [photos], Path("x.csv")) == 1
    out = capsys.readouterr().out
    assert "No change was found in 23 photographs" in out and "2 were left out" in out
    assert "later/6 cat.png: not an image" in out and "later/5 cat.png: " in out
    found = rows()
    assert len(found) == 25 and sum(bool(row["error"]) and not row["novelty"] for row in found) == 2
    assert "later/6 cat.png" in Path("x.html").read_text("utf-8")
    (photos / "5 cat.png").write_bytes(content)
    assert drift.drift(finished.path, [photos], Path("x.csv")) == 1
    assert len(rows()) == 26 and rows()[-1]["path"] == "later/5 cat.png" and rows()[-1]["novelty"]


def test_photographs_count_once_and_those_of_the_training_not_at_all(finished, photos, capsys):
    root = Path(finished.config["data"]["root"])
    learnt = next(row["path"] for row in finished.split_rows("train"))
    shutil.copy(root / learnt, photos / "learnt.png")
    shutil.copy(photos / "1 cat.png", photos / "copy.png")
    assert drift.drift(finished.path, [photos], Path("x.csv")) == 1
    out = capsys.readouterr().out
    assert f"later/learnt.png: {LEARNT}" in out and "1 photograph was in the table already" in out
    assert len(rows()) == 26


def test_order_is_by_date_only_if_all_have_one_and_random_over_several_folders(finished, photos, changed, capsys):
    save(np.zeros((24, 24, 3), np.uint8), changed / "99 <b>.jpg")
    drift.drift(finished.path, [changed], Path("x.csv"))
    assert "order is that of their names, because 1 does not say when it was taken: changed/99 <b>.jpg" in (
        capsys.readouterr().out
    )
    assert [row["path"] for row in rows()] == sorted(row["path"] for row in rows())
    drift.drift(finished.path, [changed, photos], Path("y.csv"))
    said = "Their order is random, because their folders or names differ in more than numbers, and 26 do not"
    assert said in capsys.readouterr().out
    drift.drift(finished.path, [changed, photos], Path("z.csv"))
    assert Path("y.csv").read_bytes() == Path("z.csv").read_bytes()
    drift.drift(finished.path, [photos], Path("named.csv"))  # by class, as folders might be
    assert "Their order is random" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "date"), [("0000:00:00 00:00:00", ""), ("yesterday", ""), ("", "")])
def test_dates_that_say_nothing_are_none(text, date, tmp_path):
    save(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.jpg", text)
    assert date_taken((tmp_path / "a.jpg").read_bytes()) == date
    assert date_taken(b"no image") is None


@pytest.mark.parametrize("late", [False, True])
def test_date_of_a_png_may_stand_before_or_behind_its_pixels(late, tmp_path):
    save(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.jpg", "2026:01:31 12:00:00")
    with Image.open(tmp_path / "a.jpg") as image:
        entries = chunk(b"eXIf", image.getexif().tobytes().removeprefix(b"Exif\0\0"))
        image.save(tmp_path / "a.png", exif=b"")
    plain = (tmp_path / "a.png").read_bytes()
    assert date_taken(plain) == ""
    place = len(plain) - 12 if late else 33  # before the end, or behind the header
    assert date_taken(plain[:place] + entries + plain[place:]) == "2026-01-31 12:00:00"


def test_what_cannot_be_compared_is_an_error(finished, photos, tmp_path):
    run = Path(shutil.copytree(finished.path, tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="folder without images"):
        drift.drift(run, ["empty"])
    with pytest.raises(UserError, match=r"x\.txt should end in \.csv"):
        drift.drift(run, [photos], Path("x.txt"))
    drift.drift(run, [photos], Path("x.csv"))
    lines = Path("x.csv").read_text().splitlines(keepends=True)
    Path("x.csv").write_text("".join(lines).replace(",cat,", ",zebra,", 1))
    with pytest.raises(UserError, match=r"x\.csv is damaged at later/.*zebra"):
        drift.drift(run, [photos], Path("x.csv"))
    validation = run / "validation.csv"
    validation.write_text("".join(validation.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="do not fit each other"):
        drift.drift(run, [photos])
    validation.unlink()  # as in a run of an earlier imgbench
    with pytest.raises(UserError, match=r"has not kept it.\n.*imgbench.evaluate .*run --split val"):
        drift.drift(run, [photos], Path("x.csv"))


def test_onnx_file_of_the_run_is_watched_and_one_alone_is_refused(finished, photos, tmp_path, capsys):
    run = Run(Path(shutil.copytree(finished.path, tmp_path / "run")))
    file = run.path / "model.onnx"
    write_onnx(load_classifier(run.best), file, run)
    assert drift.drift(file, [photos]) == 0
    assert "No change was found in 25 photographs" in capsys.readouterr().out
    shutil.copy(file, tmp_path / "alone.onnx")
    with pytest.raises(UserError, match=r"alone\.onnx"):
        drift.drift(tmp_path / "alone.onnx", [photos])


def test_benchmark_tells_false_alarms_and_delays(finished, changed, monkeypatch):
    for name, number in {"STREAMS": 20, "LENGTH": 30, "REPEATED": 4, "BEFORE": 3}.items():
        monkeypatch.setattr(benchmark, name, number)
    rows = benchmark.measured(finished, str(changed))
    assert len(rows) == 2 + len(benchmark.CHANGES) + 5
    assert all(rows[name]["value"] <= 0.1 for name in list(rows)[:2])
    assert rows["photographs of other things"]["value"] <= 7


def test_command_line_has_its_words(finished, photos, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["drift", str(finished.path), str(photos / "1 cat.png"), "--output", "x.csv"])
    assert drift.main() == 0
    assert Path("x.html").is_file()
