"""The body and the dense head that every network built here consists of, so that any head goes with any body."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from imgbench.models.layers import Dropout


@dataclass(frozen=True)
class Head:
    """What a head consists of; each network takes these as keyword arguments, and has defaults of its own.

    Args:
        hidden: widths of the dense layers before the last; none makes the head a single layer.
        pool_size: averaging the feature map to this side makes the head fit every input size; None leaves the map as it
            is for images of `image_size`.
        drop_rate: dropout after each hidden dense layer.
    """

    hidden: Sequence[int] = ()
    pool_size: int | None = 1
    drop_rate: float = 0.0


class BodyAndHead(nn.Module):
    """A body's feature map, averaged to `pool_size` squared, and dense layers on it.

    Attributes and methods are named as in timm: https://huggingface.co/docs/timm/feature_extraction

    Args:
        features: the body, whose feature map has `channels` channels.
        head: fields of `Head` that differ from the network's defaults.
    """

    HEAD: ClassVar[Head] = Head()  # the network's defaults

    def __init__(
        self, features: nn.Module, channels: int, num_classes: int, *, in_chans: int, image_size: int, **head: Any
    ) -> None:
        super().__init__()
        options = replace(self.HEAD, **head)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, options.drop_rate
        self.pretrained_cfg: dict[str, Any] = {"input_size": (in_chans, image_size, image_size)}
        self.features = features
        side = options.pool_size
        self.avgpool = nn.Identity() if side is None else nn.AdaptiveAvgPool2d(side)
        width = channels * side**2 if side else _number_of_features(features, in_chans, image_size)
        self._inputs_per_channel = width // channels
        layers: list[nn.Module] = []
        for outputs in options.hidden:
            layers += [nn.Linear(width, outputs), nn.ReLU(inplace=True), Dropout(options.drop_rate)]
            width = outputs
        self.classifier = nn.Sequential(*layers, nn.Linear(width, num_classes))

    @property
    def num_features(self) -> int:
        """Channels of the feature map, fewer than were built if the network is pruned."""
        first = next(layer for layer in self.classifier if isinstance(layer, nn.Linear))
        return first.in_features // self._inputs_per_channel

    @property
    def head_hidden_size(self) -> int:
        """Inputs of the last layer."""
        return self.get_classifier().in_features

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        last = self.classifier[-1]
        assert isinstance(last, nn.Linear)
        return last

    def reset_classifier(self, num_classes: int) -> None:
        """Puts a new last layer in place of the old."""
        self.num_classes = num_classes
        self.classifier[-1] = nn.Linear(self.head_hidden_size, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_features, h, w)
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or the last layer's inputs (N, head_hidden_size)."""
        maps = self.avgpool(x)
        if maps.requires_grad and maps.is_contiguous(memory_format=torch.channels_last):
            # Flattened, the map loses its layout, and so does its gradient, which every layer before would then mix.
            maps.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return (self.classifier[:-1] if pre_logits else self.classifier)(maps.flatten(1))

    def forward(self, x: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        return self.forward_head(self.forward_features(x))


def _number_of_features(body: nn.Module, in_chans: int, image_size: int) -> int:
    """Features that the feature map of one image has when it is flattened."""
    # Shapes without arithmetic: a batch of no image, and weights that are all one number, wherever the body's own are.
    # On the meta device, made for that, torch would import its compiler, which takes a second.
    weights = {
        name: torch.zeros((), dtype=value.dtype, device="cpu").expand(value.shape)
        for name, value in body.state_dict().items()
    }
    images = torch.empty(0, in_chans, image_size, image_size, device="cpu")
    body.eval()
    number = torch.func.functional_call(body, weights, images).flatten(1).shape[1]
    body.train()
    return number
