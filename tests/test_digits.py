import numpy as np
import pytest
from PIL import Image

from imgbench.data.augment import Augment
from imgbench.data.digits import DigitsDataModule, write_digits
from imgbench.errors import UserError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "below" / "digits"
    write_digits(root)
    return root


def test_the_digits_are_written_as_an_image_folder(digits):
    assert sorted(path.name for path in digits.iterdir()) == list("0123456789")
    assert len(list(digits.glob("*/*.png"))) == 1797
    assert [path.name for path in digits.parent.iterdir()] == ["digits"], "nothing is left beside the folder"


def test_the_pictures_are_scikit_learns_scaled_to_8_bits(digits):
    from sklearn.datasets import load_digits

    data, targets = load_digits(return_X_y=True)
    for index in (0, 1, 900, 1796):
        pixels = np.asarray(Image.open(digits / str(targets[index]) / f"{index:04d}.png"))
        assert np.abs(pixels / 255 * 16 - data[index].reshape(8, 8)).max() < 0.05


def test_digits_that_are_there_are_not_written_again(digits):
    before = [folder.stat().st_mtime_ns for folder in (digits, digits.parent)]
    write_digits(digits)
    assert [folder.stat().st_mtime_ns for folder in (digits, digits.parent)] == before


def test_the_data_module_needs_nothing_but_the_cache_directory(cache_home):
    data = DigitsDataModule(augment=Augment(), image_size=8, normalize="unit", split={"test": 0.2}, num_classes=10)
    assert data.class_names == list("0123456789")
    assert data.table.root == cache_home / "digits"
    counts = np.bincount(data.table.splits)
    assert counts.sum() == 1797
    assert counts.tolist() == [1797 - 270 - 359, 270, 359]


def test_a_cache_directory_that_cannot_be_written_is_an_error_naming_what_moves_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"data\.root: .* cannot be written to .*file/digits \(") as error:
        DigitsDataModule(augment=Augment())
    assert "IMGBENCH_CACHE=DIR" in str(error.value)
