"""The body and the dense head that every network built here consists of, so that any head goes with any body."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgbench.models.layers import Dropout


class BodyAndHead(nn.Module):
    """A body's feature map, averaged to `pool_size` squared, and dense layers on it.

    Args:
        features: the body, whose feature map has `channels` channels.
        hidden: widths of the dense layers before the last; none makes the head a single layer.
        pool_size: averaging the feature map to this side makes the head fit every input size; None leaves the map as it
            is for images of `image_size`.
        drop_rate: dropout after each hidden dense layer; None leaves the dropout layers out, and 0 leaves them without
            effect: the names of the dense layers in a state dict count them.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        num_classes: int,
        *,
        in_chans: int,
        image_size: int,
        hidden: Sequence[int],
        pool_size: int | None,
        drop_rate: float | None,
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.Identity() if pool_size is None else nn.AdaptiveAvgPool2d(pool_size)
        width = channels * pool_size**2 if pool_size else _number_of_features(features, in_chans, image_size)
        layers: list[nn.Module] = []
        for outputs in hidden:
            layers += [nn.Linear(width, outputs), nn.ReLU(inplace=True)]
            layers += [] if drop_rate is None else [Dropout(drop_rate)]
            width = outputs
        self.classifier = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        maps = self.avgpool(self.features(images))
        if maps.requires_grad and maps.is_contiguous(memory_format=torch.channels_last):
            # Flattened, the map loses its layout, and so does its gradient, which every layer before would then mix.
            maps.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return self.classifier(maps.flatten(1))


def _number_of_features(body: nn.Module, in_chans: int, image_size: int) -> int:
    """Features that the feature map of one image has when it is flattened."""
    on_meta = {name: torch.empty_like(value, device="meta") for name, value in body.state_dict().items()}
    images = torch.empty(2, in_chans, image_size, image_size, device="meta")  # shapes without arithmetic
    return torch.func.functional_call(body, on_meta, images).flatten(1).shape[1]
