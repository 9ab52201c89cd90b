"""The training images that are most like another in a network's eyes."""

import numpy as np
import pytest
from omegaconf import DictConfig

from imgbench.experiment.build import build_data
from imgbench.inference.neighbours import features_of, has_features, nearest, network_inputs
from imgbench.inference.predictor import Predictor


def test_an_image_is_nearest_to_itself_whatever_the_scale_of_a_feature():
    rng = np.random.default_rng(0)
    training = rng.normal(size=(50, 6)).astype(np.float32) * [1, 1, 1, 1, 1, 1000] + [0, 0, 9, 0, 0, 0]
    rows, similarity = nearest(training[[7, 3]], training, 4)
    assert rows[:, 0].tolist() == [7, 3]
    assert similarity[:, 0] == pytest.approx([1, 1])
    assert (np.diff(similarity, axis=1) <= 0).all()
    scaled, _ = nearest(training[[7, 3]] * [1, 1, 1, 1, 1, 1e-3], training * [1, 1, 1, 1, 1, 1e-3], 4)
    assert np.array_equal(scaled, rows)


def test_a_feature_that_never_varies_and_fewer_images_than_asked_for_do_no_harm():
    training = np.array([[1, 5], [2, 5], [4, 5]], np.float32)
    rows, similarity = nearest(np.array([[4, 6]], np.float32), training, 5)
    assert rows.shape == (1, 3)
    assert rows[0, 0] == 2
    assert np.isfinite(similarity).all()


def test_features_are_those_of_the_rows_asked_for(tiny_run):
    data = build_data(DictConfig(tiny_run.config))
    model = Predictor.load(tiny_run.path).model
    assert has_features(model)
    rows = data.rows("train")[[5, 2, 9, 0, 1, 4]]
    everything = features_of(model, data, data.rows("train"))
    np.testing.assert_allclose(features_of(model, data, rows), everything[[5, 2, 9, 0, 1, 4]], atol=1e-5)
    assert [len(batch) for batch in network_inputs(data, rows)] == [4, 2]
