"""What a model looks at, asked of it as a function of images: for ONNX files, and networks that keep no feature map."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

GRID = 7  # parts of a side; the model is asked once for each of their squares


def occlusion(model: Callable[[Tensor], np.ndarray], images: Tensor, classes: np.ndarray) -> np.ndarray:
    """(N, GRID, GRID) by how much the log-odds of a class fall where a square is hidden behind the image's mean colour.

    Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901

    Args:
        model: uint8 (N, 3, H, W) -> probabilities (N, num_classes).
        classes: (N,) the class that is to be explained in each image.
    """
    maps = []
    rows, columns = (edges(side) for side in images.shape[2:])
    for image, label in zip(images, classes, strict=True):
        hidden = image.repeat(GRID * GRID + 1, 1, 1, 1)  # the last is left as it is
        mean = mean_colour(image)
        for place in range(GRID * GRID):
            row, column = divmod(place, GRID)
            (top, bottom), (left, right) = rows[row : row + 2], columns[column : column + 2]
            hidden[place, :, top:bottom, left:right] = mean
        odds = _log_odds(np.concatenate([model(part) for part in hidden.split(32)]), int(label))
        maps.append((odds[-1] - odds[:-1]).reshape(GRID, GRID))
    return np.stack(maps)


def edges(side: int) -> list[int]:
    """Where the `GRID` parts of a side begin, and where the last ends."""
    return torch.linspace(0, side, GRID + 1).round().int().tolist()


def mean_colour(image: Tensor) -> Tensor:
    """(3, 1, 1) of an image (3, H, W), in its own type."""
    return image.float().mean((1, 2), keepdim=True).round().to(image.dtype)


def _log_odds(probabilities: np.ndarray, label: int) -> np.ndarray:
    others = np.delete(probabilities, label, 1).sum(1)  # 1 - p would be 0 where the model is sure
    return np.log(np.maximum(probabilities[:, label], 1e-30)) - np.log(np.maximum(others, 1e-30))
