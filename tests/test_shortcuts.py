import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.data.read import read_table
from imgbench.data.split import SplitPlan
from imgbench.data.table import ImageTable
from imgbench.inspection.shortcuts import Probe, probe
from imgbench.number import group_codes, share
from imgbench.preprocessing import Preprocessing


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    os.utime(path, (1e9, 1e9))


@pytest.fixture
def noise(tmp_path):
    """Noise in which nothing tells the classes apart, under the same names, written at the same time."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(40):
            write(tmp_path / name / f"{number}.bmp", rng.integers(0, 256, (24, 24, 3)))
    return tmp_path


def table_of(root: Path, **plan) -> ImageTable:
    return read_table(root, Preprocessing(24), SplitPlan(**plan))


def probes_of(root: Path, **plan) -> dict[str, Probe]:
    return {found.name: found for found in probe(table_of(root, **plan))}


def test_where_nothing_tells_the_classes_apart_no_probe_warns(noise):
    found = probes_of(noise)
    assert list(found) == ["largest class", "colours", "border pixels", "file sizes", "dimensions", "file names",
                           "file times"]  # fmt: skip
    assert [one.name for one in found.values() if one.warning] == []
    assert all(0 <= one.accuracy.low <= one.accuracy.value <= one.accuracy.high for one in found.values())


def test_the_largest_class_is_named_with_its_share(tmp_path, make_folder):
    found = probes_of(make_folder(tmp_path, {"cat": 60, "dog": 6}))
    largest = found["largest class"]
    assert largest.accuracy.value == pytest.approx(60 / 66, abs=0.03)
    assert largest.sentence.startswith("Always answering 'cat' is right in 9")
    assert found["dimensions"].sentence.endswith("no better than always answering 'cat'.")


def colour(path: Path, cat: bool) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    pixels[..., 0] //= 2 if cat else 1
    write(path, pixels)


def border(path: Path, cat: bool) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 12] = 60 if cat else 200
    write(path, pixels)


def shape(path: Path, cat: bool) -> None:
    if cat:
        write(path, np.random.default_rng(int(path.stem)).integers(0, 256, (24, 25, 3)))


def size(path: Path, cat: bool) -> None:
    path.write_bytes(path.read_bytes() + bytes(cat))
    os.utime(path, (1e9, 1e9))


def name(path: Path, cat: bool) -> None:
    path.rename(path.with_stem(f"{'IMG' if cat else 'DSC'}_{path.stem}"))


def time(path: Path, cat: bool) -> None:
    os.utime(path, (1e9, 2e9 + int(path.stem) if cat else 1e9))


@pytest.mark.parametrize(
    ("plant", "key", "warns"),
    [
        (colour, "colours", True),
        (border, "border pixels", True),
        (shape, "dimensions", True),
        (size, "file sizes", True),
        (name, "file names", False),  # which no network sees
        (time, "file times", False),
    ],
)
def test_a_planted_shortcut_is_found(noise, plant, key, warns):
    for path in sorted(noise.rglob("*.bmp")):
        plant(path, path.parent.name == "cat")
    found = probes_of(noise)
    assert found[key].accuracy.value > 0.9
    assert found[key].skill > 0.8
    assert bool(found[key].warning) == warns
    assert "sees only" in found[key].sentence and "95 % interval" in found[key].sentence


def test_copies_are_not_taken_for_knowledge(tmp_path):
    """Each photograph has a colour of its own: among its copies it is told at once, among others never."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for photo in range(30):
            tint = rng.integers(0, 256, 3)
            for copy in range(4):
                pixels = np.clip(tint + rng.integers(-9, 10, (24, 24, 3)), 0, 255)
                write(tmp_path / label / f"{label}{photo}-{copy}.bmp", pixels)
    images, photographs = probes_of(tmp_path)["colours"], probes_of(tmp_path, group="^[a-z]+[0-9]+")["colours"]
    assert images.accuracy.value > 0.9 and images.warning
    assert photographs.accuracy.value < 0.7 and not photographs.warning
    assert photographs.accuracy.groups < 60 and "groups (95 %" in photographs.sentence
    width = [one.accuracy.high - one.accuracy.low for one in (photographs, images)]
    assert width[0] > 1.5 * width[1]


def test_groups_found_elsewhere_are_kept_together(noise):
    table = table_of(noise)
    halves = [path.rsplit("/", 1)[-1] for path in table.paths]  # 40 pairs
    assert all(found.accuracy.groups < found.accuracy.n for found in probe(table, halves))


def test_the_test_images_are_not_touched(noise):
    table = table_of(noise)
    before = probe(table)
    for row in table.rows("test"):
        (table.root / table.paths[row]).unlink()
        table.labels[row] = 1 - table.labels[row]
    assert probe(table) == before
    assert before[0].accuracy.n == len(table.rows("train")) + len(table.rows("val"))


def test_of_many_images_some_are_drawn(noise):
    assert {found.accuracy.n for found in probe(table_of(noise), cap=30)} == {30}


def test_probes_see_the_same_whether_pixels_are_kept_or_not(tmp_path):
    rng = np.random.default_rng(0)
    for name, darkest in (("cat", 0), ("dog", 20)):
        for number in range(40):
            write(tmp_path / name / f"{number}.bmp", rng.integers(darkest, 256, (40, 60, 3)))
    kept, streamed = (read_table(tmp_path, Preprocessing(24, "crop"), SplitPlan(), cache) for cache in ("disk", "off"))
    assert kept.pixels is not None and streamed.pixels is None
    assert probe(kept) == probe(streamed)


def test_without_independent_images_of_two_classes_only_the_largest_is_named(noise):
    table = table_of(noise)
    assert [found.name for found in probe(table, [path.split("/")[0] for path in table.paths])] == ["largest class"]


def test_a_probe_is_measured_as_a_network_is(tmp_path):
    for label, colour in (("cat", 50), ("dog", 200)):
        for number in range(50):
            write(tmp_path / label / f"{number}.bmp", np.full((24, 24, 3), colour + number % 3))
    table = table_of(tmp_path)
    groups = ["session" if int(Path(path).stem) < 40 else "" for path in table.paths]
    rows = np.sort(np.concatenate([table.rows("train"), table.rows("val")]))
    found = {one.name: one.accuracy for one in probe(table, groups)}["colours"]
    everything = np.ones(len(rows), bool)
    assert found == share(everything, everything, group_codes([groups[row] for row in rows]))
    assert found.value == 1 and found.low < 0.5, "most images are of one session"
