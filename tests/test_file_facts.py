"""Each finding about files and classes appears where its fault is planted, and not in a clean folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.data.look import Header, header_of
from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.inspection.classes import class_findings
from imgbench.inspection.file_facts import file_findings, read_headers
from imgbench.inspection.thumbnails import make_thumbnails
from imgbench.preprocessing import Preprocessing


def findings_of(root: Path) -> dict[str, tuple[int, list[str]]]:
    """kind -> (count, examples)."""
    table = read_table(root, Preprocessing(32), SplitPlan(), "memory")
    found = [*file_findings(table, read_headers(table), make_thumbnails(table)), *class_findings(table)]
    return {finding.kind: (finding.count, finding.examples) for finding in found}


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 30, "dog": 30}, 48)


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def test_a_clean_folder_has_no_findings(photos):
    assert findings_of(photos) == {}


def test_damaged_empty_hidden_and_other_files_are_named(photos):
    (photos / "cat/cut.png").write_bytes((photos / "cat/0.png").read_bytes()[:-100])
    (photos / "cat/empty.jpg").touch()
    (photos / "cat/.DS_Store").write_text("x")
    (photos / "cat/notes.txt").write_text("x")
    found = findings_of(photos)
    assert set(found) == {"damaged", "empty_file", "hidden_file", "other_file"}
    assert found["damaged"][1][0].startswith("cat/cut.png (")
    assert found["empty_file"] == (1, ["cat/empty.jpg"])


def test_an_ending_of_another_format_is_named(photos):
    noise(48, 48).save(photos / "dog/x.jpg", "PNG")
    assert findings_of(photos) == {"ending": (1, ["dog/x.jpg (PNG)"])}


def test_tiny_and_long_images_are_named_with_their_sizes(photos):
    noise(12, 16).save(photos / "dog/icon.png")
    noise(300, 48).save(photos / "dog/panorama.png")
    found = findings_of(photos)
    assert found["tiny"] == (1, ["dog/icon.png (12 x 16)"])
    assert found["aspect"] == (1, ["dog/panorama.png (300 x 48)"])
    assert found["size"][0] == 2


def test_small_images_are_not_tiny_where_all_are_small(tmp_path, make_folder):
    assert findings_of(make_folder(tmp_path / "photos", {"cat": 20, "dog": 20}, 16)) == {}


def test_images_turned_by_exif_are_named(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(48, 48).save(photos / "dog/turned.jpg", exif=exif)
    assert findings_of(photos)["exif"] == (1, ["dog/turned.jpg"])


def test_single_coloured_images_are_named_and_damaged_ones_are_not(photos):
    Image.new("RGB", (48, 48), (9, 9, 9)).save(photos / "cat/cap.png")
    (photos / "cat/no.png").write_text("no image")
    assert findings_of(photos)["one_colour"] == (1, ["cat/cap.png"])


def test_a_rare_mode_is_named(photos):
    noise(48, 48).convert("L").save(photos / "cat/grey.png")
    assert findings_of(photos) == {"mode": (1, ["cat/grey.png"])}


def test_few_images_and_imbalance_are_told(tmp_path, make_folder):
    found = findings_of(make_folder(tmp_path / "photos", {"cat": 80, "dog": 9}, 48))
    assert found["few_images"] == (1, ["dog (9)"])
    assert "imbalance" in found


def test_class_folders_whose_names_hardly_differ_are_told(tmp_path, make_folder):
    found = findings_of(make_folder(tmp_path / "photos", {"cat": 30, "cat (1)": 30, "dog": 30}, 48))
    assert "class_names" in found


def test_splits_of_another_composition_are_told(tmp_path, make_folder):
    root = tmp_path / "photos"
    make_folder(root / "train", {"cat": 60, "dog": 60}, 48)
    make_folder(root / "test", {"cat": 40, "dog": 4}, 48)
    assert "composition" in findings_of(root)
    assert "missing_class" not in findings_of(root)


def test_a_class_that_a_split_lacks_is_named(tmp_path, make_folder):
    root = tmp_path / "photos"
    make_folder(root / "train", {"cat": 30, "dog": 30}, 48)
    make_folder(root / "test", {"cat": 30}, 48)
    assert findings_of(root)["missing_class"] == (1, ["dog"])


def test_header_is_read_without_the_pixels(tmp_path):
    noise(40, 30).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    assert header_of((tmp_path / "half.png").open("rb")) == Header("PNG", "RGB", 40, 30, False)
    assert header_of((tmp_path / "text.png").open("rb")) is None
