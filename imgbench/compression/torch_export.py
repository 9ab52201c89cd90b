"""A classifier as PyTorch's exported program: one .pt2 file, which needs torch, but neither imgbench nor Lightning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from imgbench.inference.onnx_file import METADATA_KEY, Deployed, in_evaluation, metadata_of, silenced

if TYPE_CHECKING:
    from imgbench.training.classifier import ImageClassifier


def write_torch_export(classifier: "ImageClassifier", path: Path) -> None:
    """Writes the same function as `write_onnx`, and the same metadata as the extra file `imgbench`."""
    module = Deployed(classifier)
    with in_evaluation(classifier), silenced():
        module.eval()
        program = torch.export.export(module, (module.example(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        metadata = json.dumps(metadata_of(classifier), ensure_ascii=False)
        torch.export.save(program, path, extra_files={METADATA_KEY: metadata})


def load_torch_export(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file as a function: uint8 (N, image_size, image_size, 3) -> probabilities (N, num_classes)."""
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(pixels)).numpy()

    return run
