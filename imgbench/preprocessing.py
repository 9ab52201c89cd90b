"""From an upright RGB image to the pixels a network sees: one definition for all."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imgbench.decode import DECODING, Picture, decoded, to_rgb
from imgbench.intensity import Intensity

if TYPE_CHECKING:
    from torch import Tensor

# Where a square is kept of a picture that is more than this many times as long as it is wide, only its middle is
# resized: as a whole, one of 1 x 5,000 pixels would become one of 256 x 1,280,000.
LONGEST = 16

STATISTICS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and the channel statistics, in the range 0 to 1, that normalise the network's input.

    With `short_side` unset, images are stretched to `image_size` squared; else their short side becomes `short_side`
    pixels and the centre square of `image_size` is what the network sees.
    """

    image_size: int
    short_side: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    intensity: Intensity = "file"
    decoding: int = DECODING  # see there

    @property
    def stored_size(self) -> int:
        """The side of the square kept of each image, from which augmentation may crop."""
        return self.short_side or self.image_size

    def decode(self, source: bytes | Path | str | Image.Image) -> np.ndarray:
        """(stored_size, stored_size, 3) uint8 of a file, a file's bytes or an image.

        Raises:
            DecodeError: not an image, damaged, cut short, or too large.
        """
        if isinstance(source, Image.Image):
            return self._square(source)
        return decoded(source, self._square, self.stored_size, self.decoding)

    def _square(self, picture: Picture | Image.Image) -> np.ndarray:
        return self.resize(to_rgb(picture, self.intensity, self.decoding))

    def resize(self, image: Image.Image) -> np.ndarray:
        """(stored_size, stored_size, 3) uint8 of an RGB image; bilinear with antialiasing, as torchvision resizes.

        `imgbench.inference.onnx_pixels` writes the same for ONNX files.
        """
        size = self.stored_size
        if self.short_side is None:
            return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        kept = [min(side, LONGEST * min(image.size)) for side in image.size]
        if kept != [*image.size]:
            left, top = ((side - part) // 2 for side, part in zip(image.size, kept, strict=True))
            image = image.crop((left, top, left + kept[0], top + kept[1]))
        width, height = image.size
        if width <= height:
            width, height = size, max(size, int(size * height / width))
        else:
            width, height = max(size, int(size * width / height)), size
        left, top = round((width - size) / 2), round((height - size) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, top, left + size, top + size)))

    @property
    def center(self) -> slice:
        """Rows (and columns) of a stored square that the network sees when nothing is augmented."""
        margin = round((self.stored_size - self.image_size) / 2)
        return slice(margin, margin + self.image_size)

    def center_crop(self, images: "Tensor") -> "Tensor":
        """What the network sees of stored images (N, 3, stored_size, stored_size) when nothing is augmented."""
        return images[:, :, self.center, self.center]

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        intensity = values.get("intensity", "16 bit")
        if not isinstance(intensity, str):
            intensity = tuple(intensity)
        mean, std = tuple(values["mean"]), tuple(values["std"])
        return cls(**{"decoding": 1, **values, "mean": mean, "std": std, "intensity": intensity})
