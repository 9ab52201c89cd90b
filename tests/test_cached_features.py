"""Features of a frozen network: computed once for each image, and the same however they are computed."""

import logging

import numpy as np
import pytest
import torch

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.inference import cached_features as features
from imgbench.inference.cached_features import image_features
from imgbench.inference.predict_split import predict_split
from imgbench.inference.torch_model import TorchModel
from imgbench.training.classifier import ImageClassifier


def classifier_of(data: ImageFolderDataModule, seed: int = 0, name: str = "mobilenetv3_small_050") -> ImageClassifier:
    torch.manual_seed(seed)
    model = {"_target_": "imgbench.models.backbone.pooled_features", "name": name, "num_classes": 2}
    return ImageClassifier(model, data.class_names, data.preprocessing.to_dict()).eval()


@pytest.fixture
def data(make_folder, make_data, tmp_path) -> ImageFolderDataModule:
    data = make_data(make_folder(tmp_path / "photos", {"cat": 6, "dog": 6}), image_size=32, cache="memory")
    data.setup()
    return data


ROWS = np.arange(12)


def test_features_are_the_inputs_of_the_last_layer(data):
    classifier = classifier_of(data)
    found = image_features(classifier, data, ROWS)
    images, _ = data.dataset("train").__getitems__([0, 1])
    with torch.no_grad():
        expected = classifier(images)
        rows = data.rows("train")[:2]
        last = classifier.model.get_submodule("classifier")
        torch.testing.assert_close(last(torch.from_numpy(found[rows])), expected, atol=1e-4, rtol=1e-4)


def test_features_of_an_image_are_computed_once_wherever_its_file_lies(data):
    classifier = classifier_of(data)
    before = image_features(classifier, data, ROWS)
    assert data.table.pixels is not None
    data.table.pixels[:] = 0  # whoever looked again would see black
    assert np.array_equal(image_features(classifier, data, ROWS[::-1]), before[::-1])


def test_new_image_is_added_to_those_known(data, cache_home):
    classifier = classifier_of(data)
    image_features(classifier, data, ROWS[:11])
    [file] = (cache_home / "features").glob("*/*.npz")
    assert len(np.load(file)["digests"]) == 11
    image_features(classifier, data, ROWS)
    assert len(np.load(file)["digests"]) == 12


def test_other_weights_have_other_features(data):
    first, second = (image_features(classifier_of(data, seed), data, ROWS) for seed in (0, 1))
    assert not np.allclose(first, second)


def test_network_of_another_name_and_the_same_weights_has_other_features(data):
    one, padded_otherwise = (classifier_of(data, name=name) for name in ("efficientnet_lite0", "tf_efficientnet_lite0"))
    padded_otherwise.load_state_dict(one.state_dict())
    first, second = (image_features(classifier, data, ROWS) for classifier in (one, padded_otherwise))
    assert not np.allclose(first, second)


def test_another_head_has_the_same_features(data, cache_home):
    classifier = classifier_of(data)
    image_features(classifier, data, ROWS)
    with torch.no_grad():
        classifier.model.get_parameter("classifier.weight").zero_()
    image_features(classifier, data, ROWS)
    assert len(list((cache_home / "features").glob("*/*.npz"))) == 1


def test_damaged_cache_is_made_anew(data, cache_home, caplog):
    classifier = classifier_of(data)
    before = image_features(classifier, data, ROWS)
    [file] = (cache_home / "features").glob("*/*.npz")
    file.write_bytes(file.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(image_features(classifier, data, ROWS), before)
    assert "are damaged" in caplog.text


def test_cache_that_cannot_be_written_costs_nothing_but_time(data, cache_home, caplog):
    (cache_home / "features").write_text("a file in the place of the folder")
    with caplog.at_level(logging.WARNING):
        assert len(image_features(classifier_of(data), data, ROWS)) == 12
    assert "IMGBENCH_CACHE=DIR moves it" in caplog.text


def test_onnxruntime_and_pytorch_agree(data, monkeypatch, cache_home):
    classifier = classifier_of(data)
    monkeypatch.setattr(features, "WORTH_EXPORTING", 1)
    by_onnx = image_features(classifier, data, ROWS)
    monkeypatch.setattr(features, "WORTH_EXPORTING", 1000)
    monkeypatch.setenv("IMGBENCH_CACHE", str(cache_home / "other"))
    np.testing.assert_allclose(image_features(classifier, data, ROWS), by_onnx, atol=1e-4, rtol=1e-4)


def test_split_is_predicted_as_single_images_are(data):
    model = TorchModel(classifier_of(data), "cpu")
    predictions = predict_split(model, data, "test")
    images, _ = data.dataset("test").__getitems__(list(range(len(predictions.paths))))
    np.testing.assert_allclose(predictions.probabilities, model(images), atol=1e-5)
