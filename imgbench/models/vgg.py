"""VGG built by hand (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from collections.abc import Sequence

from torch import Tensor, nn

from imgbench.models.layers import Dropout, init_keras

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Blocks of padded 3x3 convolutions, each block ended by a max pooling, and a dense head.

    Parameters are named and ordered as in `torchvision.models.vgg`, so that weights of the one load into the other.

    Args:
        blocks: output channels of each block's convolutions; an image needs 2**len(blocks) pixels.
        hidden: widths of the dense layers before the last; none makes the head a single layer.
        pool_size: the last feature map is averaged to this side, which makes the head fit every input size.
        drop_rate: dropout after each hidden dense layer.
        batch_norm: batch normalisation after each convolution.
        init: `kaiming` as torchvision's VGG, or `keras` (Glorot uniform, zero biases).
    """

    def __init__(
        self,
        num_classes: int,
        in_chans: int = 3,
        blocks: Sequence[Sequence[int]] = VGG16_BLOCKS,
        hidden: Sequence[int] = (4096, 4096),
        pool_size: int = 7,
        drop_rate: float = 0.5,
        batch_norm: bool = False,
        init: str = "kaiming",
    ) -> None:
        super().__init__()
        if init not in ("kaiming", "keras"):
            raise ValueError(f"init={init!r}, but it is kaiming or keras")
        layers: list[nn.Module] = []
        width = in_chans
        for block in blocks:
            for channels in block:
                layers.append(nn.Conv2d(width, channels, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pool_size)

        head: list[nn.Module] = []
        width *= pool_size**2
        for features in hidden:
            head += [nn.Linear(width, features), nn.ReLU(inplace=True), Dropout(drop_rate)]
            width = features
        self.classifier = nn.Sequential(*head, nn.Linear(width, num_classes))
        self.apply(init_keras if init == "keras" else _init_kaiming)

    def forward(self, images: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def _init_kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
