"""Eight-bit integers in place of floats, by onnxruntime's static quantisation (https://arxiv.org/abs/1712.05877).

Weights are int8 with a scale per output channel, activations uint8 with the range they have on training images.
Normalisation and softmax stay in float, and so do the logits: in 256 steps, close classes would tie.
"""

import logging
import platform
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgbench.compression.measure import validation_accuracy
from imgbench.compression.options import FEWEST_CALIBRATION, Quantize
from imgbench.compression.retrain import conclude_quietly, same_images
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import draw_stratified
from imgbench.errors import UserError
from imgbench.experiment.build import with_facts
from imgbench.experiment.compose import override, storable
from imgbench.experiment.train import write_table
from imgbench.files import write_atomically
from imgbench.inference.onnx_file import graph_hash, metadata_of, save_model, silenced, weights_hash, write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.models.summary import model_table
from imgbench.progress import Step, shown
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier

log = logging.getLogger(__name__)

BATCH = 16
RANKING_IMAGES = 64  # that tell which layers lose most
LAYERS = ("Conv", "Gemm", "MatMul")
# What stands between layers works on the integers as well; on floats it would cost a conversion there and back.
BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape")
SAME_SCALE = ("AveragePool", "Flatten", "MaxPool", "Reshape")
WEIGHT = re.compile(r"classifier\.model\.(.+)\.weight")


def quantize_run(method: Quantize, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """The parent's classifier as `model.onnx` of the new run; returns the facts of it.

    Raises:
        UserError: too few images to calibrate, or other images than the parent's.
    """
    config = override(parent, words)
    data = same_images(config, parent)
    classifier = load_classifier(parent.best)
    config = with_facts(config, data)
    run.write_config({**storable(config), "quantized": True})
    write_table(run, config, data)
    run.note(selected_on_test=data.plan.selects_on_test, provenance=classifier.hparams["provenance"])
    write_atomically(run.path / "summary.txt", model_table(classifier.model, data.preprocessing.image_size))
    facts = quantize(classifier, data, run.path / "model.onnx", method.max_drop, method.calibration)
    conclude_quietly(run, data)
    return facts


def quantize(
    classifier: ImageClassifier,
    data: ImageFolderDataModule,
    path: str | Path,
    max_drop: float | None = None,
    calibration_images: int = 200,
    reduce_range: bool | None = None,
) -> dict[str, Any]:
    """Writes the classifier as a quantised ONNX file; returns facts of it, for `run.json`.

    Args:
        data: set up; it calibrates on training images, without augmentation, and judges the accuracy on the validation
            images.
        max_drop: of the validation accuracy, in percentage points. If more is lost, the layers that cause it stay in
            float, the worst first, until it is met. None: quantise all layers.
        calibration_images: drawn from the training images, the classes in proportion.
        reduce_range: weights of seven bits; None: where the processor's products of eight bits would overflow.

    Raises:
        UserError: too few images to calibrate.
    """
    pixels = _calibration_pixels(data, calibration_images)
    reduced = products_overflow() if reduce_range is None else reduce_range
    with tempfile.TemporaryDirectory() as folder:
        network = _Network(classifier, Path(folder), pixels, reduced)
        float_accuracy = validation_accuracy(OnnxModel(network.file), data)
        in_float: list[str] = []
        accuracy = validation_accuracy(network.model(in_float), data)
        log.info("Validation accuracy: %.1f %% in float, %.1f %% in int8", 100 * float_accuracy, 100 * accuracy)
        if max_drop is not None and _drop(float_accuracy, accuracy) > max_drop:
            for layer in network.worst_layers(_ranking_pixels(data)):
                in_float.append(layer)
                accuracy = validation_accuracy(network.model(in_float), data)
                log.info("%s stays in float: validation accuracy %.1f %%", layer, 100 * accuracy)
                if _drop(float_accuracy, accuracy) <= max_drop:
                    break
        model = network.quantized(in_float)
        weights = {"weights": graph_hash(model), "quantized_from": weights_hash(classifier)}
        save_model(model, Path(path), metadata_of(classifier, quantized=True, float_layers=in_float, **weights))
    return {
        "calibration_images": len(pixels),
        "reduce_range": reduced,
        "float_layers": in_float,
        "val_acc_float": float_accuracy,
        "val_acc": accuracy,
    }


def products_overflow() -> bool:
    """Whether int8 products overflow on this processor: x86 without VNNI adds two of them in 16 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.12 or so; it knows AVX-VNNI as well
    return not (torch.cpu._is_vnni_supported() or capabilities.get("avx_vnni", False))


def _drop(before: float, after: float) -> float:
    """In percentage points, rounded as an accuracy is, so that a drop of exactly 1 is not more than 1."""
    return round(100 * (before - after), 6)


def _pixels(data: ImageFolderDataModule, split: str, indices: np.ndarray) -> np.ndarray:
    """(N, image_size, image_size, 3) uint8 of images of a split."""
    images, _ = data.dataset(split).__getitems__(indices.tolist())
    return np.ascontiguousarray(data.preprocessing.center_crop(images).permute(0, 2, 3, 1).numpy())


def _calibration_pixels(data: ImageFolderDataModule, number: int) -> np.ndarray:
    labels = data.table.labels[data.rows("train")]
    fewest = max(FEWEST_CALIBRATION, len(data.class_names))
    if min(number, len(labels)) < fewest:
        found = f"--calibration {number}" if number < fewest else f"The training split has {len(labels)} images"
        raise UserError(
            f"{found}, but calibration needs at least {fewest}, and one of each of the {len(data.class_names)} "
            "classes: with fewer, the ranges of the activations depend on chance. Add images, or raise --calibration."
        )
    rng = np.random.default_rng(data.seed)
    chosen = draw_stratified(np.arange(len(labels)), labels, min(number, len(labels)), rng)
    return _pixels(data, "train", np.sort(chosen))


def _ranking_pixels(data: ImageFolderDataModule) -> np.ndarray:
    """Validation images, evenly from the whole list, so of all classes."""
    number = len(data.rows("val"))
    return _pixels(data, "val", np.unique(np.linspace(0, number - 1, RANKING_IMAGES).round().astype(int)))


class _Batches:
    """Pixels as onnxruntime's calibration reads them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.batches: Iterator[np.ndarray] = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


class _Network:
    """The classifier as float ONNX files in a folder, calibrated once, to be quantised again and again."""

    def __init__(self, classifier: ImageClassifier, folder: Path, pixels: np.ndarray, reduce_range: bool) -> None:
        import onnx
        from onnxruntime.quantization import create_calibrator, quant_pre_process

        self.classifier, self.folder, self.reduce_range = classifier, folder, reduce_range
        self.file = folder / "float.onnx"
        self.prepared = folder / "prepared.onnx"  # batch normalisation folded into the convolutions
        write_onnx(classifier, self.file)
        with Step("Calibrating 8-bit ranges"), silenced():
            quant_pre_process(self.file, self.prepared, skip_symbolic_shape=True)  # the exporter knows all shapes
            calibrator = create_calibrator(
                self.prepared, [*LAYERS, *BETWEEN], augmented_model_path=str(folder / "calibration.onnx")
            )
            calibrator.collect_data(_Batches(pixels))  # pyright: ignore[reportArgumentType] it calls nothing else
            self.ranges = calibrator.compute_data()
        graph = onnx.load(self.prepared).graph
        constants = {tensor.name for tensor in graph.initializer}
        # Of each tensor, the kind of node that makes it, and what that reads first. The graph itself is not kept: it
        # holds all weights.
        self.producers = {
            output: (node.op_type, node.input[0]) for node in graph.node if node.input for output in node.output
        }
        # Of each layer with weights, by its name in the model: its node's name, and what it reads.
        self.layers = {
            match[1] if (match := WEIGHT.search(node.input[1])) else node.name: (node.name, node.input[0])
            for node in graph.node
            if node.op_type in LAYERS and node.input[1] in constants
        }

    def source(self, tensor: str) -> str:
        """The tensor whose numbers these are, before pooling and reshaping, which keep its scale."""
        while self.producers.get(tensor, ("",))[0] in SAME_SCALE:
            tensor = self.producers[tensor][1]
        return tensor

    def quantized(self, in_float: list[str]) -> Any:
        """The quantised onnx.ModelProto, these layers left in float."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        # What a float layer reads would still be rounded to 8 bits by the layer before; 16 bits are as good as float.
        finer = {self.source(self.layers[name][1]): [{"quant_type": QuantType.QUInt16}] for name in in_float}
        with silenced():
            quantizer = QDQQuantizer(
                onnx.load(self.prepared),
                per_channel=True,
                reduce_range=self.reduce_range,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=[self.layers[name][0] for name in in_float],
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    "TensorQuantOverrides": finer,
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        return quantizer.model.model

    def model(self, in_float: list[str]) -> OnnxModel:
        """The quantised network in onnxruntime, these layers left in float."""
        file = self.folder / "int8.onnx"
        save_model(self.quantized(in_float), file, metadata_of(self.classifier))
        return OnnxModel(file)

    def worst_layers(self, images: np.ndarray) -> list[str]:
        """Layers by the mean difference of probabilities that is left when they alone are in float; least first."""
        reference = _run(OnnxModel(self.file), images)
        layers = shown(self.layers, len(self.layers), "Measuring the error of each layer")
        errors = {layer: float(np.abs(_run(self.model([layer]), images) - reference).mean()) for layer in layers}
        return sorted(errors, key=lambda layer: errors[layer])


def _run(model: OnnxModel, images: np.ndarray) -> np.ndarray:
    """Probabilities (N, num_classes)."""
    return np.concatenate([model.run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
