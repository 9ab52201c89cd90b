"""Eight-bit quantisation of a tiny trained network."""

import re

import numpy as np
import onnx
import pytest
import torch

from imgbench.compression import quantize as module
from imgbench.compression.quantize import quantize
from imgbench.errors import UserError
from imgbench.experiment.last_layer import solve_last_layer
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.training.classifier import ImageClassifier
from imgbench.training.network import weights_hash

VGG = {"_target_": "imgbench.models.vgg.VGG", "num_classes": 3, "blocks": [[8, 8], [16]], "hidden": [16],
       "pool_size": 2, "drop_rate": 0.0, "batch_norm": True}  # fmt: skip


@pytest.fixture(scope="module")
def photos(make_folder, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), {"a": 30, "b": 30, "c": 30})


@pytest.fixture
def data(photos, make_data):
    """54 images to train and calibrate on."""
    data = make_data(photos, split={"test": 18, "val": 18})
    data.setup()
    return data


@pytest.fixture(scope="module")
def trained():
    """A classifier of the colours of the photographs, learnt in some steps on such colours."""
    torch.manual_seed(0)
    preprocessing = {"image_size": 16, "resize": "stretch", "mean": [0.5] * 3, "std": [0.25] * 3}
    classifier = ImageClassifier(VGG, ["a", "b", "c"], preprocessing)
    colors = torch.tensor([(200, 60, 60), (60, 200, 60), (60, 60, 200)]).view(3, 3, 1, 1) / 255
    optimizer = torch.optim.Adam(classifier.parameters(), 3e-3)
    for _ in range(40):
        targets = torch.randint(3, (12,))
        images = (colors[targets] + 0.15 * torch.randn(12, 3, 16, 16)).clamp(0, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(images), targets).backward()
        optimizer.step()
    return classifier.eval()


@pytest.fixture(scope="module")
def spoilt(trained):
    """The same function, but one channel between two layers is so large that 8 bits lose all others."""
    classifier = ImageClassifier(**trained.hparams)
    classifier.load_state_dict(trained.state_dict())
    weights = classifier.state_dict()
    weights["model.features.1.weight"][0] = 0
    weights["model.features.1.bias"][0] = 1e3  # a channel that is always large, and that nobody listens to
    weights["model.features.3.weight"][:, 0] = 0
    return classifier.eval()


def probabilities_of(path, data):
    images, targets = data.dataset("val").__getitems__(list(range(len(data.rows("val")))))
    return Predictor.load(path).model(images), targets.numpy()


def test_quantised_model_is_near_its_float_model(trained, data, tmp_path):
    write_onnx(trained, tmp_path / "float.onnx")
    facts = quantize(trained, data, tmp_path / "int8.onnx")
    expected, targets = probabilities_of(tmp_path / "float.onnx", data)
    found, _ = probabilities_of(tmp_path / "int8.onnx", data)
    assert np.abs(found - expected).mean() < 0.02
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert facts["val_acc"] == facts["val_acc_float"] == (expected.argmax(1) == targets).mean() == 1
    assert facts["float_layers"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"float.onnx", "int8.onnx"}

    model = onnx.load(tmp_path / "int8.onnx")
    large = {tensor.name: tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 16}
    assert large.pop("classifier.model.classifier.3.weight") == onnx.TensorProto.FLOAT
    assert set(large.values()) == {onnx.TensorProto.INT8}
    scales = [tensor.dims[0] for tensor in model.graph.initializer if tensor.name.endswith("weight_scale")]
    assert sorted(scales)[-3:] == [8, 16, 16] or len(scales) == 0
    producers = {output: node for node in model.graph.node for output in node.output}
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert producers[softmax.input[0]].op_type in ("Gemm", "Add")  # logits are not rounded to 256 steps
    assert not any("images" in node.input for node in model.graph.node if node.op_type == "QuantizeLinear")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (10, {}, "--calibration 10, but calibration needs at least 32"),
        (200, {"split": {"test": 0.4, "val": 0.4}}, "The training split has 18 images"),
    ],
)
def test_too_few_images_to_calibrate_are_an_error(number, options, message, trained, photos, make_data, tmp_path):
    data = make_data(photos, **options)
    data.setup()
    with pytest.raises(UserError, match=message):
        quantize(trained, data, tmp_path / "int8.onnx", calibration_images=number)
    assert list(tmp_path.iterdir()) == []


def test_layer_that_costs_accuracy_is_named_and_left_in_float(spoilt, data, tmp_path, caplog):
    with caplog.at_level("INFO"):
        facts = quantize(spoilt, data, tmp_path / "mended.onnx", max_drop=0)
    assert facts["float_layers"] == ["features.3"]
    assert facts["val_acc"] == facts["val_acc_float"]
    assert re.search(r"Validation accuracy: 100.0 % in float, [3-6]\d\.\d % in int8", caplog.text)
    assert "1 layer stays in float" in caplog.text
    metadata = OnnxModel(tmp_path / "mended.onnx").metadata
    assert metadata["float_layers"] == ["features.3"]
    assert metadata["quantized_from"] == weights_hash(spoilt) != metadata["weights"]
    found, _ = probabilities_of(tmp_path / "mended.onnx", data)
    with torch.inference_mode():
        images, _ = data.dataset("val").__getitems__(list(range(len(data.rows("val")))))
        expected = spoilt(images).softmax(1).numpy()
    assert np.abs(found - expected).mean() < 0.02


def test_nothing_is_written_where_int8_loses_more_than_allowed(spoilt, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_IN_FLOAT", 0)
    with pytest.raises(UserError, match=r"(?s)int8 loses more than 1 points.*33.3 % in int8.*--max-drop 67") as error:
        quantize(spoilt, data, tmp_path / "int8.onnx")
    assert "python -m imgbench.export RUN" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_means_of_many_blocks_and_the_layer_on_them_lose_nothing(data, tmp_path):
    torch.manual_seed(0)
    model = {"_target_": "imgbench.models.backbone.pooled_features", "name": "mobilenetv2_035", "num_classes": 3}
    classifier = ImageClassifier(model, data.class_names, data.preprocessing.to_dict()).eval()
    for layer in classifier.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # blocks whose means differ by orders
            torch.nn.init.uniform_(layer.weight, 0.02, 2.0)
            torch.nn.init.normal_(layer.bias)
    solve_last_layer(classifier, data)
    facts = quantize(classifier, data, tmp_path / "int8.onnx", reduce_range=True)
    assert facts["float_layers"] == []
    images, _ = data.dataset("val").__getitems__(list(range(len(data.rows("val")))))
    with torch.inference_mode():
        expected = classifier(images).softmax(1).numpy()
    found, _ = probabilities_of(tmp_path / "int8.onnx", data)
    assert np.abs(found - expected).mean() < 0.02


def test_weights_have_seven_bits_where_products_would_overflow(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "products_overflow", lambda: True)
    assert quantize(trained, data, tmp_path / "int8.onnx")["reduce_range"] is True
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    assert max(np.abs(w).max() for w in weights if w.dtype == np.int8) == 64


@pytest.mark.parametrize(
    ("machine", "vnni", "avx_vnni", "overflow"),
    [
        ("x86_64", True, False, False),
        ("x86_64", False, True, False),
        ("AMD64", False, False, True),
        ("arm64", False, False, False),
    ],
)
def test_products_overflow_on_x86_without_vnni(machine, vnni, avx_vnni, overflow, monkeypatch):
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx_vnni": avx_vnni}, raising=False)
    assert module.products_overflow() is overflow
