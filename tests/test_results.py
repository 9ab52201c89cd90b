from dataclasses import replace

import numpy as np
import pytest

from imgbench.evaluation.calibration import TemperatureScaling, fit_temperature
from imgbench.evaluation.metrics import classification_metrics, describe_accuracy
from imgbench.evaluation.plots import draw_confusion
from imgbench.evaluation.predictions import Predictions
from imgbench.number import Number, read_metrics, share
from imgbench.report import results
from imgbench.report.results import SELECTED_ON_TEST, falls_behind, measure, write_results

NAMES = ["猫", "<b>bold</b>", 'dog & "cat"']


def predictions_of(seed, names=NAMES, n=30):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(len(names)), n).astype(np.float32)
    return Predictions(
        [f"{i}.png" for i in range(n)], [""] * n, rng.integers(0, len(names), n), probabilities, list(names)
    )


@pytest.fixture
def headings(monkeypatch):
    """The headings of the confusion matrices that are drawn."""
    seen = []

    def draw(*args):
        figure = draw_confusion(*args)
        seen.append(" ".join(text.get_text().replace("\n", " ") for text in figure.texts))
        return figure

    monkeypatch.setattr(results, "draw_confusion", draw)
    return seen


def test_metrics_json_holds_all_splits_and_predictions_csv_the_first(tmp_path):
    parts = {"test": predictions_of(0), "val": predictions_of(1)}
    returned = write_results(tmp_path, "cnn on folder", parts, selected_on_test=False)
    temperature = fit_temperature(parts["val"])
    expected = classification_metrics(parts["test"], "test", TemperatureScaling(temperature.value))
    expected |= classification_metrics(parts["val"], "val") | {"val/temperature": temperature}
    assert read_metrics(tmp_path / "metrics.json") == returned == expected
    read = Predictions.read_csv(tmp_path / "predictions.csv")
    assert np.array_equal(read.probabilities, parts["test"].probabilities)
    pictures = {"confusion.png", "reliability.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions.csv", *pictures}


def test_a_temperature_fitted_before_serves_where_there_are_no_validation_images():
    found = measure({"test": predictions_of(0)}, temperature=2.0)
    assert found == classification_metrics(predictions_of(0), "test", TemperatureScaling(2.0))
    assert "test/ece_scaled" not in measure({"test": predictions_of(0)})


def test_the_temperature_of_one_network_says_nothing_of_those_of_a_cross_validation():
    tested = replace(predictions_of(0), networks=3)
    assert "test/ece_scaled" not in measure({"test": tested, "val": predictions_of(1)})
    assert "test/ece_scaled" not in measure({"test": tested}, temperature=2.0)


def test_metrics_json_is_readable_in_chinese(tmp_path):
    write_results(tmp_path, "", {"test": predictions_of(0)}, selected_on_test=False)
    assert "test/recall/猫" in (tmp_path / "metrics.json").read_text("utf-8")


def test_heading_states_title_split_and_accuracy(tmp_path, headings):
    metrics = write_results(tmp_path, "cnn on folder", {"val": predictions_of(0)}, selected_on_test=False)
    assert headings[0] == f"cnn on folder val accuracy {describe_accuracy(metrics, 'val')}"
    assert SELECTED_ON_TEST not in headings[0]


def test_selection_on_the_test_images_is_said_in_the_heading(tmp_path, headings):
    write_results(tmp_path, "cnn on folder", {"test": predictions_of(0)}, selected_on_test=True)
    assert SELECTED_ON_TEST in headings[0]


def test_a_test_accuracy_below_that_of_validation_images_is_told_where_it_is_more_than_chance():
    def metrics(val: int, test: int) -> dict[str, Number]:
        codes = np.arange(60)
        return {
            f"{split}/acc": share(codes < hits, np.ones(60, bool), codes)
            for split, hits in (("val", val), ("test", test))
        }

    found = falls_behind(metrics(59, 48), None)
    assert found is not None
    assert found.value == pytest.approx(11 / 60)
    assert found.low > 0.05
    assert falls_behind(metrics(59, 56), None) is None
    assert falls_behind(metrics(48, 59), None) is None
    assert falls_behind(metrics(59, 48), 5) is None
