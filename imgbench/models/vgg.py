"""VGG built by hand (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from imgbench.models.head import BodyAndHead, Head
from imgbench.models.layers import DepthwiseSeparableConv2d, init_kaiming, init_keras

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(BodyAndHead):
    """Blocks of padded 3x3 convolutions, each block ended by a max pooling, and a dense head.

    Parameters are named and ordered as in `torchvision.models.vgg`, so that weights of the one load into the other.

    Args:
        blocks: output channels of each block's convolutions; an image needs 2**len(blocks) pixels.
        head: see `Head`.
        batch_norm: batch normalisation after each convolution.
        separable: convolutions are depthwise and pointwise pairs, as in https://arxiv.org/abs/1704.04861, but without
            a nonlinearity between the two.
        init: `kaiming` as torchvision's VGG, or `keras` (Glorot uniform, zero biases).
    """

    HEAD = Head(hidden=(4096, 4096), pool_size=7, drop_rate=0.5)

    def __init__(
        self,
        num_classes: int,
        in_chans: int = 3,
        blocks: Sequence[Sequence[int]] = VGG16_BLOCKS,
        batch_norm: bool = False,
        separable: bool = False,
        image_size: int = 224,
        init: str = "kaiming",
        **head: Any,
    ) -> None:
        if init not in ("kaiming", "keras"):
            raise ValueError(f"init={init!r}, but it is kaiming or keras")
        layers: list[nn.Module] = []
        width = in_chans
        for block in blocks:
            for channels in block:
                pair = DepthwiseSeparableConv2d(width, channels) if separable else None
                layers.append(pair or nn.Conv2d(width, channels, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
                width = channels
            layers.append(nn.MaxPool2d(2))
        body = nn.Sequential(*layers)
        super().__init__(body, width, num_classes, in_chans=in_chans, image_size=image_size, **head)
        self.apply(init_keras if init == "keras" else init_kaiming)
