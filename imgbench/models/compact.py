"""The default network: small and fast enough to be trained from scratch on a CPU in minutes."""

from collections.abc import Sequence

from torch import Tensor, nn

from imgbench.models.head import dense_layers, number_of_features, pool_features
from imgbench.models.layers import init_kaiming


class CompactCNN(nn.Module):
    """3x3 convolutions with batch normalisation, strided in place of pooling, and global average pooling.

    A plain chain, neither depthwise nor residual: fused with their normalisation and ReLU, dense convolutions are what
    CPUs and int8 kernels do best, and seven layers train without shortcuts.

    Args:
        widths: output channels of each stage's convolutions; the first of each stage halves the image.
        hidden: widths of the dense layers before the last.
        pool_size: the last feature map is averaged to this side; None leaves it as it is for images of `image_size`.
        drop_rate: dropout after each hidden dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        widths: Sequence[Sequence[int]] = ((16,), (32, 32), (64, 64), (128, 128)),
        hidden: Sequence[int] = (),
        pool_size: int | None = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_chans
        for stage in widths:
            for index, channels in enumerate(stage):
                convolution = nn.Conv2d(width, channels, 3, stride=1 if index else 2, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                width = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = pool_features(pool_size)
        width = width * pool_size**2 if pool_size else number_of_features(self.features, in_chans, image_size)
        self.classifier = nn.Sequential(*dense_layers(width, num_classes, hidden, drop_rate))
        self.apply(init_kaiming)

    def forward(self, images: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        return self.classifier(self.avgpool(self.features(images)).flatten(1))
