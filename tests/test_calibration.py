from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from imgbench.evaluation.calibration import (
    TemperatureScaling,
    brier_score,
    calibration_error,
    fit_temperature,
    operating_point,
    reliability,
    threshold_for_sensitivity,
)
from imgbench.evaluation.predictions import Predictions


def drawn(rng, n=300, k=3, temperature=1.0, groups=None):
    """Targets drawn from softmax probabilities, whose logits are then multiplied by the temperature."""
    logits = rng.normal(0, 1.5, (n, k))
    powers = np.exp(logits)
    true = powers / powers.sum(1, keepdims=True)
    targets = (rng.random(n)[:, None] > true.cumsum(1)).sum(1).clip(0, k - 1)
    powers = np.exp(logits * temperature)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    names = [chr(97 + i) for i in range(k)]
    return Predictions([""] * n, groups or [""] * n, targets, probabilities, names)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_calibration_error_agrees_with_torchmetrics(k):
    found = drawn(np.random.default_rng(0), 200, k, 1.7)
    expected = multiclass_calibration_error(
        torch.from_numpy(found.probabilities), torch.from_numpy(found.targets), k, n_bins=15
    )
    value = calibration_error(found.probabilities, found.targets, np.arange(200)).value
    assert value == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_interval_of_the_calibration_error_holds_the_truth_in_at_least_95_percent(temperature):
    rng = np.random.default_rng(0)
    many = drawn(rng, 400_000, 3, temperature)
    true = calibration_error(many.probabilities, many.targets, np.arange(400_000), draws=10).value
    true = 0 if temperature == 1 else true
    numbers = [
        calibration_error(one.probabilities, one.targets, np.arange(150), draws=400)
        for one in (drawn(rng, 150, 3, temperature) for _ in range(300))
    ]
    held = np.mean([number.low <= true <= number.high for number in numbers])
    assert held > 0.94
    if temperature == 1:
        assert np.mean([number.low == 0 for number in numbers]) == pytest.approx(0.975, abs=0.025)


def test_a_calibrated_model_has_the_error_that_is_said_to_be_expected():
    rng = np.random.default_rng(1)
    numbers = [calibration_error(one.probabilities, one.targets, np.arange(150), draws=400)
               for one in (drawn(rng, 150) for _ in range(100))]  # fmt: skip
    expected = np.mean([number.if_calibrated or 0 for number in numbers])
    assert np.mean([number.value for number in numbers]) == pytest.approx(expected, rel=0.1)


def test_few_images_all_right_do_not_promise_a_calibrated_model():
    sure = np.array([[0.999, 0.001]] * 5, np.float32)
    number = calibration_error(sure, np.zeros(5, int), np.arange(5))
    assert number.high > 0.2


def test_one_group_tells_nothing_of_calibration():
    found = drawn(np.random.default_rng(0), 20)
    number = calibration_error(found.probabilities, found.targets, np.zeros(20, int))
    assert (number.low, number.high, number.groups) == (0, 1, 1)


def test_brier_score_of_two_classes_is_scikit_learns():
    found = drawn(np.random.default_rng(0), 100, 2)
    expected = brier_score_loss(found.targets, found.probabilities[:, 1].astype(float))
    assert brier_score(found.probabilities, found.targets, np.arange(100)).value == pytest.approx(expected)


def test_reliability_is_the_mean_of_each_bin():
    probabilities = np.array([[0.95, 0.05], [0.94, 0.06], [0.3, 0.7], [0.5, 0.5]], np.float32)
    found = Predictions([""] * 4, [""] * 4, np.array([0, 1, 1, 0]), probabilities, ["a", "b"])
    bins = reliability(found)
    assert [bin.accuracy.n for bin in bins] == [1, 1, 2]
    assert [bin.accuracy.value for bin in bins] == [1, 1, 0.5]
    assert [bin.confidence for bin in bins] == pytest.approx([0.5, 0.7, 0.945])
    assert all(bin.accuracy.low <= bin.accuracy.value <= bin.accuracy.high for bin in bins)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_that_spoilt_probabilities_is_found_and_taken_back(temperature):
    found = drawn(np.random.default_rng(0), 20_000, 3, temperature)
    number = fit_temperature(found)
    assert number.low <= temperature <= number.high
    assert number.value == pytest.approx(temperature, rel=0.05)
    mended = TemperatureScaling(number.value).apply(found.probabilities)
    assert calibration_error(mended, found.targets, np.arange(20_000), draws=50).value < 0.015
    assert np.array_equal(mended.argmax(1), found.probabilities.argmax(1))


@pytest.mark.parametrize("size", [1, 5])
def test_interval_of_the_temperature_holds_the_truth_in_95_percent(size):
    rng = np.random.default_rng(2)
    held = []
    for _ in range(300):
        one = drawn(rng, 120, 3, 1.5)
        n, names = 120 * size, [str(i // size) for i in range(120 * size)]
        targets, probabilities = np.repeat(one.targets, size), np.repeat(one.probabilities, size, 0)
        number = fit_temperature(Predictions([""] * n, names, targets, probabilities, one.class_names))
        assert (number.n, number.groups) == (n, 120)
        held.append(number.low <= 1.5 <= number.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_temperature_of_a_flawless_model_is_at_the_end_of_the_range():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]] * 10, np.float32)
    number = fit_temperature(Predictions([""] * 20, [""] * 20, np.array([0, 1] * 10), probabilities, ["a", "b"]))
    assert number.value == pytest.approx(0.05, rel=0.01)
    zeros = replace(drawn(np.random.default_rng(0), 2, 2), probabilities=np.array([[1, 0], [1, 0]], np.float32))
    assert np.isfinite(fit_temperature(zeros).value)


def scored(scores, targets):
    probabilities = np.stack([1 - np.asarray(scores), scores], 1).astype(np.float32)
    n = len(targets)
    return Predictions([""] * n, [""] * n, np.asarray(targets), probabilities, ["healthy", "ill"])


def test_threshold_leaves_out_the_lowest_scores_of_the_class():
    validation = scored([*np.linspace(0.02, 0.98, 49), 0.99], [1] * 49 + [0])
    assert threshold_for_sensitivity(validation, 1, 0.9) == pytest.approx(0.1, abs=1e-6)  # the fifth of 49
    assert threshold_for_sensitivity(validation, 1, 0.99) is None  # takes 99


def test_threshold_finds_the_wanted_share_of_further_images():
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(2000):
        threshold = threshold_for_sensitivity(scored(rng.random(39), [1] * 39), 1, 0.95)
        assert threshold is not None
        reached.append(1 - threshold)  # what is uniform lies above with this probability
    assert np.mean(reached) == pytest.approx(0.95, abs=0.005)


def test_operating_point_measures_from_the_threshold_on():
    validation = scored([0.3, *np.linspace(0.5, 0.9, 8)], [1] * 9)
    found = operating_point(validation, scored([0.2, 0.3, 0.4, 0.1, 0.3], [1, 1, 1, 0, 0]), 1, 0.9)
    assert found is not None
    assert (found.class_name, found.validation_images, found.validation_groups) == ("ill", 9, 9)
    assert found.threshold == pytest.approx(0.3)
    assert (found.sensitivity.hits, found.sensitivity.n) == (2, 3)
    assert (found.specificity.hits, found.specificity.n) == (1, 2)
    assert (found.precision.hits, found.precision.n) == (2, 3)
    assert operating_point(validation, validation, 1, 0.95) is None
