"""The post's network to distil into, which is not small. One that is: `imgbench.models.compact`."""

from collections.abc import Sequence

from torch import Tensor, nn

from imgbench.models.compact import CompactCNN as SmallStudent  # noqa: F401 - its name in earlier checkpoints
from imgbench.models.head import dense_layers, number_of_features, pool_features


class Student(nn.Module):
    """The post's student: two padded 3x3 convolutions, each max pooled, and a dense head.

    At 224 pixels its first dense layer alone has 51 million parameters.

    Args:
        widths: output channels of the convolutions.
        hidden: widths of the dense layers before the last.
        pool_size: the last feature map is averaged to this side; None leaves it as it is for images of `image_size`.
        drop_rate: dropout after each hidden dense layer.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 224,
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (256,),
        pool_size: int | None = None,
        drop_rate: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_chans
        for channels in widths:
            norm = [nn.BatchNorm2d(channels)] if batch_norm else []
            layers += [nn.Conv2d(width, channels, 3, padding=1), *norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = pool_features(pool_size)
        width = width * pool_size**2 if pool_size else number_of_features(self.features, in_chans, image_size)
        self.classifier = nn.Sequential(*dense_layers(width, num_classes, hidden, drop_rate))

    def forward(self, images: Tensor) -> Tensor:  # (N, in_chans, H, W) -> (N, num_classes)
        return self.classifier(self.avgpool(self.features(images)).flatten(1))
