import numpy as np
import pytest
import torch

from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.inference.torch_model import TorchModel
from imgbench.training.checkpoint import load_classifier


@pytest.fixture
def data(tiny_run, make_data):
    return make_data(tiny_run.config["data"]["root"], image_size=20, split={"group": r"^(\d)"})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_predictions_are_of_the_images_of_the_split_in_its_order(tiny_run, data, split):
    predictions = predict_split(TorchModel(load_classifier(tiny_run.best), "cpu"), data, split)
    rows = data.rows(split)
    assert predictions.paths == [data.table.paths[i] for i in rows]
    assert predictions.targets.tolist() == data.table.labels[rows].tolist()
    files = [data.table.root / path for path in predictions.paths]
    expected, _ = Predictor.load(tiny_run.best).probabilities(files)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-6)


def test_predictions_know_the_group_of_each_image(tiny_run, data):
    predictions = predict_split(TorchModel(load_classifier(tiny_run.best), "cpu"), data, "test")
    assert predictions.groups == [path.split("/")[1][0] for path in predictions.paths]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_sum_to_one_at_any_precision_of_the_logits(tiny_run, dtype):
    classifier = load_classifier(tiny_run.best)
    logits = (torch.randn(64, 100) * 20).to(dtype)
    classifier.forward = lambda images: logits
    found = TorchModel(classifier, "cpu")(torch.zeros(64, 3, 20, 20, dtype=torch.uint8))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert np.array_equal(found.argmax(1), logits.float().argmax(1).numpy())
