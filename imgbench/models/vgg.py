"""VGG built by hand (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from collections.abc import Sequence

from torch import Tensor, nn

from imgbench.models.head import dense_layers, number_of_features, pool_features
from imgbench.models.layers import DepthwiseSeparableConv2d, init_kaiming, init_keras

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Blocks of padded 3x3 convolutions, each block ended by a max pooling, and a dense head.

    Parameters are named and ordered as in `torchvision.models.vgg`, so that weights of the one load into the other.

    Args:
        blocks: output channels of each block's convolutions; an image needs 2**len(blocks) pixels.
        hidden: widths of the dense layers before the last; none makes the head a single layer.
        pool_size: the last feature map is averaged to this side, which makes the head fit every input size; None
            leaves it as it is for images of `image_size`.
        drop_rate: dropout after each hidden dense layer.
        batch_norm: batch normalisation after each convolution.
        separable: convolutions are depthwise and pointwise pairs, as in https://arxiv.org/abs/1704.04861, but without
            a nonlinearity between the two.
        init: `kaiming` as torchvision's VGG, or `keras` (Glorot uniform, zero biases).
    """

    def __init__(
        self,
        num_classes: int,
        in_chans: int = 3,
        blocks: Sequence[Sequence[int]] = VGG16_BLOCKS,
        hidden: Sequence[int] = (4096, 4096),
        pool_size: int | None = 7,
        drop_rate: float = 0.5,
        batch_norm: bool = False,
        separable: bool = False,
        image_size: int = 224,
        init: str = "kaiming",
    ) -> None:
        super().__init__()
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
        self.features = nn.Sequential(*layers)
        self.avgpool = pool_features(pool_size)
        width = width * pool_size**2 if pool_size else number_of_features(self.features, in_chans, image_size)
        self.classifier = nn.Sequential(*dense_layers(width, num_classes, hidden, drop_rate))
        self.apply(init_keras if init == "keras" else init_kaiming)

    def forward(self, images: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        return self.classifier(self.avgpool(self.features(images)).flatten(1))
