"""Each finding about files and classes appears where its fault is planted, and not in a clean folder."""

from pathlib import Path

import numpy as np
import pytest
from made_files import dicom, profile
from PIL import Image

from imgbench.data.look import Header, header_of
from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.errors import UserError
from imgbench.inspection.audit import audit, group_names
from imgbench.inspection.classes import class_findings
from imgbench.inspection.file_facts import file_findings, read_headers
from imgbench.inspection.findings import Finding
from imgbench.inspection.thumbnails import make_thumbnails
from imgbench.preprocessing import Preprocessing


def all_of(root: Path) -> dict[str, Finding]:
    """kind -> the finding of that kind."""
    table = read_table(root, Preprocessing(32), SplitPlan(), "memory")
    found = [*file_findings(table, read_headers(table), make_thumbnails(table)), *class_findings(table)]
    return {finding.kind: finding for finding in found}


def findings_of(root: Path) -> dict[str, tuple[int, list[str]]]:
    """kind -> (count, examples)."""
    return {kind: (finding.count, finding.examples) for kind, finding in all_of(root).items()}


@pytest.fixture
def photos(tmp_path, make_folder):
    return make_folder(tmp_path / "photos", {"cat": 30, "dog": 30}, 48)


def noise(*size: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


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


def test_masks_are_told_by_name_or_by_their_two_levels(photos):
    for number in range(3):
        shape = np.zeros((48, 48), np.uint8)
        shape[10:30, 10 + number : 40] = 255
        Image.fromarray(shape).save(photos / f"cat/{number}_mask.png")
        Image.fromarray(shape.T).save(photos / f"dog/shape{number}.png")
    found = findings_of(photos)
    assert found["masks"] == (3, [f"cat/{number}_mask.png" for number in range(3)])
    assert found["two_levels"] == (3, [f"dog/shape{number}.png" for number in range(3)])


def test_masks_are_said_at_training(photos, caplog):
    (photos / "cat/0_mask.png").write_bytes((photos / "dog/0.png").read_bytes())
    (photos / "dog/film.mp4").write_bytes(b"film")
    read_table(photos, Preprocessing(16), SplitPlan())
    assert "Called masks, with photographs of the same names: 1 image," in caplog.text
    assert "1 video left out, which imgbench does not read. Take frames out of them" in caplog.text


def test_drawings_are_no_masks_where_all_images_are_such(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(20):
            levels = np.kron(rng.integers(0, 2, (6, 6), np.uint8) * 255, np.ones((8, 8), np.uint8))
            Image.fromarray(levels).save(tmp_path / name / f"{number}.png")
    assert "two_levels" not in findings_of(tmp_path)


def test_augmented_copies_pages_and_files_that_are_not_read_are_named(photos):
    noise(48, 48).save(photos / "cat/0_flip.png")
    frames = [noise(48, 48, seed=seed) for seed in (50, 51)]
    frames[0].save(photos / "dog/stack.tif", save_all=True, append_images=frames[1:])
    (photos / "dog/raw.NEF").write_bytes(b"raw")
    found = findings_of(photos)
    assert found["augmented"] == (1, ["cat/0_flip.png"])
    assert found["pages"] == (1, ["dog/stack.tif"])
    assert found["unread"] == (1, ["dog/raw.NEF"])


def deep_folder(root, high: int = 4000):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(20):
            Image.fromarray(rng.integers(0, high, (40, 40), dtype=np.uint16)).save(root / name / f"{number}.png")
    return root


def test_values_far_from_all_others_are_told_and_do_not_set_the_range(tmp_path):
    root = deep_folder(tmp_path)
    values = np.array(Image.open(root / "cat/3.png"))
    values[7, 7] = 65535
    Image.fromarray(values).save(root / "cat/3.png")
    found = all_of(root)["stray_values"]
    assert found.examples == ["cat/3.png"]
    assert "such as 65535" in found.message and "0 and 4095" in found.message


def test_images_on_another_scale_than_the_others_are_told(tmp_path):
    root = deep_folder(tmp_path, 2000)
    Image.fromarray(np.random.default_rng(1).integers(0, 65000, (40, 40), dtype=np.uint16)).save(root / "dog/x.png")
    assert findings_of(root)["scale"] == (1, ["dog/x.png"])


def test_profiles_that_tell_the_classes_apart_are_a_warning(tmp_path):
    rng = np.random.default_rng(0)
    for name, space in (("cat", "Display P3"), ("dog", None)):
        (tmp_path / name).mkdir()
        for number in range(20):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
            image.save(tmp_path / name / f"{number}.png", icc_profile=profile(space) if space else None)
    found = all_of(tmp_path)["profiles"]
    assert found.severity == "warning" and "tell the class of 100 % of the images" in found.message
    assert sorted(found.examples) == ["Display P3: 20 cat", "no profile: 20 dog"]


def test_dicom_images_of_one_patient_stay_on_one_side_and_nobody_is_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            values = rng.integers(0, 4000, (40, 40), dtype=np.uint16)
            (tmp_path / name / f"{number}.dcm").write_bytes(dicom(values, PatientID=f"{name}{number // 2}/4711"))
    table = read_table(tmp_path, Preprocessing(16), SplitPlan(group="auto"), find_groups=group_names)
    assert len(set(table.groups)) == 20
    splits = dict(zip(table.groups, table.splits.tolist(), strict=True))
    assert all(splits[group] == split for group, split in zip(table.groups, table.splits.tolist(), strict=True))
    result = audit(table).to_json()
    assert "The DICOM files are of 20 patients" in result
    assert not any(word in text for text in (result, *table.csv_lines()) for word in ("4711", "Jane", "Doe"))


def write_all(root: Path, images: dict[str, list[Image.Image]]) -> Path:
    for name, own in images.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(own):
            image.save(root / name / f"{number}.png")
    return root


NOISE = [noise(32, 32, seed=seed) for seed in range(40)]
MIRRORS = [Image.fromarray(np.concatenate([np.asarray(one), np.asarray(one)[:, ::-1]], 1)) for one in NOISE]
SCENE = noise(15, 12, seed=9).resize((120, 96), Image.Resampling.BICUBIC)
FILM = [SCENE.crop((i, 0, i + 96, 96)) for i in range(20)]  # the camera turns
BLACK = [Image.new("RGB", (32, 32))] * 20


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"a": NOISE[:1], "b": NOISE[1:2]}, "has 1 image, and none of them.*add images, or leave the class out"),
        ({"a": NOISE[:20], "b": NOISE[:1] * 300}, "all 300 images of class 'b' show one and the same picture"),
        ({"a": NOISE[:20], "b": BLACK}, "all 20 images of class 'b' are blank"),
        ({"a": NOISE[:20], "b": FILM}, "class 'b' has 20 images in 1 group,.* data.split.group=null divides them"),
        ({"a": NOISE[:20], "b": NOISE[20:]}, None),
        ({"a": MIRRORS[:20], "b": MIRRORS[20:]}, None),
    ],
)
def test_sets_of_which_nothing_can_be_learnt_are_told_in_a_sentence(tmp_path, images, said):
    root = write_all(tmp_path / "photos", images)

    def found():
        return audit(read_table(root, Preprocessing(16), SplitPlan(group="auto"), find_groups=group_names))

    if said:
        with pytest.raises(UserError, match=f"(?s){said}"):
            found()
    else:
        assert found().pairs == []
