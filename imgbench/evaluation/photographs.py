"""Photographs as parts of a page: small, encoded into it, and with what a network looked at laid over them."""

import base64
import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

SIDE = 144  # pixels at most: two of them stand side by side on a phone
SMALL = 64  # up to this side, every pixel counts: PNG keeps each, and the page shows them as squares


def as_data(image: np.ndarray) -> str:
    """The address that holds a picture (H, W, 3) uint8 itself, as small as a page shows it."""
    return picture_data(Image.fromarray(image), SIDE)


def picture_data(picture: Image.Image, side: int) -> str:
    """The address that holds a picture itself, of at most so many pixels: a JPEG, or a PNG of what is tiny."""
    tiny = max(picture.size) <= SMALL
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, **({"format": "PNG", "optimize": True} if tiny else {"format": "JPEG", "quality": 80}))
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def with_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 in grey, glowing where the map (h, w) is above its mean: what speaks for the answer."""
    side = min(SIDE, max(2 * SMALL, *image.shape[:2]))
    grey = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BICUBIC)
    above = np.maximum(heat - heat.mean(), 0).astype(np.float32)
    above /= max(float(above.max()), 1e-12)
    strength = np.asarray(Image.fromarray(above).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    base = np.repeat(0.25 + 0.6 * np.asarray(grey, np.float32)[..., None] / 255, 3, 2)
    glow = colormaps["inferno"](0.35 + 0.6 * strength[..., 0])[..., :3]
    opacity = np.minimum(1.2 * strength, 0.75)
    return (255 * ((1 - opacity) * base + opacity * glow)).round().astype(np.uint8)
