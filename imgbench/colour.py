"""From the colours of a profile, such as Display P3 or Adobe RGB, to sRGB, which everything that has none means."""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # grey levels by which a profile that calls itself sRGB may differ from ours
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the colours of a profile -> those of an image


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB of an image without transparency; one whose profile is broken or of another kind is left as it is.

    Blacks are made to match, and colours that sRGB lacks become the nearest that it has.
    """
    mode, transform = _transform(profile)
    if mode == "RGB" and image.mode != "CMYK":
        image = image if image.mode == "RGB" else image.convert("RGB")
    if transform is None or image.mode != mode:
        return image
    return ImageCms.applyTransform(image, transform) or image


def profile_name(profile: bytes) -> str:
    """What a profile calls itself; empty if it cannot be read."""
    opened = _opened(profile)
    return (opened.profile_description or "").strip() if opened else ""


def _opened(profile: bytes) -> Any:
    try:
        return ImageCms.core.profile_frombytes(profile)
    except OSError:
        return None


# Making one takes a hundred times as long as finding it. There are few in a data set, of at most some megabytes each.
@lru_cache(32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that it takes, and what changes it; None if nothing is to be changed."""
    opened = _opened(profile)
    mode = MODES.get(opened.xcolor_space.strip(), "") if opened else ""
    if not opened or not mode:
        return "", None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(opened),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        return mode, None
    if mode == "RGB":
        steps = np.linspace(0, 255, 12).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(36, 48, 3)
        found = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(int)
        if np.abs(found - grid).max() <= SAME:
            return mode, None
    return mode, transform
