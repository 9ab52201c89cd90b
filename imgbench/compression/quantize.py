"""Eight-bit integers in place of floats, by onnxruntime's static quantisation (https://arxiv.org/abs/1712.05877).

Weights are int8 with a scale per output channel, activations uint8 with the range they have on training images.
Normalisation stays in float, and so does what follows the feature map, the last layer with it: the means of many blocks
have ranges that differ by orders, and in 256 steps of one scale the small ones, or close classes, would tie.

Rounded weights shift the mean of what a layer computes, and what is averaged over an image or added up over many layers
keeps the shift while other errors cancel. So biases are corrected by it (Nagel et al. 2019, sec. 4.2,
https://arxiv.org/abs/1906.04721), and those of the last layer so that the mean logits are what they were.
"""

import logging
import platform
import re
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgbench.compression.options import FEWEST_CALIBRATION, Quantize
from imgbench.compression.retrain import conclude_quietly, same_images
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import draw_stratified
from imgbench.errors import UserError
from imgbench.experiment.build import with_facts
from imgbench.experiment.compose import override, storable
from imgbench.experiment.train import write_table
from imgbench.files import write_atomically
from imgbench.inference.onnx_file import (
    Deployed,
    exported,
    graph_hash,
    in_evaluation,
    metadata_of,
    save_model,
    silenced,
)
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Model
from imgbench.inference.torch_model import TorchModel
from imgbench.language import counted
from imgbench.models.summary import model_table
from imgbench.number import Number, group_codes, grouped_difference
from imgbench.progress import Step, shown
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier
from imgbench.training.network import weights_hash

log = logging.getLogger(__name__)

BATCH = 16
RANKING_IMAGES = 64  # that tell which layers lose most
LAYERS = ("Conv", "Gemm", "MatMul")
# What stands between layers works on the integers as well; on floats it would cost a conversion there and back.
BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape")
SAME_SCALE = ("AveragePool", "Flatten", "MaxPool", "Reshape")
POOLING = ("AveragePool", "Concat", "Flatten", "GlobalAveragePool", "ReduceMean", "Reshape", "Squeeze", "Unsqueeze")
OUTLIERS = 0.1  # of the images may have values beyond the range, so that a single one does not make all steps coarse
DECISIVE = 200  # images; with fewer, not even no difference at all tells that it is below a point
MOST_IN_FLOAT = 0.5  # of the weights: with more, the file is hardly smaller
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
    max_drop: float = 1.0,
    calibration_images: int = 200,
    reduce_range: bool | None = None,
) -> dict[str, Any]:
    """Writes the classifier as a quantised ONNX file; returns facts of it, for `run.json`.

    Args:
        data: set up; it calibrates on training images, without augmentation, and judges the accuracy on the validation
            images.
        max_drop: of the validation accuracy, in percentage points. If more is lost, the layers that cause it stay in
            float, the worst first, until it is met.
        calibration_images: drawn from the training images, the classes in proportion.
        reduce_range: weights of seven bits; None: where the processor's products of eight bits would overflow.

    Raises:
        UserError: too few images to calibrate, or more is lost with half of the weights in float.
    """
    pixels = _calibration_pixels(data, calibration_images)
    reduced = products_overflow() if reduce_range is None else reduce_range
    with tempfile.TemporaryDirectory() as folder:
        network = _Network(classifier, Path(folder), pixels, reduced)
        reference = TorchModel(classifier, "cpu")
        right, codes = _right(reference if reference.is_frozen else OnnxModel(network.file), data)
        in_float: list[str] = []

        def outcome(layers: list[str]) -> tuple[Any, Number]:
            model = network.quantized(layers)
            return model, grouped_difference(_right(network.opened(model), data)[0], right, codes)

        model, found = outcome(in_float)
        log.info("Validation accuracy: %s", described(found, right.mean()))
        if not _meets(found, max_drop) and (worst := network.worst_layers(_ranking_pixels(data))):
            # By halves: to judge one takes all validation images.
            outcomes: dict[int, tuple[Any, Number]] = {}

            def is_enough(number: int) -> bool:
                outcomes[number] = outcome(worst[:number])
                return _meets(outcomes[number][1], max_drop)

            with Step("Leaving layers in float"):
                fewest = 1 + bisect_left(range(1, len(worst)), True, key=is_enough)
                if fewest not in outcomes:
                    is_enough(fewest)
            in_float = worst[:fewest]
            model, found = outcomes[fewest]
            if _meets(found, max_drop):
                layers = counted(len(in_float), "layer stays", "layers stay")
                log.info("%s in float: %s", layers, described(found, right.mean()))
        if not _meets(found, max_drop):
            raise UserError(
                f"int8 loses more than {max_drop:g} points of validation accuracy: {described(found, right.mean())}, "
                "and leaving those layers in float that lose most does not mend it.\nKeep the run in float: "
                f"python -m imgbench.export RUN. Or allow more: --max-drop {np.ceil(-100 * found.value):.0f}"
            )
        weights = {"weights": graph_hash(model), "quantized_from": weights_hash(classifier)}
        save_model(model, Path(path), metadata_of(classifier, quantized=True, float_layers=in_float, **weights))
    return {
        "calibration_images": len(pixels),
        "reduce_range": reduced,
        "float_layers": in_float,
        "val_acc_float": float(right.mean()),
        "val_acc": float(right.mean() + found.value),
        "val_difference": found.to_dict(),
    }


def described(difference: Number, before: float) -> str:
    """A difference of accuracies on validation images, as far as so few of them can tell."""
    one = f", and one photograph is {100 / difference.n:.1f} points" if difference.n < DECISIVE else ""
    return (
        f"{100 * before:.1f} % in float, {100 * (before + difference.value):.1f} % in int8, a difference of "
        f"{100 * difference.value:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f}{one})"
    )


def products_overflow() -> bool:
    """Whether int8 products overflow on this processor: x86 without VNNI adds two of them in 16 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.12 or so; it knows AVX-VNNI as well
    return not (torch.cpu._is_vnni_supported() or capabilities.get("avx_vnni", False))


def _right(model: Model, data: ImageFolderDataModule) -> tuple[np.ndarray, np.ndarray]:
    """Which validation images are classified correctly, and the group of each; the test images, if selected on them."""
    predictions = predict_split(model, data, "val")
    return predictions.predicted == predictions.targets, group_codes(predictions.groups)


def _meets(difference: Number, max_drop: float) -> bool:
    """Rounded as an accuracy is, so that a drop of exactly 1 is not more than 1."""
    return round(-100 * difference.value, 6) <= max_drop


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


def _outputs(model: Any, further: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What an onnx.ModelProto makes of the pixels: its outputs, and a further tensor, by their names."""
    import onnx
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(further, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = [session.run(None, {"pixels": pixels[i : i + BATCH]}) for i in range(0, len(pixels), BATCH)]
    return dict(zip(names, map(np.concatenate, zip(*found, strict=True)), strict=True))


class _Network:
    """The classifier as float ONNX files in a folder, calibrated once, to be quantised again and again."""

    def __init__(self, classifier: ImageClassifier, folder: Path, pixels: np.ndarray, reduce_range: bool) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process

        self.classifier, self.folder, self.reduce_range = classifier, folder, reduce_range
        self.file = folder / "float.onnx"
        self.prepared = folder / "prepared.onnx"  # batch normalisation folded into the convolutions
        self.pixels = pixels
        with in_evaluation(classifier):
            network = exported(Deployed(classifier))
        save_model(network, self.file, metadata_of(classifier))
        onnx.save(network, self.prepared)
        with silenced():
            quant_pre_process(self.prepared, self.prepared, skip_symbolic_shape=True)  # the exporter knows all shapes
        graph = onnx.load(self.prepared).graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        # Of each tensor, the node that makes it.
        self.producers = {output: node for node in graph.node for output in node.output}
        found = [node for node in graph.node if node.op_type in LAYERS and node.input[1] in self.constants]
        self.last = found.pop()
        self.tail = [self.last.name, *self._pooling_before(self.last.input[0])]
        # Of each layer with weights but the last, by its name in the model, its node.
        self.layers = {match[1] if (match := WEIGHT.search(node.input[1])) else node.name: node for node in found}
        self.logits = next(node.input[0] for node in reversed(graph.node) if node.op_type == "Softmax")
        with Step("Calibrating 8-bit ranges"):
            self.ranges, self.means, self.mean_logits = self._measured()

    def _pooling_before(self, tensor: str) -> Iterator[str]:
        """The nodes between a tensor and the feature maps that it is made of."""
        node = self.producers.get(tensor)
        if node is not None and node.op_type in POOLING:
            yield node.name
            for name in node.input:
                yield from self._pooling_before(name)

    def _measured(self) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray], np.ndarray]:
        """On the pixels: ranges of tensors, means (C,) of channels that convolutions read, and means of the logits."""
        import onnx

        model = onnx.load(self.prepared)
        known = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
        used = [node for node in model.graph.node if node.op_type in (*LAYERS, *BETWEEN)]
        tensors = {name for node in used for name in (*node.input, *node.output) if name not in self.constants}
        tensors = sorted(name for name in tensors if name in known and known[name].elem_type == onnx.TensorProto.FLOAT)
        read = sorted({node.input[0] for node in self.layers.values() if node.op_type == "Conv"})

        def reduced(kind: str, tensor: str, axes: Sequence[int]) -> str:
            output = f"{tensor}_{kind}"
            axes_name = f"{output}_axes"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), axes_name))
            model.graph.node.append(onnx.helper.make_node(kind, [tensor, axes_name], [output], keepdims=0))
            model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
            return output

        for tensor in tensors:
            axes = range(1, len(known[tensor].shape.dim))
            reduced("ReduceMin", tensor, axes)
            reduced("ReduceMax", tensor, axes)
        for tensor in read:
            reduced("ReduceMean", tensor, (2, 3))
        found = _outputs(model, self.logits, self.pixels)  # each of every image
        ranges = {
            tensor: (
                np.quantile(found[f"{tensor}_ReduceMin"], OUTLIERS).astype(np.float32),
                np.quantile(found[f"{tensor}_ReduceMax"], 1 - OUTLIERS).astype(np.float32),
            )
            for tensor in tensors
        }
        means = {tensor: found[f"{tensor}_ReduceMean"].mean(0) for tensor in read}
        return ranges, means, found[self.logits].mean(0)

    def source(self, tensor: str) -> str:
        """The tensor whose numbers these are, before pooling and reshaping, which keep its scale."""
        while (node := self.producers.get(tensor)) is not None and node.op_type in SAME_SCALE:
            tensor = node.input[0]
        return tensor

    def share(self, in_float: list[str]) -> float:
        """Of the weights, without the last layer's, how many these layers have."""
        sizes = {name: np.prod(self.constants[node.input[1]].dims) for name, node in self.layers.items()}
        return float(sum(sizes[name] for name in in_float) / sum(sizes.values()))

    def quantized(self, in_float: list[str], with_mean_logits: bool = True) -> Any:
        """The quantised onnx.ModelProto, these layers left in float.

        Args:
            with_mean_logits: corrected to the mean logits, for which all pixels are looked at.
        """
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import TensorsData

        # What a float layer reads would still be rounded to 8 bits by the layer before; 16 bits are as good as float.
        finer = {self.source(self.layers[name].input[0]): [{"quant_type": QuantType.QUInt16}] for name in in_float}
        with silenced():
            quantizer = QDQQuantizer(
                onnx.load(self.prepared),
                per_channel=True,
                reduce_range=self.reduce_range,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, dict(self.ranges)),
                nodes_to_quantize=[],
                nodes_to_exclude=[*self.tail, *(self.layers[name].name for name in in_float)],
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    "TensorQuantOverrides": finer,
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        model = quantizer.model.model
        self._correct_biases(model)
        if with_mean_logits and len(self.last.input) > 2:
            self._correct_logits(model)
        return model

    def _correct_biases(self, model: Any) -> None:
        """Takes back the mean of what rounding the weights added to each channel."""
        from onnx import numpy_helper

        constants = {tensor.name: tensor for tensor in model.graph.initializer}

        def value(name: str) -> np.ndarray:
            return numpy_helper.to_array(constants[name])

        for node in self.layers.values():
            weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
            if node.op_type != "Conv" or f"{weight}_quantized" not in constants or f"{bias}_quantized" not in constants:
                continue
            scale = value(f"{weight}_scale").reshape(-1, 1, 1, 1)
            error = (value(f"{weight}_quantized") * scale - numpy_helper.to_array(self.constants[weight])).sum((2, 3))
            mean = self.means[node.input[0]]  # of its groups, one after the other
            groups = len(mean) // error.shape[1]
            shift = np.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), mean.reshape(groups, -1)).ravel()
            name = f"{bias}_quantized"
            corrected = value(name) - np.round(shift / value(f"{bias}_quantized_scale"))
            constants[name].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), name))

    def _correct_logits(self, model: Any) -> None:
        """Takes back what is left of it in the mean of each logit."""
        from onnx import numpy_helper

        bias = next(tensor for tensor in model.graph.initializer if tensor.name == self.last.input[2])
        missing = self.mean_logits - _outputs(model, self.logits, self.pixels)[self.logits].mean(0)
        corrected = numpy_helper.to_array(bias) + missing
        bias.CopyFrom(numpy_helper.from_array(corrected.astype(np.float32), bias.name))

    def opened(self, model: Any) -> OnnxModel:
        """A quantised network in onnxruntime."""
        file = self.folder / "int8.onnx"
        save_model(model, file, metadata_of(self.classifier))
        return OnnxModel(file)

    def worst_layers(self, images: np.ndarray) -> list[str]:
        """Layers by the mean difference of probabilities that is left when they alone are in float; least first.

        No more of them than have half of the weights.
        """
        reference = _run(OnnxModel(self.file), images)
        layers = shown(self.layers, len(self.layers), "Measuring the error of each layer")
        errors = {layer: self._error(layer, images, reference) for layer in layers}
        worst = sorted(errors, key=lambda layer: errors[layer])
        return [layer for number, layer in enumerate(worst, 1) if self.share(worst[:number]) <= MOST_IN_FLOAT]

    def _error(self, layer: str, images: np.ndarray, reference: np.ndarray) -> float:
        found = _run(self.opened(self.quantized([layer], with_mean_logits=False)), images)
        return float(np.abs(found - reference).mean())


def _run(model: OnnxModel, images: np.ndarray) -> np.ndarray:
    """Probabilities (N, num_classes)."""
    return np.concatenate([model.run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
