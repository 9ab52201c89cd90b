"""The three-convolution network of the sneakers, monkeypox and weather posts (Keras)."""

from typing import Any

from torch import nn

from imgbench.models.head import BodyAndHead, Head
from imgbench.models.layers import Dropout, init_keras

POOLS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
WIDTHS = (16, 32, 64)


class CNN(BodyAndHead):
    """Valid 3x3 convolutions 16, 32, 64, each pair pooled, then dense 128.

    Args:
        image_size: the dense layer's width depends on it; at least 18 pixels.
        pool2: kind of the second pooling, `avg` or `max`.
        drop_rate: dropout after the second pooling (unless `early_dropout` is off) and after the third convolution;
            not after the posts' dense layer, but after each layer of another `hidden`.
        head: see `Head`.
    """

    HEAD = Head(hidden=(128,), pool_size=None)

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        pool2: str = "avg",
        drop_rate: float = 0.3,
        early_dropout: bool = True,
        **head: Any,
    ) -> None:
        if image_size < 18:
            raise ValueError(f"image_size={image_size}, but three valid convolutions and two poolings need 18 or more")
        if pool2 not in POOLS:
            raise ValueError(f"pool2={pool2!r}, but it is one of {', '.join(POOLS)}")
        first, second, third = WIDTHS
        features = nn.Sequential(
            nn.Conv2d(in_chans, first, 3), nn.ReLU(inplace=True), nn.AvgPool2d(2),
            nn.Conv2d(first, second, 3), nn.ReLU(inplace=True), POOLS[pool2](2),
            Dropout(drop_rate if early_dropout else 0.0),
            nn.Conv2d(second, third, 3), nn.ReLU(inplace=True), Dropout(drop_rate),
        )  # fmt: skip
        if "hidden" in head:
            head["drop_rate"] = drop_rate
        super().__init__(features, third, num_classes, in_chans=in_chans, image_size=image_size, **head)
        self.drop_rate = drop_rate
        self.apply(init_keras)
