"""Masks and augmented copies are known by their names, where their photographs are there too."""

import pytest

from imgbench.data.derived import augmented_rows, mask_rows


@pytest.mark.parametrize(
    ("paths", "masks"),
    [
        (["benign/a (1).png", "benign/a (1)_mask.png", "benign/a (1)_mask_1.png"], [1, 2]),
        (["covid/images/1.png", "covid/masks/1.png", "covid/masks/2.png"], [1]),
        (["images/1.jpg", "masks/1.png"], [1]),
        (["train/cat/1.jpg", "train/cat/1_gt.png", "test/cat/1.jpg"], [1]),
        (["mask/1.jpg", "no_mask/2.jpg", "masked/3.jpg"], []),  # people who wear one
        (["mask/1.jpg", "no_mask/1.jpg"], []),
        (["cat/label.jpg", "cat/1.jpg", "dog/segment.jpg"], []),
    ],
)
def test_masks_are_those_of_photographs_that_are_there(paths, masks):
    assert mask_rows(paths) == masks


@pytest.mark.parametrize(
    ("paths", "copies"),
    [
        (["cat/1.jpg", "cat/1_flip.jpg", "cat/1_rot_90.jpg", "cat/1-aug3.png"], [1, 2, 3]),
        ([f"cat/a_jpg.rf.{letter * 32}.jpg" for letter in "abc"] + [f"cat/b_jpg.rf.{'d' * 32}.jpg"], [0, 1, 2]),
        (["cat/dark.jpg", "cat/night_dark.jpg", "cat/1.jpg", "cat/2.jpg"], []),
    ],
)
def test_augmented_copies_are_those_of_photographs_that_are_there(paths, copies):
    assert augmented_rows(paths) == copies
