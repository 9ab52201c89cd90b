"""What a model looks at, found by hiding parts of the image."""

import numpy as np
import pytest
import torch

from imgbench.inference.occlusion import GRID, occlusion


def bright_corner(images):
    """Probabilities of two classes, by the upper left corner alone; other places change nothing."""
    brightness = images[:, 0, :4, :4].float().mean((1, 2)).numpy() / 255
    first = 1 / (1 + np.exp(-20 * brightness))
    return np.stack([first, 1 - first], 1).astype(np.float32)


@pytest.mark.parametrize("size", [28, 30])
def test_only_what_the_model_looks_at_matters(size):
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    images[:, :, :4, :4] = 200
    before = images.clone()
    found = occlusion(bright_corner, images, np.array([0, 1]))
    assert found.shape == (2, GRID, GRID)
    assert found[0, 0, 0] > 5, "it speaks for the first class"
    assert found[1, 0, 0] < -5, "and against the second"
    assert np.abs(found).sum() == pytest.approx(np.abs(found[:, 0, 0]).sum())
    assert torch.equal(images, before)


def test_a_model_that_is_quite_sure_is_explained_too():
    def sure(images):
        return np.tile(np.array([1, 0], np.float32), (len(images), 1))

    found = occlusion(sure, torch.zeros(1, 3, 14, 14, dtype=torch.uint8), np.array([0]))
    assert np.isfinite(found).all()
