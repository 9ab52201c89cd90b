"""The post's network to distil into, which is not small. One that is: `imgbench.models.compact`."""

from collections.abc import Sequence

from torch import nn

from imgbench.models.compact import CompactCNN as SmallStudent  # noqa: F401 - its name in earlier checkpoints
from imgbench.models.head import BodyAndHead


class Student(BodyAndHead):
    """The post's student: two padded 3x3 convolutions, each max pooled, and a dense head.

    At 224 pixels its first dense layer alone has 51 million parameters.

    Args:
        widths: output channels of the convolutions.
        hidden, pool_size, drop_rate: the head, as in `BodyAndHead`.
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
        layers: list[nn.Module] = []
        width = in_chans
        for channels in widths:
            norm = [nn.BatchNorm2d(channels)] if batch_norm else []
            layers += [nn.Conv2d(width, channels, 3, padding=1), *norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width = channels
        super().__init__(
            nn.Sequential(*layers),
            width,
            num_classes,
            in_chans=in_chans,
            image_size=image_size,
            hidden=hidden,
            pool_size=pool_size,
            drop_rate=drop_rate,
        )
