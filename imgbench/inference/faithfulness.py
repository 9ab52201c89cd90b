"""Whether a map shows what a model looks at: its places are hidden, and shown alone, beside random ones.

Deletion and insertion, Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from imgbench.inference.occlusion import GRID, edges, mean_colour

SHARES = (0.1, 0.25, 0.5)  # of the squares of an image that are hidden, and that are all that is revealed
BATCH = 32


def faithfulness(
    model: Callable[[Tensor], np.ndarray],
    images: Tensor,
    maps: Sequence[np.ndarray],
    classes: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """(N,) by how much more a class's probability depends on what a map points at than on as many random squares.

    That is the mean, over `SHARES`, of how much lower it is where the map's squares are hidden instead of random ones,
    and of how much higher it is where they alone are shown: 0 for a map that is no better than chance. What is hidden
    has the image's mean colour.

    Args:
        model: uint8 (N, 3, H, W) -> probabilities (N, num_classes).
        maps: for each image (h, w), of any size.
        classes: (N,) the class that each map explains.
    """
    rng = np.random.default_rng(seed)
    found = []
    for image, heat, label in zip(images, maps, classes, strict=True):
        importance = adaptive_avg_pool2d(torch.from_numpy(heat).float()[None], GRID).flatten().numpy()
        orders = np.argsort(-importance, kind="stable"), rng.permutation(GRID * GRID)
        pictures = [
            _with_squares(image, order[: round(share * GRID * GRID)], hidden)
            for share in SHARES
            for hidden in (True, False)
            for order in orders
        ]
        batches = torch.stack(pictures).split(BATCH)
        probabilities = np.concatenate([model(part) for part in batches])[:, label].reshape(len(SHARES), 2, 2)
        hidden, shown = probabilities[:, 0], probabilities[:, 1]  # (shares, by the map or at random)
        found.append(np.mean([hidden[:, 1] - hidden[:, 0], shown[:, 0] - shown[:, 1]]))
    return np.array(found)


def _with_squares(image: Tensor, places: np.ndarray, hidden: bool) -> Tensor:
    """The image (3, H, W) with these of its squares hidden, or with all others hidden."""
    mask = torch.zeros(GRID * GRID, dtype=torch.bool)
    mask[torch.from_numpy(places)] = True
    rows, columns = (torch.tensor(edges(side)).diff() for side in image.shape[1:])
    chosen = mask.reshape(GRID, GRID).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return torch.where(chosen == hidden, mean_colour(image), image)
