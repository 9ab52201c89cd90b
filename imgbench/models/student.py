"""The post's network to distil into, which is not small. One that is: `imgbench.models.compact`."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from imgbench.models.head import BodyAndHead, Head


class Student(BodyAndHead):
    """The post's student: two padded 3x3 convolutions, each max pooled, and a dense head.

    At 224 pixels its first dense layer alone has 51 million parameters.

    Args:
        widths: output channels of the convolutions.
        head: see `Head`.
    """

    HEAD = Head(hidden=(256,), pool_size=None)

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64),
        batch_norm: bool = False,
        **head: Any,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_chans
        for channels in widths:
            norm = [nn.BatchNorm2d(channels)] if batch_norm else []
            layers += [nn.Conv2d(width, channels, 3, padding=1), *norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width = channels
        body = nn.Sequential(*layers)
        super().__init__(body, width, num_classes, in_chans=in_chans, image_size=image_size, **head)
