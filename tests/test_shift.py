"""Whether the images of a given split come from elsewhere than the training images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgbench.inspection.record import inspect
from imgbench.inspection.shift import shift


def write_photos(root: Path, splits: dict[str, tuple[int, int, int]]) -> Path:
    """`root/<split>/<class>/<number>.png`; of each split the number of cats and of dogs, and their brightness."""
    rng = np.random.default_rng(0)
    for split, (cats, dogs, brightness) in splits.items():
        for name, count, tint in (("cat", cats, 0), ("dog", dogs, 40)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(brightness + tint, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def table_of(root: Path, make_data):
    data = make_data(root)
    data.setup()
    return data.table


def test_test_images_of_another_brightness_are_told_from_the_training_images(tmp_path, make_data):
    table = table_of(write_photos(tmp_path, {"train": (40, 40, 90), "test": (30, 30, 130)}), make_data)
    found = shift(table, "test", table.paths)
    assert found is not None
    assert found.accuracy.low > 0.55
    assert found.accuracy.n == 120
    finding = next(one for one in inspect(table).findings if one.kind == "shift_test")
    assert "can be told from training images" in finding.message
    assert finding.severity == "note"


def test_images_that_are_drawn_alike_are_not_told_apart_even_if_classes_differ_in_number(tmp_path, make_data):
    root = write_photos(tmp_path, {"train": (40, 80, 90), "test": (60, 30, 90)})
    table = table_of(root, make_data)
    found = shift(table, "test", table.paths)
    assert found is not None
    assert found.accuracy.low < 0.5 < found.accuracy.high
    finding = next(one for one in inspect(table).findings if one.kind == "shift_test")
    assert "cannot be told from training images" in finding.message


@pytest.mark.parametrize("count", [2, 5])
def test_of_a_handful_of_images_nothing_is_said(tmp_path, make_data, count):
    table = table_of(write_photos(tmp_path, {"train": (20, 20, 90), "test": (count, count, 200)}), make_data)
    assert shift(table, "test", table.paths) is None


def test_a_division_that_is_drawn_is_no_question(tmp_path, make_folder, make_data):
    table = table_of(make_folder(tmp_path / "photos", {"cat": 60, "dog": 60}), make_data)
    assert not [one for one in inspect(table).findings if one.kind.startswith("shift")]
