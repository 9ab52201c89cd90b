"""What a run keeps of its validation and training images, for answers to be called unsure by it."""

from pathlib import Path

import numpy as np

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import novelty_limit, one_of_each_group
from imgbench.files import replacing, write_atomically
from imgbench.inference.acceptance import VALIDATION
from imgbench.inference.neighbours import features_of
from imgbench.inference.novelty import FEATURES, has_features
from imgbench.inference.predictor import Model

MOST_TRAINING_IMAGES = 2000  # more of them hardly change a distribution of a few hundred features


def keep_for_acceptance(
    folder: Path, model: Model, validation: Predictions, val: ImageFolderDataModule, training: np.ndarray | None
) -> np.ndarray:
    """Writes `validation.csv` and, of a network that has features, `features.npz`.

    Args:
        validation: the predictions for those validation images of `val` that are independent of the training images.
        training: (N, D) features of training images; None where the model has none.

    Returns:
        (number of validation images,) their distances from the training images, 0 without features.
    """
    weights = model.weights or ""
    write_atomically(folder / VALIDATION, validation.to_csv(weights and f"weights {weights}"), errors="surrogateescape")
    if training is None or not has_features(model):
        return np.zeros(len(validation.paths))
    distribution = FeatureDistribution.of(training)
    independent = np.isin([val.table.paths[row] for row in val.rows("val")], validation.paths)
    distances = distribution.distances(features_of(model, val, val.rows("val"))[independent]).astype(np.float32)
    limit = novelty_limit(distances[one_of_each_group(validation.groups)])
    with replacing(folder / FEATURES, "wb") as unfinished:
        np.savez(unfinished, **vars(distribution), distances=distances, limit=limit, weights=np.array(weights))
    return distances


def training_rows(data: ImageFolderDataModule) -> np.ndarray:
    """The rows of the training images whose features are compared with: at most `MOST_TRAINING_IMAGES` of them."""
    rows = data.rows("train")
    if len(rows) <= MOST_TRAINING_IMAGES:
        return rows
    return np.sort(np.random.default_rng(data.seed).permutation(rows)[:MOST_TRAINING_IMAGES])
