"""Maps that point at what decides are told from maps that do not."""

import numpy as np
import torch

from imgbench.inference.faithfulness import faithfulness

SIDE = 28


def upper_left(images: torch.Tensor) -> np.ndarray:
    """A model whose first class is as probable as the upper left quarter is bright."""
    bright = images[:, :, : SIDE // 2, : SIDE // 2].float().mean((1, 2, 3)).numpy() / 255
    return np.stack([bright, 1 - bright], 1)


def images_and_map(n: int = 8) -> tuple[torch.Tensor, np.ndarray]:
    images = torch.zeros(n, 3, SIDE, SIDE, dtype=torch.uint8)
    images[:, :, : SIDE // 2, : SIDE // 2] = 250
    heat = np.zeros((7, 7), np.float32)
    heat[:4, :4] = 1
    return images, heat


def test_a_map_that_points_at_what_decides_is_better_than_chance():
    images, heat = images_and_map()
    right = faithfulness(upper_left, images, [heat] * 8, np.zeros(8, int))
    wrong = faithfulness(upper_left, images, [1 - heat] * 8, np.zeros(8, int))
    assert right.min() > 0.05
    assert wrong.max() < 0


def test_a_random_map_is_no_better_than_chance():
    images, _ = images_and_map(200)
    rng = np.random.default_rng(1)
    found = faithfulness(upper_left, images, [*rng.random((200, 7, 7)).astype(np.float32)], np.zeros(200, int))
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(200)


def test_maps_of_any_size_are_compared_by_squares():
    images, heat = images_and_map(1)
    large = np.kron(heat, np.ones((4, 4), np.float32))
    first, second = (faithfulness(upper_left, images, [one], np.zeros(1, int)) for one in (heat, large))
    assert np.allclose(first, second)
