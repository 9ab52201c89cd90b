"""What an evaluation leaves in a directory: predictions, numbers with intervals, pictures, one page."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgbench.evaluation.calibration import TemperatureScaling, fit_temperature, reliability
from imgbench.evaluation.intervals import Number
from imgbench.evaluation.metrics import classification_metrics, confusion_matrix, describe, describe_accuracy
from imgbench.evaluation.plots import draw_confusion, draw_reliability
from imgbench.evaluation.predictions import Predictions
from imgbench.run import write_atomically

SELECTED_ON_TEST = "the model was selected on its own test images: the accuracy is too good"


def measure(results: dict[str, Predictions], temperature: float | None = None) -> dict[str, Number]:
    """The numbers of all splits in `results`.

    With validation images comes the temperature fitted on them, and how well calibrated it makes the other splits;
    where there are none, `temperature` is what was fitted before.
    """
    fitted = fit_temperature(results["val"]) if "val" in results else None
    temperature = fitted["value"] if fitted else temperature
    scaling = None if temperature is None else TemperatureScaling(temperature)
    metrics: dict[str, Number] = {}
    for split, predictions in results.items():
        metrics |= classification_metrics(predictions, split, scaling if split != "val" else None)
    return metrics | ({"val/temperature": fitted} if fitted else {})


def write_results(
    folder: Path,
    title: str,
    results: dict[str, Predictions],
    selected_on_test: bool,
    temperature: float | None = None,
) -> dict[str, Number]:
    """Writes metrics.json of all splits in `results`, and predictions.csv and the pictures of the first.

    Args:
        temperature: fitted on validation images before, where they are not among the results.
    """
    metrics = measure(results, temperature)
    split, predictions = next(iter(results.items()))
    warning = f"\n({SELECTED_ON_TEST})" if selected_on_test else ""
    write_atomically(folder / "predictions.csv", predictions.to_csv(), errors="surrogateescape")
    heading = f"{title}\n{split} accuracy {describe_accuracy(metrics, split)}{warning}"
    draw_confusion(confusion_matrix(predictions), predictions.class_names, folder / "confusion.png", heading)
    heading = f"{title}\n{split}: calibration error {describe(metrics[f'{split}/ece'])}"
    draw_reliability(reliability(predictions), folder / "reliability.png", heading)
    # Last, so that a run that has its numbers has all the rest.
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


PICTURES = {
    "curves": "Learning",
    "confusion": "Which classes are confused",
    "reliability": "How far its probabilities can be believed",
    "samples": "What the network sees",
}


def write_report(
    folder: Path, title: str, metrics: dict[str, Number], selected_on_test: bool, checks: Sequence[str] = ()
) -> None:
    """`report.html`: the numbers, the pictures and the model of a run in one self-contained page.

    Args:
        checks: what else is to be known of the images, in sentences.
    """
    templates = Environment(loader=PackageLoader("imgbench.evaluation"), autoescape=True, undefined=StrictUndefined)
    templates.filters["describe"] = describe
    overall = {name: number for name, number in metrics.items() if name.count("/") == 1}
    pictures = {caption: folder / f"{name}.png" for name, caption in PICTURES.items()}
    summary = folder / "summary.txt"
    page = templates.get_template("report.html.jinja").render(
        title=title,
        checks=checks,
        notes=[SELECTED_ON_TEST] if selected_on_test else [],
        overall=overall,
        by_class={name: number for name, number in metrics.items() if name not in overall},
        pictures={
            caption: base64.b64encode(path.read_bytes()).decode() for caption, path in pictures.items() if path.exists()
        },
        model=summary.read_text("utf-8") if summary.exists() else None,
    )
    write_atomically(folder / "report.html", page)
