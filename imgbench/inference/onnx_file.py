"""A classifier as one ONNX file: photographs go in, answers come out, and it says itself what it is.

The graph's input `images` is uint8 (N, height, width, 3): N photographs of one size, whatever it is, upright and in
sRGB, as numpy gets them from Pillow. Resizing, cropping, normalisation and softmax are part of the graph. Its outputs:

- `probabilities`, float32 (N, num_classes).
- `pixels`, uint8 (N, image_size, image_size, 3): what the network sees.
- `features`, float32 (N, num_features): the means of the feature map's channels. A user's own network may have none.
- `novelty`, float32 (N,): how far the features are from those of the training images, of a run that has kept these.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from imgbench.errors import UserError
from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.files import put_in_place
from imgbench.inference.acceptance import kept_of
from imgbench.inference.onnx_graph import UnknownOperationError, recorded
from imgbench.inference.onnx_model import FORMAT, METADATA_KEY, OnnxModel
from imgbench.inference.onnx_novelty import add_novelty
from imgbench.inference.onnx_pixels import of_photographs
from imgbench.inference.torch_model import TorchModel
from imgbench.preprocessing import Preprocessing
from imgbench.progress import Step
from imgbench.run import Run
from imgbench.training.network import weights_hash

if TYPE_CHECKING:
    from imgbench.training.network import Network

# The newest whose every operation has a kernel in each onnxruntime from 1.22 on. PyTorch's exporter writes 23 as well,
# and onnxruntime 1.31 runs up to 26, but 1.23, the last for Python 3.10, cannot compute 23's QuantizeLinear. Our
# graphs, float or quantised, are the same in all of them, and as fast.
OPSET = 22


class Deployed(nn.Module):
    """What the ONNX file computes of `pixels`: `probabilities`, and `features` where the network has them."""

    def __init__(self, classifier: "Network") -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("probabilities", "features") if self.classifier.has_features else ("probabilities",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.permute(0, 3, 1, 2)
        if not self.classifier.has_features:
            return (self.classifier(images).float().softmax(1),)
        logits, features = self.classifier.with_features(images)
        return logits.float().softmax(1), features.float()

    def example(self) -> Tensor:
        """Two images: with one, the exporter would take the batch for a constant."""
        size = self.classifier.hparams["preprocessing"]["image_size"]
        return torch.zeros(2, size, size, 3, dtype=torch.uint8, device=self.classifier.offset.device)


def metadata_of(classifier: "Network", **facts: Any) -> dict[str, Any]:
    """What the file says of itself: class names, preprocessing, provenance, and further facts."""
    return {
        "format": FORMAT,
        "class_names": classifier.class_names,
        "preprocessing": classifier.hparams["preprocessing"],
        "provenance": classifier.hparams["provenance"] or {},
        "weights": weights_hash(classifier),
        **facts,
    }


def graph_hash(model: Any) -> str:
    """Of an onnx.ModelProto whose weights are no network's any more, since they were quantised."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()[:32]


@contextmanager
def in_evaluation(classifier: "Network") -> Iterator[None]:
    """Without dropout and with the statistics that batch normalisation has learnt; afterwards as before."""
    before = classifier.training
    classifier.eval()
    try:
        yield
    finally:
        classifier.train(before)


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """The exporter takes what works in place apart, and a third longer for it; the graph is the same."""
    in_place: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False)]
    for part in in_place:
        part.inplace = False
    try:
        yield
    finally:
        for part in in_place:
            part.inplace = True


@contextmanager
def silenced() -> Iterator[None]:
    """Exporter and quantiser speak to their developers, in warnings and at every level of logging.

    What imgbench itself logs inside, such as how long a step takes, is still shown.
    """

    def shown(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or record.name.startswith("imgbench.")

    handlers = [handler for handler in (*logging.root.handlers, logging.lastResort) if handler is not None]
    for handler in handlers:
        handler.addFilter(shown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(shown)


def adaptive_avg_pool2d(images: Any, output_size: Sequence[int]) -> Any:
    """ONNX has no adaptive pooling, and the exporter's own translation of uneven cells is hundreds of nodes."""
    from onnxscript import opset18

    op: Any = opset18  # the exporter brings it to OPSET
    height, width = images.shape[2:]
    rows, columns = output_size
    if (rows, columns) == (1, 1):
        return op.GlobalAveragePool(images)
    if height % rows == 0 and width % columns == 0:
        cell = [height // rows, width // columns]
        return op.AveragePool(images, kernel_shape=cell, strides=cell)
    down, across = (
        op.Constant(value_floats=_averaging(*sizes).ravel().tolist()) for sizes in ((rows, height), (columns, width))
    )
    down, across = op.Reshape(down, [rows, height]), op.Reshape(across, [columns, width])
    return op.Einsum(images, down, across, equation="nchw,ih,jw->ncij")


def _averaging(cells: int, size: int) -> np.ndarray:
    """(cells, size) weights: each cell is the average of the pixels that it touches."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        inside = slice(cell * size // cells, -(-(cell + 1) * size // cells))
        weights[cell, inside] = 1 / (inside.stop - inside.start)
    return weights


def write_onnx(classifier: "Network", path: str | Path, run: Run | None = None) -> None:
    """Writes the classifier as one file, beside `path` first, so that a failure leaves what was there.

    Args:
        run: that it is of, which may have kept what tells which answers are unsure.

    Raises:
        UserError: the model is too large or has operations that ONNX cannot express, or what the run kept is damaged.
    """
    with Step("Writing ONNX"), in_evaluation(classifier):
        network = exported(Deployed(classifier))
    distribution, facts = kept_of(run, TorchModel(classifier)) if run else (None, {})
    save_model(network, Path(path), metadata_of(classifier, **facts), distribution)


def tell_unsure(run: Run) -> None:
    """Adds to the run's `model.onnx`, which was quantised, what the run has kept since of which answers are unsure."""
    import onnx

    file = run.path / "model.onnx"
    known = OnnxModel(file)
    if not known.resizes:
        return
    distribution, facts = kept_of(run, known)
    model = onnx.load(file)
    if distribution:
        add_novelty(model, distribution)
    _save(model, file, {**known.metadata, **facts})


def upgraded(path: Path) -> bytes:
    """An ONNX file of an earlier imgbench, which took pixels that were resized before, as one that resizes itself."""
    import onnx

    model, metadata = onnx.load(path), OnnxModel(path).metadata
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "images":
                node.input[place] = "pixels"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_model(model, file, {**metadata, "format": FORMAT})
        return file.read_bytes()


def exported(module: Deployed) -> Any:
    """The onnx.ModelProto of the network: `pixels` give the module's outputs.

    Raises:
        UserError: the model has operations that ONNX cannot express.
    """
    module.eval()
    with silenced(), _out_of_place(module), torch.no_grad():
        with suppress(UnknownOperationError):  # PyTorch's exporter knows it, and takes ten seconds
            return recorded(module, module.example(), OPSET, module.outputs)
        try:
            program = torch.onnx.export(
                module,
                (module.example(),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=list(module.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={
                    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
                    torch.ops.aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
                },
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"The model cannot be expressed in ONNX: {error}") from error
    assert program is not None  # only without dynamo
    return program.model_proto


def forget_sources(model: Any) -> None:
    """Drops what the exporter writes beside each node: the lines of Python it comes from, with this machine's paths."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        part.ClearField("metadata_props")


def save_model(
    network: Any, path: Path, metadata: dict[str, Any], distribution: FeatureDistribution | None = None
) -> None:
    """Writes an onnx.ModelProto of `pixels`, behind the metadata's preprocessing, checked, as one file.

    Args:
        distribution: from which `novelty` is told.

    Raises:
        UserError: it is larger than an ONNX file can be.
    """
    model = of_photographs(network, Preprocessing.from_dict(metadata["preprocessing"]))
    forget_sources(model)
    if distribution:
        add_novelty(model, distribution)
    _save(model, path, metadata)


def _save(model: Any, path: Path, metadata: dict[str, Any]) -> None:
    import onnx

    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})
    model.producer_name, model.producer_version = "imgbench", ""
    if model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        raise UserError(f"The model has {model.ByteSize() / 1e9:.1f} GB, but one ONNX file holds 2 GB at most.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        onnx.save(model, unfinished)
        onnx.checker.check_model(unfinished, full_check=True)
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
