"""The one way from the images of a split to predictions."""

import numpy as np

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.table import ImageTable
from imgbench.evaluation.predictions import Predictions
from imgbench.inference.cached_features import image_features
from imgbench.inference.predictor import Model
from imgbench.inference.torch_model import TorchModel
from imgbench.progress import shown

NAMES = {"train": "training", "val": "validation", "test": "test"}


def predict_split(model: Model, data: ImageFolderDataModule, split: str) -> Predictions:
    """What the model answers for the images of a split, `train`, `val` or `test`, none of them augmented.

    The features of a network that is frozen but for its last layer are computed once, and found again.
    """
    table, rows = data.table, data.rows(split)
    if isinstance(model, TorchModel) and model.is_frozen:
        probabilities = [model.classify(image_features(model.classifier, data, rows))]
    else:
        batches = data.loader(split)
        probabilities = [
            model(data.preprocessing.center_crop(images))
            for images, _ in shown(batches, len(batches), f"Predicting the {NAMES[split]} images")
        ]
    return predictions_of_rows(table, rows, np.concatenate(probabilities))


def predictions_of_rows(table: ImageTable, rows: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Probabilities (N, num_classes) with what the table says of these N rows."""
    return Predictions(
        [table.paths[row] for row in rows],
        [table.groups[row] for row in rows],
        table.labels[rows].astype(np.int64),
        probabilities,
        table.class_names,
    )
