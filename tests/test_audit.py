"""The audit as a command, on folders with planted faults."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image, ImageFilter

from imgbench.audit import EXIT_CODES
from imgbench.audit import audit as audit_command
from imgbench.errors import EXTRAS, UserError
from imgbench.evaluate import evaluate
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.build import build_data
from imgbench.experiment.compose import compose
from imgbench.inspection.audit import PROVEN, RELATED, Audit, brief


def paint(root: Path, counts: dict[str, int], size: int = 64, seed: int = 0) -> Path:
    """Pictures of a few blurred shapes, so that no two are alike, one class brighter than the other."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image = coarse.resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
            image.save(root / name / f"{name}{number}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    return paint(tmp_path / "photos", {"cat": 30, "dog": 30})


def inspect(root: Path, *words: str):
    return audit_command(compose(["data=folder", f"data.root={root}", "data.image_size=64", *words]))


def test_pictures_without_relatives_do_not_leak(photos):
    result = inspect(photos)
    assert result.verdict != "leaks"
    assert result.pairs == []
    assert result.images == 60


def test_changed_copies_are_found_named_and_suspect_and_the_same_pixels_leak(photos):
    for number in range(12):
        turned = Image.open(photos / "cat" / f"cat{number}.png").transpose(Image.Transpose.ROTATE_90)
        turned.save(photos / "cat" / f"turned{number}.png")
    result = inspect(photos, "data.split.group=null")
    pairs = {tuple(sorted(Path(path).stem for path in pair["paths"])) for pair in result.pairs}
    assert pairs == {(f"cat{number}", f"turned{number}") for number in range(12)}
    assert min(pair["similarity"] for pair in result.pairs) > 0.95
    assert result.leaking
    assert (result.verdict, result.leaked) == ("suspect", {}), "no likeness is proof"
    for number in range(12):
        Image.open(photos / "cat" / f"cat{number}.png").save(photos / "cat" / f"again{number}.tiff")
    assert inspect(photos, "data.split.group=null").verdict == "leaks"


def test_automatic_groups_keep_copies_on_one_side(photos):
    for number in range(12):
        shutil.copy(photos / "cat" / f"cat{number}.png", photos / "cat" / f"again{number}.png")
    result = inspect(photos, "data.split.group=auto")
    assert len(result.pairs) == 12
    assert result.leaking == {}
    assert all(len(set(pair["splits"])) == 1 for pair in result.pairs)


def test_what_is_open_in_a_configuration_is_so_after_an_audit(photos):
    config = compose(["data=folder", f"data.root={photos}"])
    before = config.copy()
    audit_command(config)
    assert config == before


def test_copies_that_could_not_be_decoded_are_found_once_they_can(photos, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    for number in range(3):
        heif.from_pillow(Image.open(photos / "cat" / f"cat{number}.png")).save(
            photos / "dog" / f"cat{number}.heic", quality=90
        )
    with monkeypatch.context() as patch:
        patch.setitem(EXTRAS, "heic", "no_such_package")
        assert inspect(photos).pairs == []
    assert len(inspect(photos).pairs) == 3


def test_a_kept_audit_names_its_folder_as_it_is_named_now(photos, monkeypatch):
    inspect(photos)
    monkeypatch.chdir(photos.parent)
    result = inspect(Path("photos"))
    assert result.root == "photos"
    assert result.summary().startswith("photos: 60 images")


def test_exit_code_tells_a_script_what_was_found(photos, tmp_path):
    words = ["data=folder", f"data.root={photos}", "data.image_size=64", "hydra.run.dir=out"]
    done = command("audit", *words, cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert done.returncode == EXIT_CODES[found["verdict"]], done.stderr
    assert f"Audit: {found['verdict']}" in done.stdout
    assert "Always answering" in done.stdout


def test_page_and_picture_show_what_was_found(photos, tmp_path):
    shutil.copy(photos / "cat" / "cat0.png", photos / "dog" / "<wrong>.png")
    result = audit_command(compose(["data=folder", f"data.root={photos}", "data.image_size=64"]), tmp_path)
    page = (tmp_path / "audit.html").read_text()
    assert "in different classes" in page
    assert "&lt;wrong&gt;.png" in page
    assert "data:image/png;base64" in page
    assert (tmp_path / "pairs.png").stat().st_size > 1000
    assert Audit.from_json((tmp_path / "audit.json").read_text()) == result


def test_pairs_are_read_back_until_a_file_changes(photos, cache_home):
    shutil.copy(photos / "cat" / "cat0.png", photos / "cat" / "again.png")
    assert len(inspect(photos).pairs) == 1
    kept = set((cache_home / "audits").iterdir())
    assert len(inspect(photos, "data.split.seed=7").pairs) == 1  # another audit, of the same pairs
    assert len(set((cache_home / "audits").glob("pairs-*")) - kept) == 0
    (photos / "cat" / "again.png").unlink()
    assert inspect(photos).pairs == []


def test_relatives_in_test_are_leaks_and_in_val_alone_are_suspect(tmp_path):
    root = tmp_path / "photos"
    for seed, split in enumerate(("train", "val", "test")):
        paint(root / split, {"cat": 25, "dog": 25}, seed=seed)
    assert inspect(root).leaking == {}
    shutil.copy(root / "train/cat/cat0.png", root / "val/cat/again.png")
    result = inspect(root)
    assert (result.verdict, result.leaking) == ("suspect", {"val": 1})
    shutil.copy(root / "train/cat/cat1.png", root / "test/cat/again.png")
    result = inspect(root)
    assert (result.verdict, result.leaking) == ("leaks", {"val": 1, "test": 1})
    assert brief(result) == (f"Audit: leaks. 1 of 51 test images and 1 of 51 val images have {PROVEN}.")


def test_which_images_are_relatives_does_not_depend_on_the_size_the_network_sees(photos):
    for number in range(12):
        Image.open(photos / "cat" / f"cat{number}.png").resize((40, 40)).save(photos / "cat" / f"small{number}.png")
    small, large = (build_data(compose(["data=folder", f"data.root={photos}", f"data.image_size={size}"])).table
                    for size in (24, 64))  # fmt: skip
    assert small.hash == large.hash
    assert len(set(small.groups)) == 60


def test_a_kept_audit_is_of_what_a_network_of_this_size_sees(photos, tmp_path, monkeypatch):
    inspect(photos, "data.image_size=24")
    after = inspect(photos)
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / "another"))
    assert after.shortcuts == inspect(photos).shortcuts


@pytest.fixture
def leaking_run(tmp_path, train_run):
    """A run on photographs of which four were copied from train to test."""
    root = tmp_path / "photos"
    for seed, split in enumerate(("train", "test")):
        paint(root / split, {"cat": 25, "dog": 25}, seed=seed)
    for number in range(4):
        Image.open(root / f"train/cat/cat{number}.png").save(root / f"test/cat/copy{number}.tiff")
    return lambda *words: train_run(root, tmp_path / "run", *words)


def test_run_on_leaking_images_says_so_before_and_carries_both_figures_after(leaking_run, caplog, capsys):
    caplog.set_level(logging.INFO)
    run = leaking_run()
    assert "Audit: leaks. 4 of 54 test images" in caplog.text
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert (metrics["test/acc"]["n"], metrics["test_unrelated/acc"]["n"]) == (54, 50)
    predictions = Predictions.read_csv(run.path / "predictions.csv")
    others = np.array(["copy" not in path for path in predictions.paths])
    right = (predictions.predicted == predictions.targets)[others]
    assert metrics["test_unrelated/acc"]["value"] == pytest.approx(right.mean())
    assert f"without 4 images with {RELATED}" in capsys.readouterr().out
    assert "The audit found leaks: 4 of 54" in (run.path / "report.html").read_text()
    assert "without 4 images with a look-alike" in evaluate(run.path).table()


def test_run_that_drops_leaks_is_clean_of_them(leaking_run, caplog):
    caplog.set_level(logging.INFO)
    run = leaking_run("data.split.leaks=drop")
    assert "Audit: leaks" not in caplog.text
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["test/acc"]["n"] == 50
    assert "test_unrelated/acc" not in metrics
    assert (run.path / "left_out.csv").read_text().count("test image that looks like a training image") == 4


def test_audit_before_training_can_be_left_out(leaking_run, caplog):
    caplog.set_level(logging.INFO)
    run = leaking_run("data.audit=false")
    assert "Audit" not in caplog.text
    assert not (run.path / "audit.json").exists()
    # What is in split.csv still tells the relatives.
    assert json.loads((run.path / "metrics.json").read_text())["test_unrelated/acc"]["n"] == 50


def test_audit_is_true_or_false(leaking_run):
    with pytest.raises(UserError, match=r"data\.audit=.brief., but it is true or false"):
        leaking_run("data.audit=brief")


def test_what_merely_looks_alike_is_suspect_and_no_label_is_called_wrong(tmp_path):
    root = tmp_path / "photos"
    for seed, split in enumerate(("train", "test")):
        paint(root / split, {"cat": 25, "dog": 25}, seed=seed)
    for number in range(4):
        image = Image.open(root / f"train/cat/cat{number}.png")
        other = Image.open(root / f"train/dog/dog{number}.png")
        Image.blend(image, other, 0.28).save(root / f"test/dog/mixed{number}.png")
    result = inspect(root)
    assert "near" in {pair["kind"] for pair in result.pairs}, result.pairs
    assert (result.verdict, result.leaked) == ("suspect", {})
    assert "at most one label" not in result.summary()


def test_groups_that_names_tell_are_those_by_which_all_is_counted(tmp_path):
    """Of each of 24 patients two photographs that look alike, and one that does not."""
    images = paint(tmp_path / "images", {"x": 48}) / "x"

    def take(root: Path, divided: bool) -> Path:
        for patient in range(24):
            first, other = (Image.open(images / f"x{number}.png") for number in (patient, 24 + patient))
            for number, image in enumerate((first, first.transpose(Image.Transpose.ROTATE_90), other)):
                place = root / ("test" if number == 2 else "train") if divided else root
                place = place / "ab"[patient % 2] / f"p{patient:02}_{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                image.save(place)
        return root

    auto = "data.split.group=auto"
    whole, divided = (inspect(take(tmp_path / str(apart), apart), auto) for apart in (False, True))
    family = next(finding for finding in whole.findings if finding.kind == "family")
    assert (family.severity, family.count, whole.leaking) == ("note", 24, {})
    counts = [finding.accuracy["groups"] for finding in whole.findings if finding.accuracy]
    assert counts and max(counts) < 24
    assert (divided.verdict, divided.leaked) == ("suspect", {})
    assert divided.leaking["test"] > 12, "all of which a patient is among the training images"


def test_an_audit_of_an_earlier_version_can_be_read(photos):
    values = json.loads(inspect(photos).to_json())
    del values["proven"]
    assert Audit.from_json(json.dumps(values | {"verdict": "leaks", "leaking": {"test": 2}})).leaked == {"test": 2}
