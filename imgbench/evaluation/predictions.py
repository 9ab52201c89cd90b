"""Class probabilities of a set of labelled images, and the file that keeps them."""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """Row i of each array belongs to `paths[i]`."""

    paths: list[str]
    targets: np.ndarray  # (N,) int64, indices into class_names
    probabilities: np.ndarray  # (N, num_classes) float32
    class_names: list[str]

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) the most probable class of each image."""
        return self.probabilities.argmax(1)

    def to_csv(self) -> str:
        """path, target, predicted and a column of probabilities per class: the content of `predictions.csv`."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "target", "predicted", *self.class_names])
        for i, path in enumerate(self.paths):
            names = [self.class_names[self.targets[i]], self.class_names[self.predicted[i]]]
            # Nine digits give back the same float32, so that near ties fall as they fell.
            writer.writerow([path, *names, *(f"{p:.9g}" for p in self.probabilities[i])])
        return file.getvalue()

    @classmethod
    def read_csv(cls, path: Path) -> "Predictions":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        names = header[3:]
        targets = np.array([names.index(row[1]) for row in rows], np.int64)
        probabilities = np.array([row[3:] for row in rows], np.float32).reshape(len(rows), len(names))
        return cls([row[0] for row in rows], targets, probabilities, names)


@torch.inference_mode()
def class_probabilities(model: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: str) -> np.ndarray:
    """(N, num_classes) softmax in fp32 of the logits that `model` gives for batches of images."""
    parts = [model(images.to(device)).float().softmax(1).cpu().numpy() for images in batches]
    return np.concatenate(parts)
