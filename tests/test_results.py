import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from imgbench.evaluation import results
from imgbench.evaluation.calibration import TemperatureScaling, fit_temperature
from imgbench.evaluation.metrics import classification_metrics, describe_accuracy
from imgbench.evaluation.plots import draw_confusion
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.results import SELECTED_ON_TEST, measure, write_report, write_results

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


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_metrics_json_holds_all_splits_and_predictions_csv_the_first(tmp_path):
    parts = {"test": predictions_of(0), "val": predictions_of(1)}
    returned = write_results(tmp_path, "cnn on folder", parts, selected_on_test=False)
    temperature = fit_temperature(parts["val"])
    expected = classification_metrics(parts["test"], "test", TemperatureScaling(temperature["value"]))
    expected |= classification_metrics(parts["val"], "val") | {"val/temperature": temperature}
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == returned == expected
    read = Predictions.read_csv(tmp_path / "predictions.csv")
    assert np.array_equal(read.probabilities, parts["test"].probabilities)
    pictures = {"confusion.png", "reliability.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions.csv", *pictures}


def test_a_temperature_fitted_before_serves_where_there_are_no_validation_images():
    found = measure({"test": predictions_of(0)}, temperature=2.0)
    assert found == classification_metrics(predictions_of(0), "test", TemperatureScaling(2.0))
    assert "test/ece_scaled" not in measure({"test": predictions_of(0)})


def test_metrics_json_is_readable_in_chinese(tmp_path):
    write_results(tmp_path, "", {"test": predictions_of(0)}, selected_on_test=False)
    assert "test/recall/猫" in (tmp_path / "metrics.json").read_text("utf-8")


def test_heading_states_title_split_and_accuracy(tmp_path, headings):
    metrics = write_results(tmp_path, "cnn on folder", {"val": predictions_of(0)}, selected_on_test=False)
    assert headings[0] == f"cnn on folder val accuracy {describe_accuracy(metrics, 'val')}"
    assert SELECTED_ON_TEST not in headings[0]


def test_selection_on_the_test_images_is_said_in_heading_and_report(tmp_path, headings):
    metrics = write_results(tmp_path, "cnn on folder", {"test": predictions_of(0)}, selected_on_test=True)
    assert SELECTED_ON_TEST in headings[0]
    write_report(tmp_path, "cnn on folder", metrics, selected_on_test=True)
    assert SELECTED_ON_TEST in Page(tmp_path / "report.html").text
    write_report(tmp_path, "cnn on folder", metrics, selected_on_test=False)
    assert SELECTED_ON_TEST not in Page(tmp_path / "report.html").text


@pytest.fixture
def report(tmp_path):
    metrics = write_results(tmp_path, "", {"test": predictions_of(0)}, selected_on_test=False)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "curves.png")
    (tmp_path / "summary.txt").write_text("Linear <CNN> & more: 1,234 parameters", "utf-8")
    write_report(tmp_path, "<i>cnn</i> on folder", metrics, selected_on_test=False)
    return Page(tmp_path / "report.html"), metrics


def test_report_refers_to_nothing_outside_itself(report):
    page, _ = report
    references = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert references
    assert all(value.startswith("data:image/png;base64,") for value in references)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", page.source)


def test_report_embeds_the_pictures_of_the_run(report, tmp_path):
    page, _ = report
    embedded = [base64.b64decode(value.split(",")[1]) for name, value in page.attributes if name == "src"]
    assert embedded == [(tmp_path / name).read_bytes() for name in ("curves.png", "confusion.png", "reliability.png")]


def test_report_shows_names_with_html_in_them_as_text(report):
    page, _ = report
    assert not {"b", "i"} & set(page.tags)
    assert "test/recall/<b>bold</b>" in page.text
    assert 'test/precision/dog & "cat"' in page.text
    assert page.text.count("<i>cnn</i> on folder") == 2, "page title and heading"


def test_report_lists_every_number_and_the_layers(report):
    page, metrics = report
    assert page.tags.count("tr") == len(metrics)
    assert all(name in page.text for name in metrics)
    assert "Linear <CNN> & more: 1,234 parameters" in page.text


def test_report_of_a_directory_without_pictures_and_summary_is_a_page(tmp_path):
    write_report(tmp_path, "bare", classification_metrics(predictions_of(0), "test"), selected_on_test=False)
    page = Page(tmp_path / "report.html")
    assert page.source.startswith("<!doctype html>")
    assert not {"img", "pre"} & set(page.tags)
    assert "test/acc" in page.text
