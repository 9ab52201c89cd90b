"""A trained classifier, ready for use on files, PIL images and arrays."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from imgbench.errors import DecodeError, UserError
from imgbench.inference.inputs import OpenFile, Source, decode_pixels, single_images
from imgbench.inference.runtimes import MODELS
from imgbench.preprocessing import Preprocessing
from imgbench.progress import loading
from imgbench.run import Run

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", bound=Source)


@dataclass(frozen=True)
class Prediction:
    """The prediction on one image."""

    label: str
    probability: float
    probabilities: dict[str, float]  # of every class, the most probable first


class Model(Protocol):
    """What predicts behind a Predictor: a function of uint8 images (N, 3, image_size, image_size), on the CPU.

    It returns probabilities (N, num_classes) float32.
    """

    class_names: list[str]
    preprocessing: Preprocessing
    provenance: dict[str, Any]

    @property
    def weights(self) -> str | None:
        """Their hash, by which what was measured of them is known to be of these."""
        ...

    def __call__(self, images: "Tensor", /) -> np.ndarray: ...


class Predictor:
    """Preprocesses and classifies images exactly as the model was evaluated.

    It may be pickled, and used in a process that was forked; of an ONNX file, the file must still be there.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.class_names = model.class_names
        self.preprocessing = model.preprocessing
        self.provenance = model.provenance

    @classmethod
    def load(cls, path: str | Path) -> "Predictor":
        """From a run directory (its best checkpoint, else its model.onnx), a checkpoint, or a file of a runtime.

        Raises:
            UserError: there is none, it is damaged, or it holds pickled code, which is never executed.
        """
        path = Path(path)
        file = path if path.is_file() else Run.open(path).model
        if file is None:
            status = Run.open(path).info.get("status")
            raise UserError(
                f"{path} has neither checkpoints/best.ckpt nor model.onnx; its status is {status!r}. "
                "Train it to the end of an epoch."
            )
        if opened := MODELS.get(file.suffix.lower()):
            return cls(opened(file))
        with loading():  # such a file does not need it
            from imgbench.inference.torch_model import TorchModel
            from imgbench.training.network import LoadedNetwork
            from imgbench.training.reading import load

        return cls(TorchModel(load(file, LoadedNetwork)))

    def predict(
        self, images: "Source | OpenFile | Iterable[Source | OpenFile]", batch_size: int = 32
    ) -> list[Prediction]:
        """One Prediction per image, of one image or several.

        An image is a file's path, a file opened in binary mode or its bytes, a PIL image, an array (height, width,
        channels) or (height, width), or a tensor (channels, height, width), of uint8 or of floats in 0 to 1; channels
        are 1, 3 or 4. Arrays and tensors of one axis more are batches. Whole numbers of 16 bits are scaled as files of
        16 bits are.

        Raises:
            DecodeError: naming the first image that cannot be decoded, or whose shape or values are not clear.
            UserError: something is no image, or `batch_size` no number of images.
        """
        sources = single_images(images)
        probabilities, errors = self.probabilities(sources, batch_size)
        if errors:
            index, reason = next(iter(errors.items()))
            name = sources[index] if isinstance(sources[index], str | Path) else f"image {index}"
            raise DecodeError(f"{name}: {reason}")
        return [self.prediction(row) for row in probabilities]

    def probabilities(self, sources: Sequence[Source], batch_size: int = 32) -> tuple[np.ndarray, dict[int, str]]:
        """(N, num_classes), with rows of NaN for images that cannot be decoded, and why those cannot."""
        return self.apply(self.model, len(self.class_names), sources, batch_size)

    def apply(
        self, function: Callable[["Tensor"], np.ndarray], width: int, sources: Sequence[Source], batch_size: int = 32
    ) -> tuple[np.ndarray, dict[int, str]]:
        """As `probabilities`, of a function of images that returns (n, width)."""
        result = np.full((len(sources), width), np.nan, np.float32)
        errors: dict[int, str] = {}
        start = 0
        for batch in self.stream(function, sources, batch_size):
            for i, (_, values) in enumerate(batch, start):
                if isinstance(values, str):
                    errors[i] = values
                else:
                    result[i] = values
            start += len(batch)
        return result, errors

    def stream(
        self, function: Callable[["Tensor"], np.ndarray], sources: Iterable[S], batch_size: int = 32
    ) -> Iterator[list[tuple[S, np.ndarray | str]]]:
        """Batches of sources, each with its row of what the function returns, or why it cannot be decoded.

        The next batch is decoded while this one is computed and used; there are never more than two in memory.
        """
        waiting: deque[S] = deque()

        def remembered() -> Iterator[S]:
            for source in sources:
                waiting.append(source)
                yield source

        for indices, pixels, errors in decode_pixels(remembered(), self.preprocessing, batch_size):
            rows = dict(zip(indices, self._values(function, pixels), strict=True)) if indices else {}
            yield [(waiting.popleft(), errors[i] if i in errors else rows[i]) for i in sorted({*rows, *errors})]

    def _values(self, function: Callable[["Tensor"], np.ndarray], pixels: np.ndarray) -> np.ndarray:
        if run := getattr(function, "run", None):  # of an ONNX file, which needs no torch
            return run(pixels)
        from imgbench.data.batches import as_images

        return function(as_images(pixels))

    def prediction(self, probabilities: np.ndarray) -> Prediction:
        """The Prediction that a row of probabilities (num_classes,) amounts to."""
        order = np.argsort(-probabilities, kind="stable")
        ranked = {self.class_names[i]: float(probabilities[i]) for i in order}
        label = self.class_names[order[0]]
        return Prediction(label, ranked[label], ranked)
