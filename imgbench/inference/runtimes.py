"""Files of other runtimes that were made of an ONNX file of ours, and answer as it does.

They are written by `imgbench.publish.formats`, and bring the same metadata.
"""

import importlib.util
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.inference.onnx_model import METADATA_KEY, OnnxModel

# Extra of imgbench -> the package that it brings.
PACKAGES = {"openvino": "openvino", "litert": "litert_torch"}


def require(extra: str, what: Path | str) -> None:
    """Raises UserError: what `what` takes is not installed."""
    if importlib.util.find_spec(PACKAGES[extra]) is None:
        package = PACKAGES[extra].replace("_", "-")
        raise UserError(f'{what} takes {package}, not installed here. Mend it with: pip install "imgbench[{extra}]"')


class OpenVinoModel(OnnxModel):
    """An OpenVINO IR on the CPU: `model.xml`, and `model.bin` beside it. As an ONNX file, it takes whole photographs.

    It computes in float32 on processors too that have bfloat16, which OpenVINO prefers by itself.
    """

    def _open(self, path: str | Path, threads: int) -> dict[str, str]:
        require("openvino", path)
        import openvino

        core, key = openvino.Core(), [METADATA_KEY, "metadata"]
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(Path(path))
            self.session = core.compile_model(model, "CPU", options)
        except Exception as error:
            raise _unreadable(path, f"OpenVINO {openvino.__version__}", error) from error
        self._outputs = {output.get_any_name() for output in model.outputs}
        return {METADATA_KEY: model.get_rt_info(key).astype(str)} if model.has_rt_info(key) else {}

    def _answers(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        found = self.session({"images": images})
        return [found[output] for output in outputs]


class LiteRtModel(OnnxModel):
    """A LiteRT file, `model.tflite`; it takes pixels as the network sees them, of one image at a time.

    What it says of itself is `imgbench.json` in a zip archive at its end, where TensorFlow Lite keeps such files too.
    """

    def _open(self, path: str | Path, threads: int) -> dict[str, str]:
        if importlib.util.find_spec("ai_edge_litert") is None:
            require("litert", path)
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

        try:
            interpreter = Interpreter(str(path), num_threads=threads or None)
            interpreter.allocate_tensors()
            self.session = interpreter.get_signature_runner()
        except Exception as error:
            raise _unreadable(path, "LiteRT", error) from error
        self._outputs = set(self.session.get_output_details())
        if not zipfile.is_zipfile(path):
            return {}
        with zipfile.ZipFile(path) as archive:
            return {METADATA_KEY: archive.read(f"{METADATA_KEY}.json").decode()}

    def _answers(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        found = [self.session(pixels=images[i : i + 1]) for i in range(len(images))]
        return [np.concatenate([one[output] for one in found]) for output in outputs]


def _unreadable(path: str | Path, runtime: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[-300:]
    return UserError(
        f"{path} is damaged, or {runtime} lacks what it takes: {said}\n"
        f"Write it anew: python -m imgbench.export RUN --output {Path(path).name}"
    )


# By the ending of the file.
MODELS: dict[str, type[OnnxModel]] = {".onnx": OnnxModel, ".xml": OpenVinoModel, ".tflite": LiteRtModel}
