"""Names photographs with an exported model, without PyTorch: python predict_without_torch.py model.onnx photo.jpg ...

Needs numpy, onnxruntime and Pillow 11.3 or newer, and for the HEIC files of iPhones pillow-heif.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM"]
try:
    from pillow_heif import register_heif_opener
except ImportError:
    pass
else:
    register_heif_opener()
    FORMATS.append("HEIF")
Image.MAX_IMAGE_PIXELS = 300_000_000  # photographs of 200 million are no attack


def black_and_white(values, intensity):
    """The two values that become 0 and 255 of an image of more than 8 bits."""
    if intensity == "16 bit":  # models of old versions
        if values.dtype.kind == "f" and values.max() <= 1:
            return 0, 1
        wide = values.dtype.itemsize == 2 or (values.min() >= 0 and 255 < values.max() <= 65535)
        return (0, 65535) if wide else (0, 255)
    if intensity != "file":
        return intensity
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f":
        return (0, 1) if low >= 0 and high <= 1 else (low, high)
    return (0, 2 ** max(8, int(high).bit_length()) - 1) if low >= 0 else (low, high)


def to_rgb(image, intensity):
    """Upright, with white where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # more than 8 bits
        values = np.asarray(image)
        low, high = black_and_white(values, intensity)
        scaled = (values.astype(np.float32) - low) / ((high - low) or 1)
        image = Image.fromarray((np.clip(np.nan_to_num(scaled), 0, 1) * 255).round().astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def pixels_of(file, preprocessing):
    """(image_size, image_size, 3) uint8, as the model saw its training images."""
    size, short = preprocessing["image_size"], preprocessing.get("short_side")
    with Image.open(file, formats=FORMATS) as image:
        enough = min(image.size) // (3 * (short or size)) if min(image.size) >= 1500 else 1  # reduces large JPEGs
        scale = max(s for s in (1, 2, 4, 8) if s <= max(enough, 1) and image.width % s == image.height % s == 0)
        image.draft(None, [side // scale for side in image.size])
        image.load()
        image = to_rgb(image, preprocessing.get("intensity", "16 bit"))
    shape = [short * side // min(image.size) for side in image.size] if short else (size, size)
    image = image.resize(shape, Image.Resampling.BILINEAR)
    left, top = (round((side - (short or size)) / 2) + round(((short or size) - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


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
