"""A checkpoint's classifier as a function of images."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgbench.preprocessing import Preprocessing
from imgbench.training.fast import device_name, full_precision
from imgbench.training.network import Network, weights_hash

PROCESS = os.getpid()  # that imported this; in a fork of it, another


def _use_one_thread_in_a_fork() -> None:
    """A fork has no threads of its parent, and PyTorch's would wait for them without end."""
    if os.getpid() != PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


class TorchModel:
    """A classifier as a function of images, computed on `device`; None takes the fastest there is."""

    def __init__(self, classifier: Network, device: str | None = None) -> None:
        self.device = device or device_name("auto")
        self.classifier = classifier.eval().to(self.device)
        self.class_names: list[str] = classifier.class_names
        self.preprocessing = Preprocessing.from_dict(classifier.hparams["preprocessing"])
        self.provenance: dict[str, Any] = classifier.hparams["provenance"] or {}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        _use_one_thread_in_a_fork()
        with full_precision(self.device):
            return self.classifier(images.to(self.device)).float().softmax(1).cpu().numpy()

    @property
    def weights(self) -> str | None:
        """Their hash."""
        return weights_hash(self.classifier)

    @property
    def has_features(self) -> bool:
        return self.classifier.has_features

    @torch.inference_mode()
    def with_features(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, num_classes), and the means of the feature map's channels (N, num_features)."""
        _use_one_thread_in_a_fork()
        with full_precision(self.device):
            logits, features = self.classifier.with_features(images.to(self.device))
            return logits.float().softmax(1).cpu().numpy(), features.float().cpu().numpy()

    @property
    def is_frozen(self) -> bool:
        """Whether nothing but the last layer was learnt, so that its inputs are the same in every run."""
        return bool(getattr(self.classifier.model, "is_frozen", False))

    @torch.inference_mode()
    def classify(self, features: np.ndarray) -> np.ndarray:
        """The inputs of the last layer (N, D) -> probabilities (N, num_classes)."""
        _use_one_thread_in_a_fork()
        network: Any = self.classifier.model
        with full_precision(self.device):
            return network.get_classifier()(torch.from_numpy(features).to(self.device)).softmax(1).cpu().numpy()
