"""A model as a function of images that tells also how far they are from those that it was trained on."""

import shlex
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.novelty import FeatureDistribution, apart
from imgbench.inference.onnx_model import OnnxModel, as_pixels
from imgbench.inference.predictor import Model
from imgbench.run import ACCEPTANCE_FILES, Run

if TYPE_CHECKING:
    from torch import Tensor

    from imgbench.inference.torch_model import TorchModel

FEATURES = ACCEPTANCE_FILES[1]
UNLIKE = "unlike the training images"


def tells_novelty(model: Model) -> TypeGuard[OnnxModel]:
    """Whether it is an ONNX file that says itself how far an image lies from the training images."""
    return isinstance(model, OnnxModel) and model.tells_novelty


def has_features(model: Model) -> "TypeGuard[TorchModel | OnnxModel]":
    """Whether it tells what is unlike the training images."""
    return bool(getattr(model, "has_features", False))


class Novelty:
    """Calls a picture unlike the training images from a distance on.

    Args:
        limit: of the distance.
        distribution: None where an ONNX file tells the distance itself, or the model has no features; then all images
            are taken to be like those of training.
    """

    def __init__(self, model: Model, limit: float, distribution: FeatureDistribution | None) -> None:
        self.model = model
        self.limit = limit
        self.distribution = distribution

    @classmethod
    def of(cls, path: str | Path, model: Model) -> "Novelty | None":
        """By what lies in the run that `model` was loaded from; None where that says nothing of this model.

        Raises:
            UserError: what the run has kept is damaged.
        """
        if not has_features(model):
            return None
        if tells_novelty(model):
            limit = model.metadata.get("novelty_limit")
            return cls(model, float(limit), None) if isinstance(limit, int | float) else None
        try:
            file = Run.open(path).path / FEATURES
        except UserError:  # a checkpoint that lies elsewhere
            return None
        if not file.is_file():
            return None
        kept = read_arrays(file)
        limit = novelty_limit_of(kept)
        if limit == np.inf or str(kept.get("weights")) != model.weights:
            return None
        return cls(model, limit, distribution_of(kept, file))

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """As a call, of uint8 (N, image_size, image_size, 3)."""
        if isinstance(self.model, OnnxModel) and self.distribution is None:
            return self.model.with_novelty(pixels)
        from imgbench.data.batches import as_images  # needs torch

        return self(as_images(pixels))

    def __call__(self, images: "Tensor") -> np.ndarray:
        """uint8 (N, 3, image_size, image_size) -> (N, num_classes + 1): probabilities, and a distance."""
        if self.distribution is None:
            if isinstance(self.model, OnnxModel):
                return self.run(as_pixels(images))
            return np.pad(self.model(images), ((0, 0), (0, 1)))
        assert has_features(self.model)
        probabilities, features = self.model.with_features(images)
        if features.shape[1] != len(self.distribution.mean):
            raise UserError(f"{FEATURES} of the run is damaged: it is of another network. Remove it.")
        return np.column_stack([probabilities, self.distribution.distances(features)])

    def doubt(self, row: np.ndarray) -> str | None:
        """Why the prediction that a row of the function's values (num_classes + 1,) amounts to is not accepted."""
        return UNLIKE if row[-1] >= self.limit else None


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The content of `features.npz`.

    Raises:
        UserError: it is damaged.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = dict(content)
        for name, array in arrays.items():
            if name != "weights" and array.dtype.kind not in "fiu":
                raise ValueError(f"its {name} is no array of numbers")
        if arrays.get("limit", np.zeros(())).shape or arrays.get("distances", np.zeros(0)).ndim != 1:
            raise ValueError("its limit or its distances have another shape")
        return arrays
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(file, error) from error


def novelty_limit_of(kept: dict[str, np.ndarray]) -> float:
    """The limit where nothing is promised, by the arrays of `features.npz`; infinite where there is none."""
    limit = float(kept.get("limit", np.inf))  # an earlier imgbench did not keep it
    return -apart(-limit, -kept.get("distances", np.zeros(0)))


def distribution_of(kept: dict[str, np.ndarray], file: Path) -> FeatureDistribution:
    """The distribution that the arrays of `features.npz` are of.

    Raises:
        UserError: they do not fit each other.
    """
    names = [name for name in ("mean", "directions", "precisions", "elsewhere", "precision") if name in kept]
    arrays = {name: kept[name] for name in names}
    try:
        if "precision" in arrays:  # as it was kept until November 2026
            distribution = FeatureDistribution.of_precision(**arrays)
        else:
            distribution = FeatureDistribution(**arrays)  # pyright: ignore[reportArgumentType]
        if not distribution.is_whole:
            raise ValueError("its arrays do not fit each other")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, error) from error
    return distribution


def damaged(file: Path, reason: object) -> UserError:
    return UserError(f"{file} is damaged: {reason}.\nRemove it. {renewing(Run(file.parent), file.name)}")


def renewing(run: Run, name: str = FEATURES) -> str:
    """How what a run keeps of its validation images, or its predictions of the test images, are written anew."""
    split = " --split val" if name in ACCEPTANCE_FILES else ""
    place = shlex.quote(str(run.shown))
    return f"Where its images are still there, this writes it: python -m imgbench.evaluate {place}{split}"
