"""The ONNX file: the same function as the classifier, in one file that says what it is."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from imgbench import progress
from imgbench.errors import UserError
from imgbench.experiment.build import plain
from imgbench.experiment.compose import compose
from imgbench.inference import onnx_file
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.onnx_model import METADATA_KEY, OnnxModel
from imgbench.preprocessing import Preprocessing
from imgbench.run import CONF
from imgbench.training.classifier import ImageClassifier

PREPROCESSING = {"image_size": 12, "resize": "stretch", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
NAMES = ["猫", 'a "quoted" dog', "10"]


def model_config(name, size):
    if name in BLOCKS:
        return {"_target_": "imgbench.models.vgg.VGG", "num_classes": 3, **BLOCKS[name]}
    model = plain(compose([f"model={name}", "data.num_classes=3", f"data.image_size={size}"]).model)
    return {**model, "pretrained": False} if "pretrained" in model else model  # nothing is fetched


# Half a gigabyte would take seconds, and the blocks of VGG are below. `auto` is one of the others, and `finetuned` is
# the network of `pretrained`.
LEFT_OUT = {"vgg13", "vgg16", "vgg16_separable", "vgg16_torchvision", "auto", "finetuned"}
MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - LEFT_OUT)
BLOCKS = {
    "vgg, uneven pooling": {"blocks": [[4], [8]], "hidden": [8], "pool_size": 7},  # 12 pixels: 3 become 7
    "vgg, batch norm": {"blocks": [[4], [8]], "hidden": [], "pool_size": 1, "batch_norm": True},
    "vgg, separable": {"blocks": [[4], [8]], "hidden": [8], "pool_size": 1, "separable": True},
}


def make_classifier(config, size, **facts) -> ImageClassifier:
    """Untrained, but with biases and statistics that matter."""
    torch.manual_seed(0)
    classifier = ImageClassifier(config, NAMES, {**PREPROCESSING, "image_size": size}, **facts)
    with torch.no_grad():
        for value in classifier.state_dict().values():
            if value.is_floating_point():
                value += 0.02 * torch.rand_like(value)
    return classifier


@pytest.fixture(scope="module")
def classifier():
    config = {**model_config("vgg, uneven pooling", 12), "drop_rate": 0.5}
    return make_classifier(config, 12, provenance={"split_hash": "abc"})


@pytest.fixture(scope="module")
def written(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(classifier, path)
    return path


def test_the_file_does_not_tell_where_it_was_written(written):
    assert str(Path(onnx_file.__file__).parent.parent).encode() not in written.read_bytes()


@pytest.mark.parametrize("name", [*MODELS, *BLOCKS])
def test_every_model_gives_the_same_probabilities_alone_and_in_batches(name, tmp_path):
    size = 12 if name in BLOCKS else 32
    classifier = make_classifier(model_config(name, size), size).eval()
    write_onnx(classifier, tmp_path / "model.onnx")
    model = OnnxModel(tmp_path / "model.onnx")
    images = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = classifier(images).softmax(1).numpy()
    assert np.abs(model(images) - expected).max() < 1e-5
    assert np.abs(model(images[:1]) - expected[:1]).max() < 1e-5


@pytest.mark.parametrize(("size", "cells"), [(3, 7), (8, 7), (7, 3), (5, 5), (1, 4), (6, 2)])
def test_averaging_weights_are_those_of_adaptive_pooling(size, cells):
    images = torch.rand(2, 3, size, size)
    weights = onnx_file._averaging(cells, size)
    pooled = np.einsum("nchw,ih,jw->ncij", images.numpy(), weights, weights)
    assert pooled == pytest.approx(adaptive_avg_pool2d(images, cells).numpy(), abs=1e-6)


def test_uneven_pooling_is_a_single_node(written):
    assert [node.op_type for node in onnx.load(written).graph.node].count("Einsum") == 1


def test_input_is_photographs_as_pillow_gives_them_of_any_number_and_size(written):
    session = OnnxModel(written).session
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert {given.name: (given.type, given.shape) for given in session.get_outputs()} == {
        "probabilities": ("tensor(float)", ["batch", 3]),
        "features": ("tensor(float)", ["batch", 8]),
        "pixels": ("tensor(uint8)", ["batch", 12, 12, 3]),
    }


def test_file_says_itself_what_it_is(written, classifier):
    model = OnnxModel(written)
    assert model.class_names == NAMES
    assert model.preprocessing == Preprocessing.from_dict(classifier.hparams["preprocessing"])
    assert model.provenance == {"split_hash": "abc"}
    assert not model.quantized
    assert [entry.version for entry in onnx.load(written).opset_import if entry.domain == ""] == [onnx_file.OPSET]


def test_it_is_one_file_and_the_classifier_is_as_before(written, classifier):
    assert [path.name for path in written.parent.iterdir()] == ["model.onnx"]
    assert classifier.training
    in_place = [part.inplace for part in classifier.modules() if hasattr(part, "inplace")]
    assert in_place and all(in_place)


def test_failure_leaves_the_file_that_was_there(classifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise onnx.checker.ValidationError("bad")

    (tmp_path / "model.onnx").write_text("old")
    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(onnx.checker.ValidationError):
        onnx_file.save_model(onnx.ModelProto(), tmp_path / "model.onnx", {"preprocessing": PREPROCESSING})
    assert (tmp_path / "model.onnx").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_writing_says_only_that_it_goes_on_even_where_info_is_logged(classifier, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(progress, "SILENCE", 0.001)
    with caplog.at_level("INFO"):
        write_onnx(classifier, tmp_path / "model.onnx")
    assert {record.getMessage() for record in caplog.records} == {"Writing ONNX: ..."}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", [0, 0.3, 0.99])
def test_truncated_file_is_an_error(part, written, tmp_path):
    whole = written.read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"half\.onnx (is no ONNX file|has no metadata)"):
        OnnxModel(tmp_path / "half.onnx")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        OnnxModel(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("unknown", ["opset", "operation"])
def test_runtime_that_lacks_an_operation_is_named_with_what_it_takes(unknown, written, tmp_path):
    model = onnx.load(written)
    if unknown == "opset":
        model.opset_import[0].version = 99
    else:
        model.graph.node[0].op_type = "ResizeAsNobodyDoes"
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(UserError, match=r"new\.onnx takes operations that onnxruntime .* has not: .*(?s:.*)install -U"):
        OnnxModel(tmp_path / "new.onnx")


def with_metadata(written, path, metadata: str | None):
    model = onnx.load(written)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {} if metadata is None else {METADATA_KEY: metadata})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "no metadata of imgbench.*python -m imgbench.export RUN"),
        ("{", "damaged metadata"),
        ("[]", "damaged metadata"),
        (json.dumps({"format": 99}), "is of format 99, but this imgbench reads format 2"),
        (json.dumps({"format": 1, "class_names": []}), "without preprocessing, provenance"),
    ],
)
def test_metadata_that_cannot_be_used_are_an_error(metadata, message, written, tmp_path):
    with pytest.raises(UserError, match=message):
        OnnxModel(with_metadata(written, tmp_path / "other.onnx", metadata))
