"""What an evaluation leaves in a directory: predictions, numbers with intervals, pictures."""

import json
from collections.abc import Mapping
from pathlib import Path

from imgbench.evaluation.calibration import TemperatureScaling, fit_temperature
from imgbench.evaluation.metrics import classification_metrics, confusion_matrix, describe, describe_accuracy
from imgbench.evaluation.plots import draw_charts, draw_confusion
from imgbench.evaluation.predictions import Predictions
from imgbench.files import write_atomically
from imgbench.number import Number, independent_difference
from imgbench.report.catalogue import Texts
from imgbench.report.charts import reliability_chart

SELECTED_ON_TEST = "the model was selected on its own test images: the accuracy is too good"

BEFORE_CORRECTIONS = "test/acc_before_corrections"  # of all test images, with the labels before people changed some


def measure(results: dict[str, Predictions], temperature: float | None = None) -> dict[str, Number]:
    """The numbers of all splits in `results`.

    With validation images comes the temperature fitted on them, and how well calibrated it makes the other splits;
    where there are none, `temperature` is what was fitted before. It is of one network, and says nothing of those of a
    cross-validation.
    """
    fitted = fit_temperature(results["val"]) if "val" in results else None
    temperature = fitted.value if fitted else temperature
    scaling = None if temperature is None else TemperatureScaling(temperature)
    metrics: dict[str, Number] = {}
    for split, predictions in results.items():
        of_one = split != "val" and predictions.networks == 1
        metrics |= classification_metrics(predictions, split, scaling if of_one else None)
    return metrics | ({"val/temperature": fitted} if fitted else {})


def falls_behind(metrics: Mapping[str, Number], folds: int | None) -> Number | None:
    """How far the test accuracy is below the validation accuracy, where that is more than chance.

    Of a cross-validation (`folds`) the two are of different networks, and nothing is said.
    """
    if folds or "val/acc" not in metrics:
        return None
    difference = independent_difference(metrics["val/acc"], metrics["test/acc"])
    return difference if difference.low > 0 else None


def write_results(
    folder: Path,
    title: str,
    results: dict[str, Predictions],
    selected_on_test: bool,
    temperature: float | None = None,
    before: Mapping[str, Number] | None = None,
) -> dict[str, Number]:
    """Writes metrics.json of all splits in `results`, and predictions.csv and the pictures of the first.

    Args:
        temperature: fitted on validation images before, where they are not among the results.
        before: what was measured with the labels before corrections.
    """
    metrics = {**measure(results, temperature), **(before or {})}
    split, predictions = next(iter(results.items()))
    warning = f"\n({SELECTED_ON_TEST})" if selected_on_test else ""
    write_atomically(folder / "predictions.csv", predictions.to_csv(), errors="surrogateescape")
    heading = f"{title}\n{split} accuracy {describe_accuracy(metrics, split)}{warning}"
    draw_confusion(confusion_matrix(predictions), predictions.class_names, folder / "confusion.png", heading)
    heading = f"{title}\n{split}: calibration error {describe(metrics[f'{split}/ece'])}"
    draw_charts([reliability_chart(predictions, Texts("en"))], folder / "reliability.png", heading)
    # Last, so that a run that has its numbers has all the rest.
    content = {name: number.to_dict() for name, number in metrics.items()}
    write_atomically(folder / "metrics.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return metrics
