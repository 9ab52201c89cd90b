"""A residual network for photographs, with five times the work and the parameters of the default one."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from imgbench.models.head import BodyAndHead


class CompactResNet(BodyAndHead):
    """A stem that quarters the image's sides, stages of residual blocks, average pooling, a dense head.

    Blocks of two dense 3x3 convolutions (He et al. 2016, https://arxiv.org/abs/1512.03385), which CPUs compute faster
    than depthwise ones; shortcuts pool before they project (https://arxiv.org/abs/1812.01187), and the last
    normalisation of each block starts at zero, so that the network starts shallow (https://arxiv.org/abs/1706.02677).

    Args:
        stem: output channels of the stem's two convolutions, both of stride 2.
        widths: channels of each stage; each but the first halves the sides.
        depths: blocks of each stage.
        head: see `Head`.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        stem: Sequence[int] = (24, 48),
        widths: Sequence[int] = (48, 96, 192),
        depths: Sequence[int] = (1, 2, 2),
        **head: Any,
    ) -> None:
        first, second = stem
        layers: list[nn.Module] = [*conv_norm(in_chans, first, 3, 2), nn.ReLU(inplace=True)]
        layers += [*conv_norm(first, second, 3, 2), nn.ReLU(inplace=True)]
        width = second
        for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                layers.append(ResidualBlock(width, channels, stride=2 if stage > 0 and block == 0 else 1))
                width = channels
        body = nn.Sequential(*layers)
        super().__init__(body, width, num_classes, in_chans=in_chans, image_size=image_size, **head)


class ResidualBlock(nn.Module):
    def __init__(self, in_chans: int, out_chans: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(in_chans, out_chans, 3, stride), nn.ReLU(inplace=True), *conv_norm(out_chans, out_chans, 3)
        )
        nn.init.zeros_(self.body[-1].weight)  # pyright: ignore[reportArgumentType]
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True))
        if in_chans != out_chans:
            self.shortcut.extend(conv_norm(in_chans, out_chans, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def conv_norm(in_chans: int, out_chans: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(out_chans)]
