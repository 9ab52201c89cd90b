"""Exporting a run, and using the file without imgbench."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_files import chunk, exif_of_colours, png, profile, tiff, with_chunks
from PIL import Image
from pillow_heif import from_pillow

import imgbench
from imgbench import export
from imgbench.decode import FORMATS, image_format
from imgbench.errors import UserError
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.parity import images_to_compare
from imgbench.preprocessing import Preprocessing
from imgbench.run import Run
from imgbench.training.classifier import ImageClassifier

HOME = Path(__file__).parents[1]
SCRIPT = HOME / "notebooks" / "predict_without_torch.py"


def run_export(monkeypatch, run, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", str(run), *map(str, words)])
    export.main()


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """A copy of the tiny run with what the command leaves there."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(tiny_run.path, folder)
    with pytest.MonkeyPatch.context() as patch:
        run_export(patch, folder)
    return Run(folder)


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A run to be spoilt."""
    shutil.copytree(tiny_run.path, tmp_path / "run")
    return Run(tmp_path / "run")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_file_was_compared_with_the_run_on_its_test_images(exported, tiny_run):
    facts = json.loads((exported.path / "export.json").read_text())
    assert facts["images"] == len(tiny_run.split_rows("test"))
    assert facts["top1_agreement"] == 1
    assert facts["largest_difference"] < 1e-5
    assert facts["bytes"] == (exported.path / "model.onnx").stat().st_size
    assert files(exported.path) - files(tiny_run.path) == {"model.onnx", "export.json"}


def test_file_that_disagrees_is_deleted_and_the_old_one_kept(copied, monkeypatch):
    def spoilt(self, pixels):
        return np.roll(run(self, pixels), 1, 1)

    run = OnnxModel.run
    monkeypatch.setattr(OnnxModel, "run", spoilt)
    (copied.path / "model.onnx").write_text("old")
    before = files(copied.path)
    with pytest.raises(UserError, match=r"(?s)agreement 0.00 %.*differs from the run by more than --tolerance 0.001"):
        run_export(monkeypatch, copied.path)
    assert (copied.path / "model.onnx").read_text() == "old"
    assert files(copied.path) == before


def test_nan_is_a_disagreement(copied, monkeypatch):
    monkeypatch.setattr(OnnxModel, "run", lambda self, pixels: np.full((len(pixels), 2), np.nan, np.float32))
    with pytest.raises(UserError, match="differs from the run"):
        run_export(monkeypatch, copied.path, "--images", 2)


def test_number_of_images_is_chosen_evenly(tiny_run):
    rows = tiny_run.split_rows("test")
    chosen = images_to_compare(tiny_run, 2)
    assert [Path(str(image)).name for image in chosen] == [Path(rows[i]["path"]).name for i in (0, len(rows) // 2)]
    assert len(images_to_compare(tiny_run, 500)) == len(rows)


def test_vanished_images_name_the_option_that_does_without(copied, monkeypatch, make_folder, tmp_path):
    config = copied.config
    config["data"]["root"] = str(make_folder(tmp_path / "others", {"cat": 1}))
    copied.write_config(config)
    with pytest.raises(UserError, match="--images 0"):
        run_export(monkeypatch, copied.path)
    run_export(monkeypatch, copied.path, "--images", 0, "--output", tmp_path / "new folder" / "a=b.onnx")
    assert imgbench.load(tmp_path / "new folder" / "a=b.onnx").class_names == ["cat", "dog"]


def test_ending_of_another_format_is_refused(tiny_run, monkeypatch):
    with pytest.raises(UserError, match=r"should end in \.onnx"):
        run_export(monkeypatch, tiny_run.path, "--output", "model.pt2")


def test_run_without_a_checkpoint_says_why_it_has_nothing_to_export(exported, tmp_path, monkeypatch):
    shutil.copytree(exported.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="its model is an ONNX file already"):
        run_export(monkeypatch, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").unlink()
    with pytest.raises(UserError, match="no epoch of its training was finished"):
        run_export(monkeypatch, tmp_path / "run")


@pytest.fixture(scope="module")
def write_file(tmp_path_factory):
    """Writes the file of an untrained classifier of 20 pixels with the preprocessing that is given."""

    def write(**preprocessing) -> Path:
        config = {"_target_": "imgbench.models.cnn.CNN", "num_classes": 2, "image_size": 20}
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("model") / "model.onnx"
        write_onnx(ImageClassifier(config, ["cat", "dog"], Preprocessing(20, **preprocessing).to_dict()), path)
        return path

    return write


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Every kind of file that `predict` reads, of odd sizes; one so large that it is decoded at reduced size."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)

    def noise(*shape: int, high: int = 256, kind: type = np.uint8) -> np.ndarray:
        return rng.integers(0, high, shape).astype(kind)

    for number, (width, height) in enumerate([(61, 40), (40, 75), (33, 33)]):
        image = Image.fromarray(noise(height, width, 3))
        exif = Image.Exif()
        exif[0x0112] = (1, 6, 3)[number]  # Orientation
        (image if number < 2 else image.convert("L")).save(folder / f"{number} (1).jpg", exif=exif)
    Image.fromarray(noise(1504, 2000, 3)).save(folder / "large.jpg")
    image, clear = Image.fromarray(noise(41, 52, 3)), Image.fromarray(noise(41, 52, 4))
    for name, kind in FORMATS.items():
        if name != "DICOM":  # which imgbench itself reads
            (from_pillow(image) if name == "HEIC" else image).save(folder / f"photo{kind.endings[0]}")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("1").save(folder / "one_bit.png")
    image.save(folder / "animated.gif", save_all=True, append_images=[Image.fromarray(noise(41, 52, 3))])
    for ending in (".png", ".webp", ".tif", ".avif"):
        clear.save(folder / f"transparent{ending}")
    from_pillow(clear).save(folder / "transparent.heic")
    clear.convert("LA").save(folder / "grey_and_transparent.png")
    image.convert("P").save(folder / "a_colour_transparent.png", transparency=3)
    image.convert("P").save(folder / "a_colour_transparent.gif", transparency=3)
    image.save(folder / "white_transparent.png", transparency=(255, 255, 255))
    for bits in (12, 16):
        Image.fromarray(noise(50, 40, high=2**bits, kind=np.uint16)).save(folder / f"{bits}_bits.tif")
        Image.fromarray(noise(50, 40, high=2**bits, kind=np.uint16)).save(folder / f"{bits}_bits.png")
    Image.fromarray(noise(30, 30, high=10**6, kind=np.int32) - 1000).save(folder / "negative.tif")
    Image.fromarray(rng.random((30, 30), np.float32)).save(folder / "share.tif")
    measured = rng.normal(3, 10, (30, 30)).astype(np.float32)
    measured[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(measured).save(folder / "measured.tif")
    Image.fromarray(np.full((30, 30), 7.5, np.float32)).save(folder / "constant.tif")
    for ending in (".jpg", ".png", ".heic"):
        opened = from_pillow(image) if ending == ".heic" else image
        opened.save(folder / f"p3{ending}", icc_profile=profile("Display P3"))
    image.save(folder / "adobe_rgb.jpg", exif=exif_of_colours())
    chunks = {"linear": [chunk(b"gAMA", b"\0\1\x86\xa0")], "p3": [chunk(b"cICP", bytes([12, 13, 0, 1]))]}
    for name, own in chunks.items():
        image.save(folder / f"{name}.png")
        (folder / f"{name}.png").write_bytes(with_chunks((folder / f"{name}.png").read_bytes(), *own))
    image.convert("L").save(folder / "grey_with_profile.jpg", icc_profile=profile("ProPhoto RGB"))
    deep = noise(50, 40, 4, high=4096, kind=np.uint16)
    deep[0, 0] = 65535
    for colour_type, channels in ((2, 3), (4, 2), (6, 4)):
        (folder / f"deep{channels}.png").write_bytes(png(deep[..., :channels], colour_type))
    kinds = {"plain": {}, "packed": {"compression": "lzw"}, "clear": {"extrasamples": ["unassalpha"]}}
    for name, options in kinds.items():
        values, tags = deep if name == "clear" else deep[..., :3], [(274, 3, 1, 6, False)]
        tags += [(34675, 7, None, profile("Adobe RGB"), False)] if name == "packed" else []
        (folder / f"deep_{name}.tif").write_bytes(tiff(values, photometric="rgb", extratags=tags, **options))
    (folder / "white_is_0.tif").write_bytes(tiff(deep[..., 0], photometric="miniswhite"))
    (folder / "32_bits.tif").write_bytes(tiff(deep[..., 0].astype(np.uint32) << 18))
    assert {image_format(file.read_bytes()) for file in folder.iterdir()} == set(FORMATS) - {"DICOM"}
    return sorted(folder.iterdir())


# How the file scales more than 8 bits: as most models, as one of 12-bit files, and as those of old versions.
PREPARED = [{"resize": "pad"}, {"resize": 27, "intensity": (0, 4095)}, {"intensity": "16 bit", "decoding": 1}]
SEVERAL = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
assert not [name for name in sys.modules if name.startswith(("torch", "imgbench"))]
"""


def test_script_predicts_without_torch_what_imgbench_predicts(write_file, photos):
    paths = [write_file(**preprocessing) for preprocessing in PREPARED]
    calls = json.dumps([[str(SCRIPT), str(path), *map(str, photos)] for path in paths])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SEVERAL, calls], cwd=paths[0].parent, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for path in paths:
        for photo, prediction in zip(photos, imgbench.load(path).predict(photos), strict=True):
            assert next(lines) == str(photo)
            printed = dict(next(lines).split() for _ in range(2))
            found = {name: float(probability) for name, probability in printed.items()}
            assert found == pytest.approx(prediction.probabilities, abs=1e-3), (path, photo.name)


def test_script_names_a_picture_of_zero_bytes(write_file, tmp_path):
    (tmp_path / "nothing.jpg").touch()
    words = [sys.executable, str(SCRIPT), str(write_file()), "nothing.jpg"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "nothing.jpg cannot be read: cannot identify image file 'nothing.jpg'\n",
    )  # fmt: skip
