from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from imgbench.evaluation.ranking import auroc, average_precision

reference: Any = sklearn.metrics
REFERENCES = [(auroc, reference.roc_auc_score), (average_precision, reference.average_precision_score)]


@pytest.mark.parametrize("digits", [1, 9])  # with many ties, and with none
@pytest.mark.parametrize(("function", "expected"), REFERENCES)
def test_values_agree_with_scikit_learn(function, expected, digits):
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.3
    scores = np.round(rng.normal(size=200) + positive, digits)
    assert function(scores, positive)[0] == pytest.approx(expected(positive, scores))


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize(("function", "expected"), REFERENCES)
def test_additions_are_the_derivatives_by_the_images_weights(function, expected, digits):
    rng = np.random.default_rng(1)
    positive = np.arange(40) < 15
    scores = np.round(rng.normal(size=40) + positive, digits)
    value, additions = function(scores, positive)
    step = 1e-6
    for i in range(40):
        weights = np.ones(40)
        weights[i] += step
        slope = (expected(positive, scores, sample_weight=weights) - value) / step
        assert additions[i] == pytest.approx(slope, abs=1e-5)


def test_perfect_ranking_is_1_and_reversed_auroc_is_0():
    positive = np.array([True, True, False])
    scores = np.array([0.9, 0.8, 0.1])
    assert auroc(scores, positive)[0] == average_precision(scores, positive)[0] == 1
    assert auroc(-scores, positive)[0] == 0


def test_variance_is_that_of_delong():
    # DeLong's formula, pair by pair.
    rng = np.random.default_rng(2)
    positive = np.arange(50) < 20
    scores = rng.normal(size=50) + positive
    wins = (scores[positive][:, None] > scores[~positive]).astype(float)
    delong = wins.mean(1).var(ddof=1) / 20 + wins.mean(0).var(ddof=1) / 30
    _, additions = auroc(scores, positive)
    variance = sum((additions[side] ** 2).sum() * n / (n - 1) for side, n in ((positive, 20), (~positive, 30)))
    assert variance == pytest.approx(delong)
