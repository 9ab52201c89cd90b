"""What the charts of a run show, in the words of a language: in its page, and as a picture."""

import csv
from collections.abc import Mapping, Sequence

import numpy as np

from imgbench.evaluation.calibration import reliability
from imgbench.evaluation.plots import Chart, Line
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import risk_coverage
from imgbench.number import Number
from imgbench.report.catalogue import Texts
from imgbench.run import Run
from imgbench.trust import damage_named

POINTS = 200  # of a curve


def read_epochs(run: Run) -> list[dict[str, str]]:
    """The rows of metrics.csv, all cells numbers or empty; none before the first epoch's end.

    Raises:
        UserError: it is damaged.
    """
    path = run.path / "metrics.csv"
    if not path.is_file():
        return []
    with damage_named(path):
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        for row in rows:
            if None in row:
                raise ValueError("a line has more cells than the first")
            for cell in row.values():
                float(cell or "nan")
    return rows


def curve_charts(epochs: Sequence[Mapping[str, str]], best_epoch: int | None, texts: Texts) -> list[Chart]:
    """Accuracy, loss and learning rate by epoch, from the rows of metrics.csv; the epoch kept is marked."""

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in epochs]

    def chart(
        label: str, names: Mapping[str, str], y_range: tuple[float, float] | None = None, scale: float = 1
    ) -> Chart:
        lines = [
            Line(texts(key), column("epoch"), [scale * value for value in column(name)]) for name, key in names.items()
        ]
        mark = None if best_epoch is None else (float(best_epoch), texts("kept", n=best_epoch))
        return Chart(texts(label), texts("epoch"), texts(label), lines, y_range=y_range, mark=mark)

    rates = [rate for rate in column("lr") if np.isfinite(rate)]  # none where the last layer was solved for
    accuracies = [value for name in ("train/acc", "val/acc") for value in column(name) if np.isfinite(value)]
    return [
        chart("accuracy", {"train/acc": "train", "val/acc": "val"}, (100 * min([0.9, *accuracies]), 100.0), 100),
        chart("loss", {"train/loss": "train", "val/loss": "val"}),
        chart("learning_rate", {"lr": "learning_rate"}, (0.0, 1.05 * max(rates, default=0.0) or 1.0)),
    ]


def reliability_chart(predictions: Predictions, texts: Texts) -> Chart:
    """Accuracy against confidence, above the number of images; on the diagonal a probability can be believed."""
    bins = reliability(predictions)
    confidences = [100 * one.confidence for one in bins]
    ends = (0.0, 100.0)
    return Chart(
        texts("calibration"),
        texts("sure"),
        texts("right"),
        [_with_intervals(texts("test"), confidences, [one.accuracy for one in bins])],
        x_range=ends,
        y_range=ends,
        guides=[Line(texts("perfect"), ends, ends)],
        counts=(confidences, [one.accuracy.n for one in bins], texts("images")),
    )


def unsure_chart(predictions: Predictions, texts: Texts) -> Chart:
    """The error among the others, against the share of images left unsure."""
    left, wrong = risk_coverage(predictions)
    enough = np.flatnonzero((1 - left) * len(predictions.targets) >= min(20, len(predictions.targets)))
    chosen = np.unique(enough[np.linspace(0, len(enough) - 1, min(POINTS, len(enough))).astype(int)])
    line = Line(texts("test"), (100 * left[chosen]).tolist(), (100 * wrong[chosen]).tolist())
    top = max(110 * float(wrong[chosen].max()), 1.0)
    return Chart(texts("unsure"), texts("left_unsure"), texts("error"), [line], (0.0, 100.0), (0.0, top))


def learning_curve_chart(learning_curve: Sequence[tuple[int, Number]], texts: Texts) -> Chart:
    """Accuracy on the test images against the number of training images."""
    images = [float(number) for number, _ in learning_curve]
    line = _with_intervals(texts("test"), images, [number for _, number in learning_curve])
    ends = (max(0.0, min(line.low) - 1), 100.0)
    labels = texts("learning_curve"), texts("training_images"), texts("test_accuracy")
    return Chart(*labels, [line], (0.0, 1.05 * images[-1]), ends)


def _with_intervals(name: str, x: Sequence[float], numbers: Sequence[Number]) -> Line:
    """Values in per cent."""
    ends = [(100 * number.value, 100 * number.low, 100 * number.high) for number in numbers]
    return Line(name, x, *zip(*ends, strict=True), dots=True)
