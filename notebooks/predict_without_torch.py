"""Names photographs with an exported model, without PyTorch: python predict_without_torch.py model.onnx photo.jpg ...

Needs numpy, onnxruntime and Pillow 11.3 or newer, and for the HEIC files of iPhones pillow-heif. DICOM, and TIFFs that
Pillow cannot read, are for imgbench itself.
"""

import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageCms, ImageOps

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM"]
try:
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()
    FORMATS.append("HEIF")
Image.MAX_IMAGE_PIXELS = 300_000_000  # photographs of 200 million are no attack
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colours of profiles and modes of images


def extremes(values):
    """The smallest and largest value without hot pixels and marks of missing data, which are far from all others."""
    levels, counts = np.unique(values[np.isfinite(values)] if values.dtype.kind == "f" else values, return_counts=True)
    levels = levels.astype(np.float64)
    if not levels.size:
        return 0.0, 0.0
    few, gaps = len(levels) // 16, np.diff(levels)
    first, last = levels[few], levels[-1 - few]
    above = np.flatnonzero(gaps[len(gaps) - few :] > levels[-1 - few : -1] - first) if few else []
    below = np.flatnonzero(gaps[:few] > last - levels[1 : few + 1])
    kept = slice(below[-1] + 1 if len(below) else 0, len(levels) - few + above[0] if len(above) else None)
    levels, counts = levels[kept], counts[kept]
    shares = counts.cumsum() / counts.sum()
    low, high = levels[np.searchsorted(shares, [1e-4, 1 - 1e-4])]
    if high > low and levels[-1] - levels[0] > 4 * (high - low):
        return float(low), float(high)
    return float(levels[0]), float(levels[-1])


def black_and_white(values, intensity):
    """The two values that become 0 and 255 of an image of more than 8 bits."""
    if intensity == "16 bit":  # models of old versions
        if values.dtype.kind == "f" and values.max() <= 1:
            return 0, 1
        wide = values.dtype.itemsize == 2 or (values.min() >= 0 and 255 < values.max() <= 65535)
        return (0, 65535) if wide else (0, 255)
    if intensity != "file":
        return intensity
    low, high = extremes(values)
    if values.dtype.kind == "f":
        return (0, 1) if low >= 0 and high <= 1 else (low, high)
    bits = max(8, int(high).bit_length())
    return (0, 2 ** (bits + bits % 2 if values.ndim == 3 else bits) - 1) if low >= 0 else (low, high)


def colours_16(file, image):
    """16-bit colours and opacity, of which Pillow keeps one byte each: read twice, once for the other byte."""
    name = str(image.tile[0].args if isinstance(image.tile[0].args, str) else image.tile[0].args[0])
    if image.format == "PNG" and name == "LA;16B":  # laid out like 8-bit RGBA, which the header says in two bytes
        data = Path(file).read_bytes()
        header = data[12:24] + b"\x08\x06" + data[26:29]
        data = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
        parts = np.asarray(Image.open(io.BytesIO(data))).astype(np.uint16)
        return image, parts[..., 0] << 8 | parts[..., 1], (parts[..., 2] << 8 | parts[..., 3]) / 65535
    little = name[-1] == "L" or (name[-1] == "N" and sys.byteorder == "little")
    halves = []
    for order in "BL" if little else "LB":
        half = Image.open(file, formats=FORMATS)
        layout = name[:-1] + order
        half.tile = [
            part._replace(args=layout if isinstance(part.args, str) else (layout, *part.args[1:])) for part in half.tile
        ]
        half.load()
        halves.append(np.asarray(half).astype(np.uint16))
    values = halves[1] << 8 | halves[0]
    return half, values[..., :3], values[..., 3] / 65535 if values.shape[2] == 4 else None


def is_colour_16(image):
    """Refuses what Pillow would mix up."""
    args = image.tile[0].args if image.tile and image.mode in ("RGB", "RGBA") else ""
    name = str(args if isinstance(args, str) else args[0]) if args else ""
    tags = getattr(image, "tag_v2", {})
    if max(tags.get(258, (1,))) > 8 and image.mode in ("RGB", "RGBA") and (tags.get(284) == 2 or "RGBa" in name):
        raise SystemExit("A TIFF of 16-bit planes, or of colours multiplied by opacity: imgbench predict reads it.")
    return name in ("LA;16B", *(f"{mode};16{order}" for mode in ("RGB", "RGBX", "RGBA") for order in "BLN"))


def to_srgb(image, profile):
    """From the colours of the file's profile, unless that is sRGB already, or of another kind."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except OSError:
        return image
    mode = SPACES.get(opened.profile.xcolor_space.strip())
    if mode == "RGB" and image.mode != "CMYK":
        image = image.convert("RGB")
    if image.mode != mode:
        return image
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        change = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except ImageCms.PyCMSError:
        return image
    if mode == "RGB":
        steps = np.linspace(0, 255, 12).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(36, 48, 3)
        found = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), change)).astype(int)
        if np.abs(found - grid).max() <= 2:
            return image
    return ImageCms.applyTransform(image, change)


def to_rgb(image, values, opacity, preprocessing):
    """Upright, with white where it is transparent, in sRGB."""
    decoding, profile = preprocessing.get("decoding", 1), image.info.get("icc_profile")
    orientation = image.getexif().get(0x0112, 1)
    if values is None and image.mode[0] in "IF":  # more than 8 bits
        values, tags = np.asarray(image), getattr(image, "tag_v2", {})
        if image.mode == "I" and tags and tags.get(339, (1,))[0] == 1:
            values = values.view(np.uint32)
        if tags.get(262) == 0:  # the smallest is white
            values = -values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    if values is not None:
        low, high = black_and_white(values, preprocessing.get("intensity", "16 bit"))
        scaled = (values.astype(np.float32) - low) / ((high - low) or 1)
        image = Image.fromarray((np.clip(np.nan_to_num(scaled), 0, 1) * 255).round().astype(np.uint8))
        if opacity is not None:
            mask = Image.fromarray((opacity * 255).round().astype(np.uint8))
            image = Image.composite(image, Image.new(image.mode, image.size, "white"), mask)
        image.getexif()[0x0112] = orientation
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if profile and decoding > 1:
        image = to_srgb(image, profile)
    return image.convert("RGB")


def pixels_of(file, preprocessing):
    """(height, width, 3) uint8; the model resizes and crops it itself."""
    with Image.open(file, formats=FORMATS) as image:
        values = opacity = None
        if preprocessing.get("decoding", 1) > 1 and is_colour_16(image):
            image, values, opacity = colours_16(file, image)
        else:
            image.load()
        return np.asarray(to_rgb(image, values, opacity, preprocessing))


def main(model, *photos):
    session = onnxruntime.InferenceSession(model)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["imgbench"])
    for photo in photos:
        (probabilities,) = session.run(None, {"images": pixels_of(photo, facts["preprocessing"])[None]})[0]
        print(photo)
        for name, probability in zip(facts["class_names"], probabilities, strict=True):
            print(f"  {name}  {probability:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
