"""An ONNX file of a run in the format of another runtime, put in place only if that runtime answers as it does."""

import contextlib
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from imgbench.decode import open_image
from imgbench.errors import UserError
from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.files import put_in_place
from imgbench.inference.acceptance import kept_of
from imgbench.inference.inputs import decode_pixels
from imgbench.inference.onnx_file import Deployed, silenced
from imgbench.inference.onnx_model import METADATA_KEY, OnnxModel
from imgbench.inference.onnx_pixels import resize_exactly
from imgbench.inference.runtimes import MODELS, require
from imgbench.inference.torch_model import TorchModel
from imgbench.progress import Step
from imgbench.publish.drawn_files import made_files
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier

EXTRAS = {".xml": "openvino", ".tflite": "litert"}
NOVELTY = 0.01  # share of a novelty: sums in another order change it by more than probabilities


def require_format(output: Path) -> None:
    """Raises UserError: the extra is not installed that writes files of this ending."""
    require(EXTRAS[output.suffix.lower()], f"--output {output}")


def convert(source: Path, run: Run, onnx: Path, output: Path, tolerance: float = 1e-3) -> dict[str, Any]:
    """Writes what `onnx` is as `output`, once its runtime has given the same answers; returns what was compared.

    Args:
        source: of which the ONNX file was made: the run, a checkpoint, or the ONNX file itself.
        tolerance: the largest difference of a probability that counts as rounding.

    Raises:
        UserError: the model cannot be converted, or answers otherwise; what was there before is still there.
    """
    kind = output.suffix.lower()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=output.parent) as folder:
            unfinished = Path(folder) / output.name
            with Step(f"Converting to {EXTRAS[kind]}"):
                if kind == ".xml":
                    write_openvino(onnx, unfinished)
                else:
                    write_litert(source, run, onnx, unfinished)
            differences = compare(OnnxModel(onnx), MODELS[kind](unfinished))
            _require_same(differences, tolerance, onnx, output)
            for part in sorted(Path(folder).iterdir()):  # the weights first
                put_in_place(part, output.with_name(part.name))
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}. Name another file: --output FILE") from error
    return {"file": str(output), "files": len(differences), "largest_difference": max(differences.values())[0]}


def write_openvino(onnx: Path, file: Path) -> None:
    """Writes the graph as `file` and, beside it, its weights in float32, or int8 where they were quantised.

    Raises:
        UserError: OpenVINO lacks an operation of the graph.
    """
    import openvino
    from onnx import load

    model = load(onnx)
    resize_exactly(model)  # OpenVINO's own Resize overlooks antialiasing, which large photographs take
    try:
        converted = openvino.Core().read_model(io.BytesIO(model.SerializeToString()))
    except Exception as error:
        raise UserError(
            f"OpenVINO {openvino.__version__} cannot convert {onnx}: {_said(error)}\n"
            "Update it (pip install -U openvino), or use the ONNX file."
        ) from error
    facts = json.dumps(OnnxModel(onnx).metadata, ensure_ascii=False)
    converted.set_rt_info(facts, [METADATA_KEY, "metadata"])
    openvino.save_model(converted, file, compress_to_fp16=False)


def write_litert(source: Path, run: Run, onnx: Path, file: Path) -> None:
    """Writes the network as one file for photographs that were resized before.

    Raises:
        UserError: there is no checkpoint, or LiteRT lacks an operation of the network.
    """
    checkpoint = source if source.suffix == ".ckpt" else run.best
    if not checkpoint.is_file():
        raise UserError(
            f"{file.name} is converted from a checkpoint, but the model of {run.shown} is an ONNX file, which was "
            "quantised.\nName the run that it was made of, or write --output FILE.xml, which takes ONNX files of int8."
        )
    classifier = load_classifier(checkpoint)
    distribution, _ = kept_of(run, TorchModel(classifier))
    network = _Named(Deployed(classifier), distribution).eval()
    pixels = Deployed(classifier).example()[:1]
    try:
        # What the converter prints is how far each of its passes has come.
        with silenced(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import litert_torch  # pyright: ignore[reportMissingImports]

            litert_torch.convert(network, sample_kwargs={"pixels": pixels}).export(str(file))
    except Exception as error:  # of half a dozen libraries
        raise UserError(f"LiteRT's converter cannot express the model: {_said(error)}") from error
    # A file of format 1 is one that takes pixels.
    facts = json.dumps({**OnnxModel(onnx).metadata, "format": 1}, ensure_ascii=False)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{METADATA_KEY}.json", facts)


class _Named(nn.Module):
    """`pixels` -> `probabilities`, and `novelty` where the run has kept what tells it."""

    def __init__(self, deployed: Deployed, distribution: FeatureDistribution | None) -> None:
        super().__init__()
        self.deployed = deployed
        self.elsewhere = float(distribution.elsewhere) if distribution else None
        if distribution:
            for name in ("mean", "directions", "precisions"):
                self.register_buffer(name, torch.from_numpy(np.array(getattr(distribution, name), np.float32)))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        found = dict(zip(self.deployed.outputs, self.deployed(pixels), strict=True))
        answers = {"probabilities": found["probabilities"]}
        if self.elsewhere is not None:
            centred = found["features"] - self.get_buffer("mean")
            along = centred @ self.get_buffer("directions").T
            rest = centred - along @ self.get_buffer("directions")
            squares = (along**2) @ self.get_buffer("precisions") + self.elsewhere * (rest**2).sum(1)
            answers["novelty"] = squares.sqrt()
        return answers


def compare(reference: OnnxModel, converted: OnnxModel) -> dict[str, tuple[float, float]]:
    """File of the conformance set -> the largest difference of a probability, and the share by which novelty differs.

    Novelties below 1 differ by no larger share than novelties of 1.
    """
    differences: dict[str, tuple[float, float]] = {}
    with Step("Comparing it with the ONNX file"):
        for name, _, content in made_files():
            image = open_image(content, reference.preprocessing.intensity)
            expected, found = _answer(reference, image), _answer(converted, image)
            *probabilities, novelty = np.abs(found - expected)
            differences[name] = (float(np.max(probabilities)), float(novelty / max(expected[-1], 1)))
    return differences


def _answer(model: OnnxModel, image: Image.Image) -> np.ndarray:
    """Probabilities, and novelty."""
    if model.resizes:
        return model.photograph(np.asarray(image))
    ((_, pixels, _),) = decode_pixels([image], model.preprocessing)
    return model.with_novelty(pixels)[0]


def _require_same(differences: dict[str, tuple[float, float]], tolerance: float, onnx: Path, output: Path) -> None:
    same = {
        name for name, (one, novelty) in differences.items() if one <= tolerance and novelty <= NOVELTY
    }  # NaN is not
    wrong = {name: one for name, one in differences.items() if name not in same}
    if wrong:
        worst = sorted(wrong, key=lambda name: np.nan_to_num(wrong[name], nan=np.inf).tolist(), reverse=True)[:3]
        told = [
            f"{name} by {wrong[name][0]:.2g}"
            + (f" (its novelty by {100 * wrong[name][1]:.2g} %)" if not wrong[name][1] <= NOVELTY else "")
            for name in worst
        ]
        raise UserError(
            f"{output} answers otherwise than {onnx}, by more than --tolerance {tolerance:g} on {len(wrong)} of "
            f"{len(differences)} files: {', '.join(told)}.\nIt was not written."
        )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
