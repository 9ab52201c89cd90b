"""Names photographs with an exported model, without PyTorch: python predict_without_torch.py model.onnx photo.jpg ...

Needs numpy, onnxruntime and Pillow 11.3 or newer; for the HEIC files of iPhones pillow-heif, for DICOM pydicom, and for
TIFFs that Pillow cannot read tifffile and imagecodecs. If all files have 8 bits and no colour profile, `pixels_of` is

    image = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
"""

import argparse
import io
import json
import struct
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
# x and y of white, red, green and blue; those of PNG's cICP by their numbers, and curves as an ICC profile has them.
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PRIMARIES = {
    1: SRGB,
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
GAMMAS = {1: 2.4, 4: 2.2, 5: 2.8, 6: 2.4, 8: 1, 14: 2.4, 15: 2.4}
CURVES = {13: SRGB_CURVE, **{number: (gamma, 1, 0, 0, 0) for number, gamma in GAMMAS.items()}}


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
    """Whether there are 16-bit colours of which Pillow would keep 8 bits."""
    args = image.tile[0].args if image.tile and image.mode in ("RGB", "RGBA") else ""
    name = str(args if isinstance(args, str) else args[0]) if args else ""
    return name in ("LA;16B", *(f"{mode};16{order}" for mode in ("RGB", "RGBX", "RGBA") for order in "BLN"))


def is_other_tiff(file):
    """Whether it is a TIFF that Pillow cannot read, or would mix up: planes, or colours multiplied by opacity."""
    if Path(file).read_bytes()[:4] not in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
        return False
    try:
        with Image.open(file, formats=["TIFF"]) as image:
            deep = max(image.tag_v2.get(258, (1,))) > 8 and image.mode in ("RGB", "RGBA")
            return deep and (image.tag_v2.get(284) == 2 or "RGBa" in str(image.tile[0].args))
    except OSError:
        return True


def other_tiff(file):
    """An image that has what is said of the pixels, their values, and their opacity."""
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        values, opacity = page.asarray(), None
        if values.ndim == 3:
            values = np.moveaxis(values, 0, 2) if page.planarconfig == 2 else values
            colours = 3 if page.photometric == 2 else 1
            most = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
            if page.extrasamples[:1] in ((1,), (2,)):
                opacity = (values[..., colours] / most).astype(np.float32)
            values = values[..., :3] if colours == 3 else values[..., 0]
            if opacity is not None and page.extrasamples[0] == 1:  # the colours were multiplied by it
                shares = opacity[..., None] if colours == 3 else opacity
                values = (values / np.maximum(shares, 1e-6)).clip(0, most).astype(values.dtype)
        if page.photometric == 0:  # the smallest is white
            values = -values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        image = Image.new("RGB", (page.imagewidth, page.imagelength))
        if 34675 in page.tags:
            image.info["icc_profile"] = bytes(page.tags[34675].value)
        if 274 in page.tags:
            image.getexif()[274] = int(page.tags[274].value)
    return image, values, opacity


def dicom(file):
    """The first frame: greys of 8 bits where the file says which window is to be seen, or else all values."""
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
    from pydicom.pixels.utils import pixel_array

    data = dcmread(file)
    values, kind = pixel_array(data, index=0), data.PhotometricInterpretation
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        if kind == "PALETTE COLOR":
            values = apply_color_lut(values, data)
        most = 2 ** (16 if kind == "PALETTE COLOR" else data.BitsStored) - 1
        return Image.fromarray(values if values.dtype == np.uint8 else (values * (255 / most)).round().astype(np.uint8))
    padding = values == data.PixelPaddingValue if "PixelPaddingValue" in data else None
    values = apply_modality_lut(values, data).astype(np.float64)
    if padding is not None and padding.any() and not padding.all():
        values = np.where(padding, values[~padding].min(), values)
    center, width = data.get("WindowCenter"), data.get("WindowWidth")
    if data.get("VOILUTSequence"):
        most = 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        shares = apply_voi(values.astype(np.int64), data) / most
    elif center in (None, "") or width in (None, ""):
        whole = all(float(data.get(name) or 0).is_integer() for name in ("RescaleSlope", "RescaleIntercept"))
        values = -values if kind == "MONOCHROME1" else values
        return Image.fromarray(values.astype(np.int32 if whole else np.float32))
    else:
        center, width = (
            float(value if isinstance(value, str | float | int) else value[0]) for value in (center, width)
        )
        function = data.get("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":
            shares = 1 / (1 + np.exp(-4 * (values - center) / max(width, 1e-6)))
        elif function == "LINEAR_EXACT":
            shares = (values - center) / max(width, 1e-6) + 0.5
        else:
            shares = (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5
    shares = shares.clip(0, 1)
    return Image.fromarray(((1 - shares if kind == "MONOCHROME1" else shares) * 255).round().astype(np.uint8))


def made_profile(points, curve):
    """An ICC profile of x and y of white, red, green and blue, and a curve."""

    def fixed(values):
        return b"".join(struct.pack(">i", round(65536 * float(value))) for value in values)

    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(points[::2], points[1::2], strict=True))
    strengths, d50 = np.linalg.solve(np.transpose(colours), white), np.array([0.9642, 1, 0.8249])
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    to_d50 = np.linalg.solve(cones, ((cones @ d50) / (cones @ white))[:, None] * cones)
    parts = {b"wtpt": b"XYZ \0\0\0\0" + fixed(d50)}
    for letter, strength, colour in zip(b"rgb", strengths, colours, strict=True):
        parts[b"%cXYZ" % letter] = b"XYZ \0\0\0\0" + fixed(to_d50 @ colour * strength)
        parts[b"%cTRC" % letter] = b"para\0\0\0\0\0\3\0\0" + fixed(curve)
    start, entries, body = 132 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for key, part in parts.items():
        entries += key + struct.pack(">II", start + len(body), len(part))
        body += part
    head = struct.pack(">I4sI12s", start + len(body), b"", 0x04200000, b"mntrRGB XYZ ") + bytes(12) + b"acsp"
    return (head + bytes(28) + fixed(d50)).ljust(128, b"\0") + entries + body


def profile_of(image, file):
    """The file's ICC profile, or one of what else it says: PNG by its chunks, and cameras by two entries of EXIF."""
    info, head = image.info, Path(file).read_bytes() if image.format == "PNG" else b""
    place = head[: head.find(b"IDAT")].find(b"\0\0\0\4cICP")
    primaries, transfer, *how = head[place + 8 : place + 12] if place > 0 else (2, 2, 0, 1)
    if transfer in (16, 18):
        raise SystemExit(f"{file} has colours for HDR screens: save it as sRGB.")
    if primaries in PRIMARIES and transfer in CURVES and how == [0, 1]:
        return made_profile(PRIMARIES[primaries], CURVES[transfer])
    if info.get("icc_profile") or "srgb" in info:
        return info.get("icc_profile")
    if "gamma" in info:
        gamma, points = info["gamma"], tuple(info.get("chromaticity", ()))
        usual = abs(gamma * 2.2 - 1) <= 0.05
        if not 0.1 <= gamma <= 10 or (usual and (not points or np.allclose(points, SRGB, 0, 0.001))):
            return None
        try:
            return made_profile(points or SRGB, (1 / gamma, 1, 0, 0, 0))
        except (ValueError, ZeroDivisionError, OverflowError, np.linalg.LinAlgError, struct.error):  # damaged
            return None if usual else made_profile(SRGB, (1 / gamma, 1, 0, 0, 0))
    if "exif" not in info and image.format != "TIFF":  # asked for it, a PNG without any would be decoded
        return None
    try:
        exif = image.getexif()
        adobe = exif.get_ifd(0x8769).get(0xA001) == 0xFFFF and "R03" in str(exif.get_ifd(0xA005).get(1))
    except Exception:
        adobe = False
    return made_profile(ADOBE_RGB, (563 / 256, 1, 0, 0, 0)) if adobe else None


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


def to_rgb(image, values, opacity, profile, preprocessing):
    """Upright, with white where it is transparent, in sRGB."""
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
    if profile:
        image = to_srgb(image, profile)
    return image.convert("RGB")


def reduce_large(image, preprocessing):
    """Decodes a large JPEG at a part of its size, as models of earlier versions saw it."""
    resize = preprocessing.get("resize", preprocessing.get("short_side"))
    size = resize if isinstance(resize, int) else preprocessing["image_size"]
    for scale in (8, 4, 2):
        if min(image.size) >= max(3 * scale * size, 1500) and not any(side % scale for side in image.size):
            image.draft(None, (image.width // scale, image.height // scale))
            break


def pixels_of(file, preprocessing):
    """(height, width, 3) uint8, upright, over white and in sRGB; the model resizes and crops it itself."""
    decoding = preprocessing.get("decoding", 1)
    with Path(file).open("rb") as opened:
        is_dicom = opened.read(132)[128:] == b"DICM"
    if is_dicom:
        return np.asarray(to_rgb(dicom(file), None, None, None, preprocessing))
    if is_other_tiff(file):
        image, values, opacity = other_tiff(file)
        return np.asarray(to_rgb(image, values, opacity, image.info.get("icc_profile"), preprocessing))
    with Image.open(file, formats=FORMATS) as image:
        profile = profile_of(image, file) if decoding > 2 else image.info.get("icc_profile") if decoding > 1 else None
        values = opacity = None
        if decoding < 4 and image.format in ("JPEG", "MPO"):
            reduce_large(image, preprocessing)
        if decoding > 1 and is_colour_16(image):
            image, values, opacity = colours_16(file, image)
        else:
            image.load()
        return np.asarray(to_rgb(image, values, opacity, profile, preprocessing))


def rule_of(facts, max_error):
    """What the highest probability has to lie above, and the novelty below, for an answer that is not unsure."""
    if max_error is None:
        return 0, facts.get("novelty_limit")
    for rule in facts.get("acceptance", []):
        if rule["max_error"] == max_error and rule["threshold"] is not None:
            return rule["threshold"], rule["limit"]
    raise SystemExit(f"The model cannot promise --max-error {max_error:g}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--max-error", type=float, help="call answers unsure, so that of the others no more are wrong")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["imgbench"])
    threshold, limit = rule_of(facts, args.max_error)
    outputs = {"probabilities", "novelty"} & {output.name for output in session.get_outputs()}
    for photo in args.photos:
        try:
            images = pixels_of(photo, facts["preprocessing"])[None]
        except Exception as error:  # damaged files raise nearly anything
            raise SystemExit(f"{photo} cannot be read: {error}") from error
        found = dict(zip(outputs, session.run(outputs, {"images": images}), strict=True))
        (probabilities,), (novelty,) = found["probabilities"], found.get("novelty", [0])
        sure = probabilities.max() > threshold and (limit is None or novelty < limit)
        print(photo if sure else f"{photo}  unsure")
        for name, probability in zip(facts["class_names"], probabilities, strict=True):
            print(f"  {name}  {probability:.6f}")


if __name__ == "__main__":
    main()
