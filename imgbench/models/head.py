"""The dense head that every hand-built body ends in, so that any head goes with any body."""

from collections.abc import Sequence

import torch
from torch import nn

from imgbench.models.layers import Dropout


def pool_features(pool_size: int | None) -> nn.Module:
    """Averages a feature map to `pool_size` squared, so that a head fits every input size; None leaves it as it is."""
    return nn.Identity() if pool_size is None else nn.AdaptiveAvgPool2d(pool_size)


def dense_layers(width: int, num_classes: int, hidden: Sequence[int], drop_rate: float | None) -> list[nn.Module]:
    """Dense layers of the widths `hidden`, each with ReLU and dropout, and the last one for the classes.

    Args:
        width: number of input features.
        drop_rate: None leaves the dropout layers out, and 0 leaves them without effect: the names of the dense layers
            in a state dict count them.
    """
    layers: list[nn.Module] = []
    for features in hidden:
        layers += [nn.Linear(width, features), nn.ReLU(inplace=True)]
        layers += [] if drop_rate is None else [Dropout(drop_rate)]
        width = features
    return [*layers, nn.Linear(width, num_classes)]


def number_of_features(body: nn.Module, in_chans: int, image_size: int) -> int:
    """Features that the feature map of one image has when it is flattened."""
    on_meta = {name: torch.empty_like(value, device="meta") for name, value in body.state_dict().items()}
    images = torch.empty(2, in_chans, image_size, image_size, device="meta")  # shapes without arithmetic
    return torch.func.functional_call(body, on_meta, images).flatten(1).shape[1]
