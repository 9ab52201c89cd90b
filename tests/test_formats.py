"""The run's ONNX file in the formats of other runtimes."""

import importlib.util
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import imgbench
from imgbench import export
from imgbench.errors import UserError
from imgbench.evaluate import evaluate
from imgbench.inference.acceptance import Calibration
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.onnx_pixels import resize_exactly
from imgbench.inference.runtimes import MODELS, OpenVinoModel
from imgbench.number import read_metrics
from imgbench.publish import formats
from imgbench.publish.card import front_matter
from imgbench.run import Run

OLD = Path(__file__).parent / "old_run"
DEPLOYMENT = Path(__file__).parents[1] / "notebooks" / "deployment.md"


def needs(package: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"takes the extra {extra}")


openvino = needs("openvino", "openvino")
KINDS = [
    pytest.param(".xml", marks=openvino),
    pytest.param(".tflite", marks=needs("litert_torch", "litert")),
]


@pytest.fixture(scope="module")
def copied(tiny_run, tmp_path_factory):
    """The tiny run with its ONNX file."""
    folder = tmp_path_factory.mktemp("formats") / "run"
    shutil.copytree(tiny_run.path, folder)
    export.export(folder, images=2)
    return Run(folder)


def use_few_files(patch: pytest.MonkeyPatch) -> None:
    made = list(zip(range(6), formats.made_files(), strict=False))
    patch.setattr(formats, "made_files", lambda: [one for _, one in made])


@pytest.fixture
def few_files(monkeypatch):
    """A conformance set of its first files."""
    use_few_files(monkeypatch)


@pytest.fixture(scope="module")
def for_openvino(copied, tmp_path_factory) -> Path:
    """The folder of the run's file for OpenVINO; a test copies it."""
    folder = tmp_path_factory.mktemp("openvino")
    with pytest.MonkeyPatch.context() as patch:
        use_few_files(patch)
        export.export(copied.path, output=folder / "model.xml", images=0)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_converted_file_answers_as_the_run_does_and_says_what_it_is(kind, copied, few_files, tmp_path, capsys):
    file = tmp_path / f"model{kind}"
    export.export(copied.path, output=file, images=2)
    assert f"Written  {file}: compared on 6 files" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {kind} | ({".bin"} if kind == ".xml" else set())
    converted, original = imgbench.load(file), imgbench.load(copied.path / "model.onnx")
    assert converted.class_names == original.class_names
    assert converted.preprocessing == original.preprocessing
    assert isinstance(converted.model, MODELS[kind]) and isinstance(original.model, OnnxModel)
    assert converted.model.weights == original.model.weights
    photos = [copied.config["data"]["root"] + "/" + row["path"] for row in copied.split_rows("test")]
    again = pickle.loads(pickle.dumps(converted))
    for one, other in zip(again.predict(photos), original.predict(photos), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    assert converted.model.tells_novelty == original.model.tells_novelty
    pixels = np.random.default_rng(0).integers(0, 256, (3, *[original.preprocessing.image_size] * 2, 3), np.uint8)
    rows = converted.model.with_novelty(pixels)
    assert rows == pytest.approx(original.model.with_novelty(pixels), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_file_in_its_run_is_evaluated_and_has_a_card(kind, copied, few_files, tmp_path):
    run = Run(shutil.copytree(copied.path, tmp_path / "run"))
    file = run.path / f"model{kind}"
    export.export(run.path, output=file, images=2, card=True)
    card = (run.path / "README.md").read_text("utf-8")
    assert f"`model{kind}`" in card and ("`model.bin`" in card) == (kind == ".xml")
    assert ("takes photographs of any size" in card) == (kind == ".xml")
    assert front_matter(card)["library_name"] == {".xml": "openvino", ".tflite": "tflite"}[kind]
    assert Run.open(file) == run
    accuracy = read_metrics(run.path / "metrics.json")["test/acc"]
    assert evaluate(file).metrics["test/acc"].hits == accuracy.hits
    assert Calibration.open(file, imgbench.load(file).model, "--max-error").run == run


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_answers_otherwise_is_not_written_and_says_on_which_files(
    kind, copied, few_files, tmp_path, monkeypatch
):
    (tmp_path / f"model{kind}").write_text("old")
    answers = MODELS[kind]._answers
    monkeypatch.setattr(MODELS[kind], "_answers", lambda *args: [1 - one for one in answers(*args)])
    with pytest.raises(
        UserError, match=r"--tolerance 0\.001 on 6 of 6 files: size_\d+x\d+\.\w+ by [\d.]+( \(its novelty by|, |\.)"
    ):
        export.export(copied.path, output=tmp_path / f"model{kind}", images=0)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"model{kind}", "old")]


@openvino
@pytest.mark.parametrize("spoilt", ["", "<net", None])
def test_damaged_or_incomplete_file_is_an_error(spoilt, for_openvino, tmp_path):
    file = Path(shutil.copytree(for_openvino, tmp_path / "spoilt")) / "model.xml"
    file.with_suffix(".bin").unlink() if spoilt is None else file.write_text(spoilt)
    with pytest.raises(UserError, match=r"model\.xml is damaged, or OpenVINO"):
        imgbench.load(file)


@openvino
def test_example_in_the_documentation_names_a_photograph(copied, for_openvino, tmp_path, monkeypatch, capsys):
    shutil.copytree(for_openvino, tmp_path, dirs_exist_ok=True)
    photo = f"{copied.config['data']['root']}/{copied.split_rows('test')[0]['path']}"
    shutil.copy(photo, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    (example,) = re.findall(r"```python\n(import json\n.*?openvino.*?)```", DEPLOYMENT.read_text("utf-8"), re.DOTALL)
    exec(example, {})
    (predicted,) = imgbench.load(copied.path / "model.onnx").predict("photo.jpg")
    label, probability = capsys.readouterr().out.split()
    assert (label, float(probability)) == (predicted.label, pytest.approx(predicted.probability, abs=1e-3))


@openvino
def test_file_of_int8_is_converted(few_files, tmp_path):
    shutil.copytree(OLD / "int8", tmp_path / "int8")
    export.export(tmp_path / "int8", output=tmp_path / "small.xml")
    assert OpenVinoModel(tmp_path / "small.xml").quantized


@openvino
def test_operation_that_openvino_lacks_is_named(copied, tmp_path):
    model = onnx.load(copied.path / "model.onnx")
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Frobnicate", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"(?s)OpenVINO \S+ cannot convert .*Frobnicate"):
        formats.write_openvino(tmp_path / "other.onnx", tmp_path / "model.xml")


@pytest.mark.parametrize(("kind", "package"), [(".xml", "openvino"), (".tflite", "litert-torch")])
def test_missing_extra_is_named_before_anything_is_computed(kind, package, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'takes {package}, not installed.*pip install "imgbench\[\w+\]"'):
        export.export(tiny_run.path, output=tmp_path / f"model{kind}")
    assert not (tiny_run.path / "model.onnx").exists()
    (tmp_path / f"model{kind}").touch()
    with pytest.raises(UserError, match=rf"model{kind} takes {package}"):
        imgbench.load(tmp_path / f"model{kind}")


def test_litert_takes_a_checkpoint(tmp_path, few_files):
    with pytest.raises(UserError, match=r"converted from a checkpoint.*\n.*--output FILE\.xml"):
        formats.write_litert(OLD / "int8", Run(OLD / "int8"), OLD / "int8" / "model.onnx", tmp_path / "model.tflite")


def test_photographs_of_any_size_are_resized_exactly_where_asked(copied, tmp_path):
    model = onnx.load(copied.path / "model.onnx")
    resize_exactly(model)
    onnx.save(model, tmp_path / "exact.onnx")
    image = np.random.default_rng(0).integers(0, 256, (1001, 1000, 3), np.uint8)
    found = [one.photograph(image) for one in map(OnnxModel, (tmp_path / "exact.onnx", copied.path / "model.onnx"))]
    assert found[0] == pytest.approx(found[1], abs=1e-2)
    changed = [one for one in model.graph.initializer if onnx.numpy_helper.to_array(one).tolist() == 2**63 - 1]
    assert changed
