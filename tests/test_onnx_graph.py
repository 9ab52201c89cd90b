"""Graphs that are written without PyTorch's exporter: of common networks, and never of what they do not compute."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from imgbench.inference.onnx_file import OPSET, Deployed
from imgbench.inference.onnx_graph import UnknownOperationError, recorded
from imgbench.training.classifier import ImageClassifier

NETWORKS = {
    "pooled": {"_target_": "imgbench.models.backbone.pooled_features", "name": "tf_efficientnet_lite0"},
    "compact": {"_target_": "imgbench.models.compact.CompactCNN"},
    "student": {"_target_": "imgbench.models.student.Student"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_a_study_tries_are_written_directly(name):
    torch.manual_seed(0)
    preprocessing = {"image_size": 32, "resize": "stretch", "mean": [0.5] * 3, "std": [0.25] * 3}
    model = {**NETWORKS[name], "num_classes": 3, "image_size": 32}
    module = Deployed(ImageClassifier(model, ["a", "b", "c"], preprocessing)).eval()
    layers: list[Any] = [*module.modules()]
    for layer in layers:
        if getattr(layer, "inplace", False):
            layer.inplace = False
    graph = recorded(module, module.example(), OPSET, module.outputs)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = module(torch.from_numpy(images))
    for ours, theirs in zip(session.run(None, {"pixels": images}), expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-4, atol=1e-5)


class OfPixels(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.function(images.permute(0, 3, 1, 2).float().mean((2, 3))),)


@pytest.mark.parametrize(
    "function",
    [
        torch.sin,  # not known
        lambda means: means + torch.ones(len(means), 1),  # for as many images as it was written with
        lambda means: torch.cat([means, means[:1].detach().clone()], 0),  # takes one of the images for all
    ],
)
def test_what_cannot_be_written_is_not(function):
    with pytest.raises(UnknownOperationError):
        recorded(OfPixels(function), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), OPSET, ["features"])
