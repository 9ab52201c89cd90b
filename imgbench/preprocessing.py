"""From an upright RGB image to the pixels a network sees: one definition for all."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from imgbench.decode import DECODING, Picture, decoded, to_rgb
from imgbench.errors import UserError
from imgbench.intensity import Intensity

if TYPE_CHECKING:
    from torch import Tensor

# Where a square is kept of a picture that is more than this many times as long as it is wide, only its middle is
# resized: as a whole, one of 1 x 5,000 pixels would become one of 256 x 1,280,000.
LONGEST = 16
LARGEST_IMAGE = 10_000  # pixels a side

RESIZE = ("stretch", "crop", "pad")
LARGEST = 8192  # pixels of a side

# The grey beside a photograph that is not square: the mean of ImageNet's photographs, without its tint. Where these
# statistics normalise, it becomes nearly zero, with which convolutions pad; and a photograph in grey stays one.
PADDING = 114

STATISTICS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and the channel statistics, in the range 0 to 1, that normalise the network's input.

    `resize` says how a photograph becomes a square of `image_size`. `stretch` does so whatever its proportions. `pad`
    resizes its long side, and what is missing, half on each side, has the grey level `padding`. `crop` resizes its
    short side, and the network sees the middle. A number does as `crop`, but the short side gets so many pixels:
    augmentation crops from a square of these.

    Raises:
        UserError: `resize` is none of these.
    """

    image_size: int
    resize: str | int = "stretch"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    intensity: Intensity = "file"
    decoding: int = DECODING  # see there
    padding: int = PADDING

    def __post_init__(self) -> None:
        if type(self.resize) is int and 0 < self.resize < self.image_size:
            raise UserError(f"data.resize={self.resize} is smaller than data.image_size={self.image_size}.")
        if self.resize not in RESIZE and not (type(self.resize) is int and 0 < self.resize <= LARGEST):
            raise UserError(
                f"data.resize={self.resize}, but it is {', '.join(RESIZE)}, or to how many pixels the short side is "
                f"resized before the middle is cropped, at most {LARGEST}."
            )

    @property
    def stored_size(self) -> int:
        """The side of the square kept of each image, from which augmentation may crop."""
        return self.resize if isinstance(self.resize, int) else self.image_size

    @property
    def reduced_for(self) -> int | None:
        """For how many pixels a side large JPEGs are decoded at reduced size, as they were for earlier models."""
        return self.stored_size if self.decoding < 4 else None

    def decode(self, source: bytes | Path | str | Image.Image) -> np.ndarray:
        """(stored_size, stored_size, 3) uint8 of a file, a file's bytes or an image.

        Raises:
            DecodeError: not an image, damaged, cut short, or too large.
        """
        if isinstance(source, Image.Image):
            return self._of_picture(source)
        return decoded(source, self._of_picture, self.reduced_for, self.decoding)

    def _of_picture(self, picture: Picture | Image.Image) -> np.ndarray:
        return self.square(to_rgb(picture, self.intensity, self.decoding))

    def square(self, image: Image.Image) -> np.ndarray:
        """(stored_size, stored_size, 3) uint8 of an RGB image; bilinear with antialiasing, as torchvision resizes.

        `imgbench.inference.onnx_pixels` writes the same for ONNX files.
        """
        size = self.stored_size
        if self.resize == "stretch":
            return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        if self.resize == "pad":
            return self._padded(image)
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

    def _padded(self, image: Image.Image) -> np.ndarray:
        size, longest = self.image_size, max(image.size)
        width, height = (max(1, (2 * size * side // longest + 1) // 2) for side in image.size)  # halves go up
        left, top = (size - width) // 2, (size - height) // 2
        square = Image.new("RGB", (size, size), (self.padding,) * 3)
        square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
        return np.asarray(square)

    @property
    def center(self) -> slice:
        """Rows (and columns) of a stored square that the network sees when nothing is augmented."""
        margin = round((self.stored_size - self.image_size) / 2)
        return slice(margin, margin + self.image_size)

    def center_crop(self, images: "Tensor") -> "Tensor":
        """What the network sees of stored images (N, 3, stored_size, stored_size) when nothing is augmented."""
        return images[:, :, self.center, self.center]

    def check(self) -> None:
        """Raises ValueError: what a file says is not of the types and sizes that a picture can be brought to."""
        sizes = [self.image_size, self.stored_size]
        numbers = [*self.mean, *self.std, *([] if isinstance(self.intensity, str) else self.intensity)]
        if not all(type(size) is int and 0 < size <= LARGEST_IMAGE for size in sizes):
            raise ValueError(f"the image size is {str(sizes)[:80]}, not one of 1 to {LARGEST_IMAGE} pixels")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError("a statistic is no number")
        if {type(self.decoding), type(self.padding)} != {int}:
            raise ValueError("its decoding or its padding is no whole number")
        if len(self.mean) != 3 or len(self.std) != 3 or len(numbers) not in (6, 8):
            raise ValueError("the statistics are not three numbers, one per colour")
        if isinstance(self.intensity, str) and self.intensity not in ("file", "16 bit"):
            raise ValueError(f"the intensity is {self.intensity[:80]!r}")

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        intensity = values.get("intensity", "16 bit")
        if not isinstance(intensity, str):
            intensity = tuple(intensity)
        mean, std = tuple(values["mean"]), tuple(values["std"])
        return cls(**{"decoding": 1, **values, "mean": mean, "std": std, "intensity": intensity})
