import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from imgbench.evaluation.metrics import (
    Z,
    classification_metrics,
    confusion_matrix,
    describe,
    macro_f1_interval,
    unmeasured_classes,
    wilson_interval,
)
from imgbench.evaluation.predictions import Predictions

reference: Any = sklearn.metrics  # scikit-learn has no type hints, and pyright's guesses are wrong


def predictions_of(targets, predicted, k):
    probabilities = np.full((len(targets), k), 0.1, np.float32)
    probabilities[np.arange(len(targets)), predicted] = 0.9
    names = [f"class {i}" for i in range(k)]
    n = len(targets)
    return Predictions([f"{i}.png" for i in range(n)], [""] * n, np.asarray(targets, np.int64), probabilities, names)


def confusion_of(targets, predicted, k):
    return confusion_matrix(predictions_of(targets, predicted, k))


def random_labels(seed, n=200, true_classes=(0, 1, 2, 3), predicted_classes=(0, 1, 2, 3)):
    rng = np.random.default_rng(seed)
    targets, predicted = rng.choice(true_classes, n), rng.choice(predicted_classes, n)
    known = np.isin(targets, predicted_classes) & (rng.random(n) < 0.6)
    return targets, np.where(known, targets, predicted)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: the centre of n/2 successes is 1/2, half the width is z / (2 sqrt(n + z^2))
        (50, 100, 0.5 - Z / (2 * (100 + Z**2) ** 0.5), 0.5 + Z / (2 * (100 + Z**2) ** 0.5)),
    ],
)
def test_wilson_interval_agrees_with_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (7, 10), (359, 360), (12345, 54321)])
def test_wilson_interval_ends_where_the_deviation_is_z_standard_errors(successes, n):
    for end in wilson_interval(successes, n):
        assert abs(successes / n - end) == pytest.approx(Z * (end * (1 - end) / n) ** 0.5)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 359, 1000, 10**6])
def test_wilson_interval_of_none_and_of_all_ends_there_exactly(n):
    assert wilson_interval(0, n)[0] == 0.0
    assert wilson_interval(n, n)[1] == 1.0
    assert wilson_interval(0, n)[1] == pytest.approx(Z**2 / (n + Z**2))
    assert wilson_interval(n, n)[0] == pytest.approx(n / (n + Z**2))


def test_wilson_interval_holds_the_proportion_and_mirrors_failures():
    for n in (1, 2, 5, 30):
        for successes in range(n + 1):
            low, high = wilson_interval(successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_of_no_trials_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


def test_confusion_matrix_has_the_true_class_in_the_row():
    assert confusion_of([0, 0, 1, 2], [0, 1, 1, 0], 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


LABELS = {
    "all classes": random_labels(0),
    "few images": random_labels(1, n=5),
    "a class never predicted": random_labels(2, predicted_classes=(0, 1, 3)),
    "a class without images": random_labels(3, true_classes=(0, 1, 3)),
    "a class absent altogether": random_labels(4, true_classes=(0, 1, 3), predicted_classes=(0, 1, 3)),
    "all right": (np.arange(40) % 4, np.arange(40) % 4),
    "all wrong": (np.arange(40) % 4, (np.arange(40) + 1) % 4),
    "one image": (np.array([2]), np.array([2])),
}


@pytest.mark.parametrize(("targets", "predicted"), LABELS.values(), ids=LABELS)
def test_metrics_agree_with_scikit_learn(targets, predicted):
    predictions = predictions_of(targets, predicted, 4)
    found = classification_metrics(predictions, "test")
    confusion = reference.confusion_matrix(targets, predicted, labels=range(4))
    assert np.array_equal(confusion_matrix(predictions), confusion)
    assert found["test/acc"]["value"] == pytest.approx(reference.accuracy_score(targets, predicted))
    there = np.unique(targets)
    macro_f1 = reference.f1_score(targets, predicted, labels=there, average="macro", zero_division=0)
    assert found["test/macro_f1"]["value"] == pytest.approx(macro_f1, abs=1e-6)
    precision, recall, _, _ = reference.precision_recall_fscore_support(
        targets, predicted, labels=range(4), zero_division=np.nan
    )
    precision[np.setdiff1d(range(4), there)] = np.nan
    for i in range(4):
        for kind, expected in (("precision", precision[i]), ("recall", recall[i])):
            value = found[f"test/{kind}/class {i}"]["value"]
            assert (value is None and np.isnan(expected)) or value == pytest.approx(expected)


@pytest.mark.parametrize(("targets", "predicted"), LABELS.values(), ids=LABELS)
def test_every_value_lies_in_its_interval(targets, predicted):
    for number in classification_metrics(predictions_of(targets, predicted, 4), "val").values():
        assert 0 <= number["low"] <= number["high"] <= 1
        if number["value"] is not None:
            assert number["low"] - 1e-6 <= number["value"] <= number["high"] + 1e-6


def test_n_is_the_number_of_images_the_number_rests_on():
    found = classification_metrics(predictions_of([0, 0, 0, 1], [0, 0, 1, 1], 3), "test")
    counts = {name.removeprefix("test/"): number["n"] for name, number in found.items()}
    assert counts == {
        "acc": 4, "macro_f1": 4, "precision/class 0": 2, "recall/class 0": 3, "precision/class 1": 2,
        "recall/class 1": 1, "precision/class 2": 0, "recall/class 2": 0,
    }  # fmt: skip


def test_a_class_without_images_is_not_measured_however_often_it_is_predicted():
    found = classification_metrics(predictions_of([0, 0, 1, 1], [0, 2, 1, 1], 3), "test")
    assert found["test/macro_f1"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert [describe(found[f"test/{kind}/class 2"]) for kind in ("precision", "recall")] == ["undefined (n = 0)"] * 2
    assert unmeasured_classes(found, "test") == ["class 2"]


def test_metrics_are_plain_json_without_nan():
    found = classification_metrics(predictions_of([0, 1], [1, 1], 3), "test")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("classes", [2, 4])
def test_macro_f1_interval_shrinks_with_the_root_of_the_number_of_images(classes):
    confusion = np.full((classes, classes), 2) + 20 * np.eye(classes, dtype=int)
    widths = [np.ptp(macro_f1_interval(confusion * factor)) for factor in (1, 4, 16)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.1)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.1)


def macro_f1(targets, predicted):
    pairs = [(targets == c, predicted == c) for c in np.unique(targets)]
    return np.mean([2 * (true & found).sum() / (true.sum() + found.sum()) for true, found in pairs])


@pytest.mark.parametrize("n", [12, 100])  # of 12 images in 4 classes, many draws lack a class
def test_macro_f1_interval_agrees_with_resampling_the_images(n):
    targets, predicted = random_labels(5, n)
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, n, n) for _ in range(1000)]
    expected = np.percentile([macro_f1(targets[draw], predicted[draw]) for draw in draws], [2.5, 97.5])
    assert macro_f1_interval(confusion_of(targets, predicted, 4)) == pytest.approx(expected, abs=0.02)


def test_macro_f1_interval_of_rare_classes_is_not_pulled_below_the_value():
    assert macro_f1_interval(np.eye(100, dtype=int)) == (1, 1)


def test_macro_f1_interval_is_the_same_on_every_call():
    confusion = confusion_of(*random_labels(6), 4)
    assert macro_f1_interval(confusion) == macro_f1_interval(confusion)


def test_description_states_percent_interval_and_number():
    number = {"value": 354 / 360, "low": 0.9641, "high": 0.9924, "n": 360}
    assert describe(number) == "98.33 % (95 % interval 96.4 to 99.2 %, n = 360)"
    assert describe({"value": None, "low": 0.0, "high": 1.0, "n": 0}) == "undefined (n = 0)"
