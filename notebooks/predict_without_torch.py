import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
facts = json.loads(session.get_modelmeta().custom_metadata_map["imgbench"])
size, short = facts["preprocessing"]["image_size"], facts["preprocessing"]["short_side"]
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
shape = [short * side // min(image.size) for side in image.size] if short else (size, size)
image = image.resize(shape, Image.Resampling.BILINEAR)
left, top = (round((side - (short or size)) / 2) + round(((short or size) - size) / 2) for side in image.size)
pixels = np.asarray(image.crop((left, top, left + size, top + size)))
for name, probability in zip(facts["class_names"], session.run(None, {"images": pixels[None]})[0][0], strict=True):
    print(f"{name}  {probability:.6f}")
