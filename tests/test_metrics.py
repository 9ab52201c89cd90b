import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from imgbench.benchmark.development.coverage import DESIGNS, coverage
from imgbench.evaluation.metrics import (
    classification_metrics,
    confusion_matrix,
    describe,
    describe_accuracy,
    unmeasured_classes,
)
from imgbench.evaluation.predictions import Predictions
from imgbench.number import Number

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
    assert found["test/acc"].value == pytest.approx(reference.accuracy_score(targets, predicted))
    there = np.unique(targets)
    macro_f1 = reference.f1_score(targets, predicted, labels=there, average="macro", zero_division=0)
    assert found["test/macro_f1"].value == pytest.approx(macro_f1, abs=1e-6)
    balanced = reference.recall_score(targets, predicted, labels=there, average="macro")
    assert found["test/balanced_acc"].value == pytest.approx(balanced)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        targets, predicted, labels=range(4), zero_division=np.nan
    )
    absent = np.setdiff1d(range(4), there)
    precision[absent] = f1[absent] = np.nan
    (true_negative, false_positive), _ = reference.multilabel_confusion_matrix(
        targets, predicted, labels=range(4)
    ).transpose(1, 2, 0)
    with np.errstate(invalid="ignore"):
        specificity = true_negative / (true_negative + false_positive)
    specificity[absent] = np.nan
    for i in range(4):
        kinds = {"precision": precision, "recall": recall, "f1": f1, "specificity": specificity}
        for kind, expected in ((kind, values[i]) for kind, values in kinds.items()):
            value = found[f"test/{kind}/class {i}"].value
            assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("targets", "predicted"), LABELS.values(), ids=LABELS)
def test_every_value_lies_in_its_interval(targets, predicted):
    for number in classification_metrics(predictions_of(targets, predicted, 4), "val").values():
        assert 0 <= number.low <= number.high <= 1
        if number.n:
            assert number.low - 1e-6 <= number.value <= number.high + 1e-6


def test_n_is_the_number_of_images_the_number_rests_on():
    found = classification_metrics(predictions_of([0, 0, 0, 1], [0, 0, 1, 1], 3), "test")
    counts = {name.removeprefix("test/"): number.n for name, number in found.items()}
    assert [counts.pop(f"{kind}/class 2") for kind in ("precision", "recall", "f1", "specificity")] == [0] * 4
    per_class = {name: n for name, n in counts.items() if "/" in name}
    assert per_class == {
        "precision/class 0": 2, "recall/class 0": 3, "f1/class 0": 3, "specificity/class 0": 1,
        "precision/class 1": 2, "recall/class 1": 1, "f1/class 1": 2, "specificity/class 1": 3,
    }  # fmt: skip
    assert {n for name, n in counts.items() if "/" not in name} == {4}


def in_groups(predictions, size):
    groups = [f"patient {i // size}" for i in range(len(predictions.paths))]
    return replace(predictions, groups=groups)


def test_groups_are_counted_and_copies_of_one_image_are_worth_one():
    targets, predicted = random_labels(7, 100)
    single = classification_metrics(predictions_of(targets, predicted, 4), "test")
    copies = in_groups(predictions_of(np.repeat(targets, 5), np.repeat(predicted, 5), 4), 5)
    found = classification_metrics(copies, "test")
    for name, number in found.items():
        assert number.n == 5 * single[name].n
        assert number.groups == single[name].groups == single[name].n
        assert number.value == pytest.approx(single[name].value)
        width = number.high - number.low
        assert width == pytest.approx(single[name].high - single[name].low, rel=0.15, abs=1e-9), name


def test_majority_is_the_share_of_the_largest_class_and_stands_beside_the_accuracy():
    found = classification_metrics(predictions_of([0] + [1] * 3, [0] + [1] * 3, 2), "test")
    assert found["test/majority"].value == 0.75
    assert found["test/majority"].of_class == "class 1"
    assert describe_accuracy(found, "test") == "100.0 % (4 of 4; 95 % interval 51 to 100 %); always 'class 1': 75.0 %"


def test_top_5_is_measured_where_classes_are_many():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.integers(0, 21, 200), rng.dirichlet(np.ones(21), 200).astype(np.float32)
    names = [str(i) for i in range(21)]
    found = classification_metrics(Predictions([""] * 200, [""] * 200, targets, probabilities, names), "test")
    expected = reference.top_k_accuracy_score(targets, probabilities, k=5, labels=range(21))
    assert found["test/top5_acc"].value == pytest.approx(expected)
    assert "test/top5_acc" not in classification_metrics(predictions_of(*random_labels(0), 4), "test")


def test_of_equal_probabilities_the_earlier_classes_come_first_as_in_the_prediction():
    equal = np.full((21, 21), 1 / 21, np.float32)
    found = classification_metrics(
        Predictions([""] * 21, [""] * 21, np.arange(21), equal, [str(i) for i in range(21)]), "test"
    )
    assert (found["test/acc"].hits, found["test/top5_acc"].hits) == (1, 5)


def test_ranking_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    targets, probabilities = rng.integers(0, 3, 150), rng.dirichlet(np.ones(3), 150).astype(np.float32)
    probabilities = np.round(probabilities, 1)  # with ties
    found = classification_metrics(Predictions([""] * 150, [""] * 150, targets, probabilities, ["a", "b", "c"]), "test")
    truth = np.eye(3)[targets]
    assert found["test/auroc"].value == pytest.approx(reference.roc_auc_score(truth, probabilities))
    assert found["test/ap"].value == pytest.approx(reference.average_precision_score(truth, probabilities))


def test_one_class_has_no_ranking():
    found = classification_metrics(predictions_of([1, 1], [1, 0], 2), "test")
    assert "test/auroc" not in found
    assert found["test/balanced_acc"].value == 0.5


def test_a_class_without_images_is_not_measured_however_often_it_is_predicted():
    found = classification_metrics(predictions_of([0, 0, 1, 1], [0, 2, 1, 1], 3), "test")
    assert found["test/macro_f1"].value == pytest.approx((2 / 3 + 1) / 2)
    assert [describe(found[f"test/{kind}/class 2"]) for kind in ("precision", "recall")] == ["undefined (n = 0)"] * 2
    assert unmeasured_classes(found, "test") == ["class 2"]


def test_metrics_are_plain_json_without_nan():
    found = classification_metrics(predictions_of([0, 1], [1, 1], 3), "test")
    content = {name: number.to_dict() for name, number in found.items()}
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert {name: Number.from_dict(number) for name, number in content.items()} == found
    assert content["test/recall/class 2"] == {"value": None, "low": 0, "high": 1, "n": 0, "groups": 0, "hits": 0}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(67 / 76, 0.79, 0.937, 76, 76, 67),
         "88.2 % (67 of 76; 95 % interval 79 to 94 %)"),
        (Number(0.5, 0.312, 0.688, 532, 38, 266),
         "50.0 % (266 of 532 in 38 groups; 95 % interval 31 to 69 %)"),
        (Number(354 / 360, 0.9641, 0.9924, 360, 360, 354),
         "98.3 % (354 of 360; 95 % interval 96.4 to 99.2 %)"),
        (Number(0.98333, 0.9807, 0.9856, 10000, 10000, 9833),
         "98.33 % (95 % interval 98.1 to 98.6 %, n = 10,000)"),
        (Number(1.234, 1.0, 1.5, 60, 6, percent=False),
         "1.234 (95 % interval 1.000 to 1.500, n = 60 in 6 groups)"),
        (Number(0.98333, 0.9641, 0.9924, 360, 360),
         "98.33 % (95 % interval 96.4 to 99.2 %, n = 360)"),
        (Number(0.1308, 0, 0.2906, 308, 12, if_calibrated=0.1239),
         "13.1 % (95 % interval 0 to 29 %, n = 308 in 12 groups; by chance alone about 12.4 %)"),
        (Number(math.nan, 0, 1, 0, 0), "undefined (n = 0)"),
    ],
)  # fmt: skip
def test_description_states_counts_interval_and_groups(number, text):
    assert describe(number) == text


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_intervals_hold_the_truth_as_often_as_they_say(design):
    missed = {name: round(250 * (1 - share)) for name, share in coverage(*design, draws=250).items()}
    # 12.5 of 250 are to be expected; 23 or more of a correct interval are as rare as 1 in 250.
    assert all(count < 23 for count in missed.values()), missed
    assert sum(missed.values()) > 0.02 * 250 * len(missed), "intervals are far too wide"
