"""The default network: small and fast enough to be trained from scratch on a CPU in minutes."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from imgbench.models.head import BodyAndHead
from imgbench.models.layers import init_kaiming


class CompactCNN(BodyAndHead):
    """3x3 convolutions with batch normalisation, strided in place of pooling, and global average pooling.

    A plain chain, neither depthwise nor residual: fused with their normalisation and ReLU, dense convolutions are what
    CPUs and int8 kernels do best, and seven layers train without shortcuts.

    Args:
        widths: output channels of each stage's convolutions; the first of each stage halves the image.
        head: see `Head`.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        widths: Sequence[Sequence[int]] = ((16,), (32, 32), (64, 64), (128, 128)),
        **head: Any,
    ) -> None:
        layers: list[nn.Module] = []
        width = in_chans
        for stage in widths:
            for index, channels in enumerate(stage):
                convolution = nn.Conv2d(width, channels, 3, stride=1 if index else 2, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                width = channels
        body = nn.Sequential(*layers)
        super().__init__(body, width, num_classes, in_chans=in_chans, image_size=image_size, **head)
        self.apply(init_kaiming)
