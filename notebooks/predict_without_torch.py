"""Names a photograph with an exported model, without PyTorch: python predict_without_torch.py model.onnx photo.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
facts = json.loads(session.get_modelmeta().custom_metadata_map["imgbench"])
size, short, intensity = (facts["preprocessing"].get(key) for key in ("image_size", "short_side", "intensity"))
photo = Image.open(sys.argv[2], formats=["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
enough = min(photo.size) // (3 * (short or size)) if min(photo.size) >= 1500 else 1  # decode a large JPEG reduced
scale = max(s for s in (1, 2, 4, 8) if s <= max(enough, 1) and photo.width % s == photo.height % s == 0)
photo.draft(None, [side // scale for side in photo.size])
image = ImageOps.exif_transpose(photo)
if image.mode[0] in "IF":  # more than 8 bits: the model's values of black and white
    scaled = (np.asarray(image, np.float32) - intensity[0]) / (intensity[1] - intensity[0])
    image = Image.fromarray((np.clip(scaled, 0, 1) * 255).round().astype(np.uint8))
shape = [short * side // min(image.size) for side in image.size] if short else (size, size)
image = image.convert("RGB").resize(shape, Image.Resampling.BILINEAR)
left, top = (round((side - (short or size)) / 2) + round(((short or size) - size) / 2) for side in image.size)
pixels = np.asarray(image.crop((left, top, left + size, top + size)))
for name, probability in zip(facts["class_names"], session.run(None, {"images": pixels[None]})[0][0], strict=True):
    print(f"{name}  {probability:.6f}")
