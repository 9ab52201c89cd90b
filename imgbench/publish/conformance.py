"""Files of every kind that `predict` reads, with the answers: by them, any program that uses an ONNX file is tested."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from imgbench.decode import image_format, reduction
from imgbench.errors import UserError
from imgbench.evaluation.selective import ERRORS
from imgbench.files import write_atomically
from imgbench.inference.acceptance import Acceptance
from imgbench.inference.novelty import Novelty
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.preprocessing import Preprocessing
from imgbench.progress import Step
from imgbench.publish.drawn_files import made_files

EXPECTED = "expected.json"
TOLERANCE = 1e-3  # of a probability


def write_conformance(path: Path, model: Path, folder: Path) -> int:
    """Writes files, what the model at `path` says of each, the ONNX file and a page on what to do; returns how many.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and not (folder / EXPECTED).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"--conformance {folder} holds something else. Name a new directory.")
    try:
        (folder / "files").mkdir(parents=True, exist_ok=True)
        files: list[dict[str, Any]] = []
        predictor, left_out = Predictor.load(path), False
        for name, kind, content in made_files():
            if _is_reduced(content, predictor.preprocessing):
                left_out = True
                continue
            (folder / "files" / name).write_bytes(content)
            files.append({"file": f"files/{name}", "kind": kind, "browser": kind not in NOT_IN_BROWSERS})
        facts = _expected(path, predictor, [folder / one["file"] for one in files])
        for one, answer in zip(files, facts.pop("answers"), strict=True):
            one |= answer
        content = {"model": "model.onnx", "tolerance": TOLERANCE, **facts, "files": files}
        write_atomically(folder / EXPECTED, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (folder / "model.onnx").write_bytes(model.read_bytes())
        facts = OnnxModel(model).metadata
        write_atomically(folder / "metadata.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        write_atomically(folder / "README.md", PAGE + (WITHOUT_LARGE if left_out else ""))
    except OSError as error:
        raise UserError(f"--conformance {folder} cannot be written: {error.strerror}.") from error
    return len(files)


def _is_reduced(content: bytes, preprocessing: Preprocessing) -> bool:
    """Whether the run itself decodes a file at a part of its size, as runs of earlier versions do."""
    if preprocessing.reduced_for is None or image_format(content) != "JPEG":
        return False
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return reduction(image.size, preprocessing.reduced_for) > 1


def _expected(path: Path, predictor: Predictor, files: list[Path]) -> dict[str, Any]:
    model, names = predictor.model, predictor.class_names
    rules: dict[str, Novelty] = {}
    if novelty := Novelty.of(path, model):
        rules[""] = novelty
    for error in ERRORS:
        try:
            rules[f"{error:g}"] = Acceptance.open(path, model, error)
        except UserError:  # it cannot be promised
            continue
    function = next(iter(rules.values()), None) or model
    with Step("Predicting the files"):
        values, errors = predictor.apply(function, len(names) + bool(rules), files)
    assert not errors, errors
    answers = [
        {
            "probabilities": [round(float(value), 6) for value in row[: len(names)]],
            **({"novelty": round(float(row[-1]), 4)} if rules else {}),
            "unsure": {name: rule.doubt(row) is not None for name, rule in rules.items()},
        }
        for row in values
    ]
    intensity = model.preprocessing.intensity
    return {"class_names": names, "intensity": intensity, "answers": answers}


# Kinds that browsers do not show, whose values they cut to 8 bits or multiply by the opacity, or which they do not turn
# upright.
NOT_IN_BROWSERS = {
    "orientation in WebP",
    "transparency in WebP or AVIF",
    "TIFF",
    "JPEG 2000",
    "PPM",
    "HEIC",
    "DICOM",
    "depth",
}

PAGE = """# Does a program answer as the run does?

`expected.json` lists the files of this directory with the probabilities that the run gives them, in the order of
`class_names`. The program under test gives `model.onnx` each file, and no probability may differ by more than
`tolerance`; `novelty` may do so by one part in a hundred. The pictures are drawn; none is a photograph.

## What the program has to do

1. Decode the file, of an animation the first frame, in its full size.
2. Turn it upright, by the orientation that EXIF tells.
3. Lay it over white where it is transparent.
4. Convert it to sRGB by the colour profile that it has, to 8 bits, and to red, green and blue.
5. Run the graph with `images`, uint8 of the shape (1, height, width, 3).

Resizing, cropping and normalisation are the graph's. Values of more than 8 bits are scaled so that the first of the two
numbers of `intensity` becomes 0 and the second 255. With `"file"` it is the file's own values that decide. Whole
numbers from 0 get the fewest bits that hold them all, and colours an even number of bits. Floats from 0 to 1 stay as
they are. All others are scaled from the smallest to the largest.

## When it says "unsure"

The metadata of the file, under the key `imgbench`, is JSON; for runtimes that do not show it, `metadata.json` has it
too. The output `novelty` tells how far a picture is from the
photographs of the training.

- Without a promise, the answer is unsure if the novelty is at least `novelty_limit`. In `expected.json`, `unsure` says
  so under "".
- For a promised error, take the entry of `acceptance` with this `max_error`. The answer is unsure unless the highest
  probability is above its `threshold` and the novelty below its `limit`. A limit of `null` is no limit. A threshold of
  `null` says that this error cannot be promised. In `expected.json`, `unsure` says so under "0.02" and the like.

## Kinds

`kind` says what is special in a file, and `browser` whether browsers can show it as it is: Chromium does not turn WebP
upright, and rounds colours of WebP and AVIF that are half transparent. Conversions between colour
profiles differ by up to two of 255 grey levels from library to library. With these files, and with CMYK, a program that
uses another one than LittleCMS may miss the tolerance.
"""

WITHOUT_LARGE = """
## Left out

Large JPEGs. The model is of an earlier version of imgbench, which decoded them at 1/2, 1/4 or 1/8 of their size, and so
does the run. Decoded in full, a probability can differ by several hundredths. A model that is trained anew sees what
other programs see.
"""
