"""Which training images a network finds most like another: the nearest in the space of its features."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.inference.cached_features import features_of_pixels, image_features
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.torch_model import TorchModel


def network_inputs(data: ImageFolderDataModule, rows: np.ndarray) -> Iterator[Tensor]:
    """The images of these rows of the table in batches (N, 3, image_size, image_size) uint8, as a network gets them."""
    images = data.images(rows)
    for start in range(0, len(rows), data.batch_size):
        pixels, _ = images.__getitems__(list(range(start, min(start + data.batch_size, len(rows)))))
        yield data.preprocessing.center_crop(pixels)


def features_of(model: TorchModel | OnnxModel, data: ImageFolderDataModule, rows: np.ndarray) -> np.ndarray:
    """(len(rows), D) of these rows of the table, without augmentation; of a frozen network from the cache."""
    if isinstance(model, TorchModel) and model.is_frozen:
        return image_features(model.classifier, data, rows)
    return np.concatenate([model.with_features(images)[1] for images in network_inputs(data, rows)])


def features_of_images(model: TorchModel | OnnxModel, images: Tensor) -> np.ndarray:
    """(N, D), as `features_of`, of images (N, 3, image_size, image_size) uint8 that are in no table."""
    if isinstance(model, TorchModel) and model.is_frozen:
        return features_of_pixels(model.classifier, images)
    return model.with_features(images)[1]


def nearest(features: np.ndarray, training: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the features (M, D) the nearest of training (N, D), and their similarities, both (M, at most number).

    The similarity is the cosine of the angle between features that were standardised by the training images, so that
    none counts for its scale alone; the most similar comes first.
    """
    similarity = directions(features, training) @ directions(training, training).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :number]
    return order, np.take_along_axis(similarity, order, 1)


def directions(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """The features (M, D), standardised by training (N, D), as vectors of length 1."""
    mean, std = training.mean(0), training.std(0)
    scale = np.where(std > 1e-6 * np.abs(mean) + 1e-12, std, np.inf)  # a constant feature tells nothing
    standard = (features - mean) / scale
    return standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-12)
