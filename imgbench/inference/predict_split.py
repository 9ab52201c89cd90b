"""The one way from the images of a split to predictions."""

from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.progress import track
from torch import Tensor

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.evaluation.predictions import Predictions
from imgbench.inference.cached_features import image_features
from imgbench.inference.predictor import Model
from imgbench.inference.torch_model import TorchModel


def predict_split(model: Model, data: ImageFolderDataModule, split: str) -> Predictions:
    """What the model answers for the images of a split, `train`, `val` or `test`, none of them augmented.

    The features of a network that is frozen but for its last layer are computed once, and found again.
    """
    table, rows = data.table, data.rows(split)
    if isinstance(model, TorchModel) and model.is_frozen:
        probabilities = [model.classify(image_features(model.classifier, data, rows))]
    else:
        batches: Iterable[tuple[Tensor, Tensor]] = data.loader(split)
        if Console().is_terminal:
            batches = track(batches, f"Evaluating {split}", transient=True)
        probabilities = [model(data.preprocessing.center_crop(images)) for images, _ in batches]
    return Predictions(
        [table.paths[row] for row in rows],
        [table.groups[row] for row in rows],
        table.labels[rows].astype(np.int64),
        np.concatenate(probabilities),
        data.class_names,
    )
