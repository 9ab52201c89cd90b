"""From a file to the pixels a network sees: one definition for training, evaluation, prediction and export."""

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

# A file whose header promises more pixels than this is taken for an attack or damage, not for a photograph.
Image.MAX_IMAGE_PIXELS = 300_000_000

STATISTICS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class DecodeError(Exception):
    """The file is no image, or a damaged one."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and the channel statistics, in the range 0 to 1, by which the network's input is normalised.

    With `short_side` unset, images are stretched to `image_size` squared; else their short side becomes `short_side`
    pixels and the centre square of `image_size` is what the network sees.
    """

    image_size: int
    short_side: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def stored_size(self) -> int:
        """The side of the square kept of each image, from which augmentation may crop."""
        return self.short_side or self.image_size

    def resize(self, image: Image.Image) -> np.ndarray:
        """(stored_size, stored_size, 3) uint8 of an RGB image; bilinear with antialiasing, as torchvision resizes."""
        size = self.stored_size
        if self.short_side is None:
            return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
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
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any image: upright by its EXIF tag, transparency over white, 16 bits and floats scaled to 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # before transparency, since RGBA would cut them off at 255
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "f" and pixels.max() <= 1:
        white = 1
    elif pixels.dtype.itemsize == 2 or (pixels.min() >= 0 and 255 < pixels.max() <= 65535):
        white = 65535
    else:
        white = 255
    return (np.clip(pixels / white, 0, 1) * 255).round().astype(np.uint8)


def open_image(source: bytes | Path | str) -> Image.Image:
    """The decoded RGB image of a file or of a file's bytes; of an animation the first frame.

    Raises:
        DecodeError: not an image, damaged, or cut short (only a full decode tells).
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(image)
    # Damaged files raise nearly anything: OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
    except Exception as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        raise DecodeError(reason) from error
