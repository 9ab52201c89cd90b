"""What the charts of a run show."""

import numpy as np
import pytest

from imgbench.evaluation.predictions import Predictions
from imgbench.language import LANGUAGES
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, read_epochs, reliability_chart, unsure_chart
from imgbench.run import Run

COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr")


@pytest.mark.parametrize("language", LANGUAGES)
def test_curves_are_the_columns_of_metrics_csv_and_mark_the_epoch_kept(language, tmp_path):
    rows = [COLUMNS, (1, 2.0, 0.25, 1.5, 0.5, 1e-3), (2, 1.0, 0.75, "", 0.5, 5e-4)]
    (tmp_path / "metrics.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    texts = Texts(language)
    accuracy, loss, rate = curve_charts(read_epochs(Run(tmp_path)), 2, texts)
    assert [line.name for line in accuracy.lines] == [texts("train"), texts("val")]
    assert [list(line.y) for line in accuracy.lines] == [[25, 75], [50, 50]]
    assert np.array_equal(loss.lines[1].y, [1.5, float("nan")], equal_nan=True)
    assert list(rate.lines[0].y) == [1e-3, 5e-4]
    assert [chart.mark for chart in (accuracy, loss, rate)] == [(2, texts("kept", n=2))] * 3


def test_no_epoch_makes_no_rows(tmp_path):
    assert read_epochs(Run(tmp_path)) == []
    (tmp_path / "metrics.csv").write_text(",".join(COLUMNS) + "\n")
    assert read_epochs(Run(tmp_path)) == []


@pytest.mark.parametrize("rate", ["1e-3", "0.0", ""])
def test_learning_rate_axis_starts_at_zero(rate):
    chart = curve_charts([{"epoch": "1", "train/loss": "1", "lr": rate}], None, Texts("en"))[-1]
    assert chart.mark is None
    assert chart.y_range is not None
    assert chart.y_range[0] == 0
    assert chart.y_range[1] > float(rate or 0)


def test_reliability_counts_every_image_and_the_error_falls_to_zero_with_the_sure_ones():
    targets = np.repeat([0, 1], 50)
    probabilities = np.full((100, 2), 0.05, np.float32)
    probabilities[np.arange(100), targets] = 0.95
    probabilities[:10] = [0.4, 0.6]
    predictions = Predictions([""] * 100, [""] * 100, targets, probabilities, ["a", "b"])
    chart = reliability_chart(predictions, Texts("en"))
    assert list(chart.lines[0].y) == [0, 100]
    assert chart.counts is not None
    assert list(chart.counts[1]) == [10, 90]
    line = unsure_chart(predictions, Texts("en")).lines[0]
    by_share = dict(zip(np.round(line.x).astype(int).tolist(), line.y, strict=True))
    assert by_share[0] == pytest.approx(10)
    assert by_share[10] == 0
