"""An ONNX file of ours as a function of images; torch, which takes seconds to import, is not needed."""

import ctypes
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgbench.errors import UserError
from imgbench.files import core_quota
from imgbench.preprocessing import Preprocessing
from imgbench.stored_config import with_resize

if TYPE_CHECKING:
    from torch import Tensor

# Of the file; raised when a reader of the old one would misunderstand the new one. Those of format 1 take pixels that
# were resized and cropped before.
FORMAT = 2
METADATA_KEY = "imgbench"
# What a runtime says of what it lacks.
LACKING = re.compile("No Op registered|not a registered function|not find an implementation|opset|IR version")


class OnnxModel:
    """An ONNX file of ours in an onnxruntime session on the CPU.

    Pickled, it is the file's path, and is opened again.

    Args:
        threads: of one image's computation; None: as many as the machine has cores.

    Raises:
        UserError: the file is missing, damaged, or not of this imgbench.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist.")
        self._opened_with, self._process = (Path(path).resolve(), threads), os.getpid()
        properties = self._open(path, threads or core_quota() or 0)
        self.metadata = _read_metadata(path, properties)
        self.class_names: list[str] = self.metadata["class_names"]
        try:
            self.preprocessing = Preprocessing.from_dict(self.metadata["preprocessing"])
            self.preprocessing.check()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path) from error
        self.provenance: dict[str, Any] = self.metadata["provenance"]
        # What of the edges of a photograph is cropped away by the graph is made up where it was cropped before.
        size, inner = self.preprocessing.stored_size, self.preprocessing.center
        self._margins = (inner.start, size - inner.stop) if self.resizes else (0, 0)

    def _open(self, path: str | Path, threads: int) -> dict[str, str]:
        """Sets `session` and the names `_outputs`; returns the file's metadata. 0 threads: as the machine has cores."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have nothing in common but this
            if LACKING.search(str(error)):
                reason = str(error).splitlines()[0].partition(" : FAIL : ")
                raise UserError(
                    f"{path} takes operations that onnxruntime {onnxruntime.__version__} has not: "
                    f"{reason[2] or reason[0]}\nUpdate it: pip install -U onnxruntime"
                ) from error
            raise UserError(
                f"{path} is no ONNX file, or a damaged one ({type(error).__name__}). "
                "Write it anew: python -m imgbench.export RUN"
            ) from error
        self.session: Any = session
        self._outputs = {output.name for output in session.get_outputs()}
        return session.get_modelmeta().custom_metadata_map

    def _answers(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(output) for output in self.session.run(outputs, {"images": images})]

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[Path, int | None]]:
        return type(self), self._opened_with

    @property
    def resizes(self) -> bool:
        """Whether the graph takes photographs of any size, as it does since format 2."""
        return self.metadata["format"] > 1

    @property
    def weights(self) -> str | None:
        """Their hash, or that of the graph where they were quantised; that of an earlier imgbench does not say it."""
        return self.metadata.get("weights")

    @property
    def has_features(self) -> bool:
        return "features" in self._outputs

    @property
    def tells_novelty(self) -> bool:
        """Whether the graph itself tells how far images are from those that it was trained on."""
        return "novelty" in self._outputs

    @property
    def quantized(self) -> bool:
        return bool(self.metadata.get("quantized"))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (N, image_size, image_size, 3), as the network sees them -> probabilities (N, num_classes)."""
        return self._computed(pixels, "probabilities")[0]

    def photograph(self, image: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3) of any size -> a row as `with_novelty`."""
        outputs = ("probabilities", "novelty") if self.tells_novelty else ("probabilities",)
        found = self._answers(image[None], outputs)
        return np.append(found[0][0], found[1][0] if self.tells_novelty else np.float32(0))

    def with_novelty(self, pixels: np.ndarray) -> np.ndarray:
        """As `run`, with a last column of distances from the training images; zeros where the graph does not tell."""
        if not self.tells_novelty:
            return np.pad(self.run(pixels), ((0, 0), (0, 1)))
        return np.column_stack(self._computed(pixels, "probabilities", "novelty"))

    def with_features(self, images: "Tensor") -> tuple[np.ndarray, np.ndarray]:
        """As that of a checkpoint."""
        probabilities, features = self._computed(as_pixels(images), "probabilities", "features")
        return probabilities, features

    def _computed(self, pixels: np.ndarray, *outputs: str) -> list[np.ndarray]:
        if os.getpid() != self._process:  # a fork has no threads of its parent, and would wait for them without end
            # So does freeing the parent's session: this reference to it is never given back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.session))
            self.__init__(*self._opened_with)
        if any(self._margins):
            pixels = np.pad(pixels, ((0, 0), self._margins, self._margins, (0, 0)))
        return self._answers(pixels, outputs)

    def __call__(self, images: "Tensor") -> np.ndarray:
        """uint8 (N, 3, image_size, image_size) -> probabilities (N, num_classes)."""
        return self.run(as_pixels(images))


def as_pixels(images: "Tensor") -> np.ndarray:
    """uint8 (N, 3, H, W) -> (N, H, W, 3)."""
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _read_metadata(path: str | Path, properties: dict[str, str]) -> dict[str, Any]:
    if METADATA_KEY not in properties:
        raise UserError(
            f"{path} has no metadata of imgbench, so that its classes and preprocessing are unknown. "
            "Write it with: python -m imgbench.export RUN"
        )
    try:
        metadata: dict[str, Any] = json.loads(properties[METADATA_KEY])
        found = metadata["format"]
        missing = {"class_names", "preprocessing", "provenance"} - set(metadata)
        if "preprocessing" in metadata:
            metadata["preprocessing"] = with_resize(metadata["preprocessing"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if found not in (1, FORMAT):
        raise UserError(
            f"{path} is of format {found}, but this imgbench reads format {FORMAT}. "
            "Update imgbench, or write the file anew: python -m imgbench.export RUN"
        )
    if missing:
        raise UserError(f"{path} has metadata without {', '.join(sorted(missing))}. Write it anew.")
    names = metadata["class_names"]
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise _damaged(path)
    if len(set(names)) < len(names) or not isinstance(metadata["provenance"], dict):
        raise _damaged(path)
    return metadata


def _damaged(path: str | Path) -> UserError:
    return UserError(f"{path} has damaged metadata. Write it anew: python -m imgbench.export RUN")
