"""`report.html`: one self-contained page that says how good a run's model is, why, and what to do next.

It knows numbers and pictures only; what has to be asked of a model or of files, `imgbench.report.content` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imgbench.content_policy import DOCUMENT
from imgbench.evaluation.metrics import confusion_matrix, describe
from imgbench.evaluation.photographs import as_data, with_heat
from imgbench.evaluation.plots import CELLS, Chart, as_svg, draw_charts, draw_confusion
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import Selection, fewest_images
from imgbench.evaluation.subgroups import Subgroups
from imgbench.inspection.labels import Suspect
from imgbench.language import probability
from imgbench.number import Number, group_codes, share
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, learning_curve_chart, reliability_chart, unsure_chart
from imgbench.report.mistakes import ConfusedPair, confident_mistakes, confused_pairs, least_sure

MISTAKES, PAIRS, OF_PAIR, LEAST_SURE, SUSPECTS = 12, 5, 4, 6, 12  # how many are shown
CLASSES = 30  # of more, only the weakest are shown at once
ADVICE = 7


@dataclass(frozen=True)
class Advice:
    """One thing to do next: why, and the command that does it."""

    text: str
    command: str = ""
    severity: Literal["error", "warning", "note"] = "note"
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Neighbour:
    """A training image that the network finds like another."""

    label: str
    similarity: float  # 1 is the same
    image: np.ndarray  # (H, W, 3) uint8


@dataclass(frozen=True)
class SmallModel:
    """A smaller model of a study, measured as an ONNX file."""

    name: str
    size_mb: float
    latency_ms: float  # of one photograph, on one thread of the processor
    accuracy: Number  # on the test images
    difference: Number  # to the model of the page, on the same images
    val_drop: float  # points of validation accuracy that it lost
    taken: bool


@dataclass(frozen=True)
class ComparedNetwork:
    """A network that was trained on the same images, for validation images to say which is the best."""

    name: str
    accuracy: Number | None  # on the validation images; None where there was no time to train it
    multiply_adds: int  # for one image
    seconds: float
    taken: bool

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ComparedNetwork":
        """Reads an entry of `compared` in `run.json`; what this version does not know of it is passed over."""
        accuracy = content["accuracy"] and Number.from_dict(content["accuracy"])
        return cls(content["name"], accuracy, content["multiply_adds"], content["seconds"], content["taken"])


@dataclass(frozen=True)
class ShownRows:
    """The rows of predictions that a page shows."""

    mistakes: np.ndarray
    pairs: list[ConfusedPair]
    least_sure: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions) -> "ShownRows":
        mistakes = confident_mistakes(predictions, MISTAKES)
        room = max(0, LEAST_SURE - len(mistakes))  # where there are few mistakes, there is something to look at too
        return cls(mistakes, confused_pairs(predictions, PAIRS), least_sure(predictions, room))

    @property
    def all(self) -> np.ndarray:
        of_pairs = [pair.rows[:OF_PAIR] for pair in self.pairs]
        return np.unique(np.concatenate([self.mistakes, self.least_sure, *of_pairs]).astype(np.int64))


@dataclass
class Report:
    """What the page says; row numbers are those of `predictions`.

    Args:
        training_images: (num_classes,) how many of each class it learned from.
        images: row -> (H, W, 3) uint8; None where photographs are kept out of the page.
        heat: row -> (h, w), how much each place speaks for the answer; empty where that is no better than chance.
        heat_gain: by how much more the answer's probability depends on these places than on random ones.
        neighbours: mistake -> the training images most like it.
        sampled: how many training images the neighbours were looked for among, if not all.
        label_suspects: with their pictures (H, W, 3) uint8, if these are shown; None where there are none, and the
            model is not good enough to doubt a label by.
        labels: how many are suspect in all.
        selections: what can be promised at which error; empty where nothing was asked.
        epochs: the rows of metrics.csv.
        small_models: those that a study made of it, itself first; empty where the run is of none.
        target: what a small model has to meet, as the study was asked.
        compared: the networks it was compared with, itself among them; empty where it was named.
        learning_curve: training images, and the accuracy on the test images; the last is the run itself.
        gain: the difference between the last two.
        facts: of the training, under the names of the catalogue without `fact_`.
        commands: name of the catalogue -> a command line.
    """

    title: str
    predictions: Predictions
    metrics: dict[str, Number]
    training_images: np.ndarray
    verdict: tuple[str, str] = ("none", "")
    selected_on_test: bool = False
    beside: Sequence[str] = ()  # what to hold the accuracy against
    notes: Sequence[str] = ()
    advice: Sequence[Advice] = ()
    images: Mapping[int, np.ndarray] | None = None
    heat: Mapping[int, np.ndarray] = field(default_factory=dict)
    heat_gain: Number | None = None
    neighbours: Mapping[int, Sequence[Neighbour]] = field(default_factory=dict)
    sampled: int | None = None
    label_suspects: Sequence[tuple[Suspect, np.ndarray | None]] | None = ()
    labels: int = 0
    selections: Sequence[Selection] = ()
    epochs: Sequence[Mapping[str, str]] = ()
    best_epoch: int | None = None
    subgroups: Sequence[Subgroups] = ()
    small_models: Sequence[SmallModel] = ()
    target: str = ""
    compared: Sequence[ComparedNetwork] = ()
    learning_curve: Sequence[tuple[int, Number]] = ()
    gain: Number | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    augmented: str | None = None  # training images as the network saw them, as the address of a picture
    model: str | None = None  # the table of its layers


def report_page(report: Report, language: str) -> str:
    """The page as HTML."""
    templates = templates_of("imgbench.report")
    texts, predictions = Texts(language), report.predictions
    rows = ShownRows.of(predictions)
    ordered = _classes(report)
    weakest = len(ordered) if len(ordered) <= CLASSES else CLASSES
    curve = report.learning_curve
    curves = curve_charts(report.epochs, report.best_epoch, texts) if len(report.epochs) > 1 else []
    return templates.get_template("report.html.jinja").render(
        report=report,
        t=texts,
        answer=_answer(report, texts),
        classes=ordered[:weakest],
        further_classes=ordered[weakest:],
        confusion=_confusion(predictions, texts),
        few_classes=len(predictions.class_names) <= CELLS,
        mistakes=[_photograph(report, row) for row in rows.mistakes],
        least_sure=[_photograph(report, row) for row in rows.least_sure],
        gain=report.heat_gain and _points(report.heat_gain),
        wrong=int((predictions.predicted != predictions.targets).sum()),
        pairs=[
            {
                "true": predictions.class_names[pair.true],
                "predicted": predictions.class_names[pair.predicted],
                "n": pair.count,
                "all": int((predictions.targets == pair.true).sum()),
                "photographs": [_photograph(report, row) for row in pair.rows[:OF_PAIR]],
            }
            for pair in rows.pairs
        ],
        calibration=_calibration(report, texts),
        calibration_chart=_chart(reliability_chart(predictions, texts)),
        unsure_chart=_chart(unsure_chart(predictions, texts)),
        promises=[_promise(selection, texts) for selection in report.selections],
        curves=[_chart(one) for one in curves],
        learning_curve=_chart(learning_curve_chart(curve, texts)) if len(curve) > 1 else None,
        learning_curve_note=_learning_curve_note(report, texts),
        overall={name: number for name, number in report.metrics.items() if name.count("/") == 1},
        advice=report.advice[:ADVICE],
        further_advice=report.advice[ADVICE:],
    )


def _points(number: Number) -> dict[str, str]:
    """Percentage points with their interval, for a text."""
    value, low, high = (f"{100 * each:.2g}" for each in (number.value, number.low, number.high))
    return {"value": value, "low": low, "high": high, "n": str(number.n)}


@cache  # compiling a template takes longer than filling it in
def templates_of(package: str) -> Environment:
    """The templates of pages in a package, with the filters that they share; the same ones each time."""
    templates = Environment(
        # The parts and the style of the report, and the list of labels of the audit.
        loader=ChoiceLoader([PackageLoader(one) for one in (package, "imgbench.report", "imgbench.inspection")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["policy"] = Markup(DOCUMENT)  # its quotation marks are single
    templates.filters |= {"percent": percent, "probability": probability, "describe": describe, "data": as_data}
    return templates


def percent(value: float, digits: int = 1) -> str:
    """97.3 %, and 100 % without digits; a line does not end before the sign."""
    text = f"{100 * value:.{digits}f}"
    return f"{'100' if text == f'{100:.{digits}f}' else text}\N{NO-BREAK SPACE}%"


def _interval(number: Number) -> tuple[str, str]:
    """Its ends in per cent, no finer than the images allow."""
    digits = 0 if number.groups < 1000 else 1
    return f"{100 * number.low:.{digits}f}", percent(number.high, digits)


def _answer(report: Report, texts: Texts) -> list[str]:
    """The first sentence, and what has to be said beside it."""

    def sentence(key: str, number: Number) -> str:
        low, high = _interval(number)
        return texts(key, n=number.n, hits=number.hits, value=percent(number.value), low=low, high=high)

    accuracy, majority = report.metrics["test/acc"], report.metrics["test/majority"]
    said = [sentence("answer_selected" if report.selected_on_test else "answer", accuracy)]
    if accuracy.groups < accuracy.n:
        said.append(texts("groups", n=accuracy.groups))
    if "test_unrelated/acc" in report.metrics:
        said.append(sentence("unrelated", report.metrics["test_unrelated/acc"]))
    return [*said, texts("majority", name=majority.of_class, value=percent(majority.value)), *report.beside]


def _classes(report: Report) -> list[dict[str, Any]]:
    """A row for each class, the least recognised first; those without test images last."""
    predictions, metrics = report.predictions, report.metrics
    confusion = confusion_matrix(predictions)
    wrongly = confusion * (1 - np.eye(len(confusion), dtype=int))
    rows = []
    for i, name in enumerate(predictions.class_names):
        other = int(wrongly[i].argmax())
        rows.append(
            {
                "number": i + 1,
                "name": name,
                "train": int(report.training_images[i]),
                "recall": metrics[f"test/recall/{name}"],
                "precision": metrics[f"test/precision/{name}"],
                "taken_for": (predictions.class_names[other], int(wrongly[i, other])) if wrongly[i, other] else None,
            }
        )
    return sorted(rows, key=lambda row: (not row["recall"].n, row["recall"].value))


def _chart(chart: Chart) -> Markup:
    return Markup(as_svg(draw_charts([chart], None), chart.title))


def _confusion(predictions: Predictions, texts: Texts) -> Markup:
    labels = texts("true_class"), texts("predicted_class")
    figure = draw_confusion(confusion_matrix(predictions), predictions.class_names, None, labels=labels)
    return Markup(as_svg(figure, texts("confusion")))


def _photograph(report: Report, row: int) -> dict[str, Any]:
    """What a card shows of a test image."""
    predictions, row = report.predictions, int(row)
    probabilities = predictions.probabilities[row]
    names, target = predictions.class_names, int(predictions.targets[row])
    likeliest = [int(i) for i in np.argsort(-probabilities, kind="stable")[:2]]
    if target not in likeliest:  # how far the truth is off
        likeliest[-1] = target
    image = None if report.images is None else report.images[row]
    heat = report.heat.get(row)
    return {
        "path": predictions.paths[row],
        "target": names[target],
        "predicted": names[likeliest[0]],
        "answers": [(names[i], float(probabilities[i])) for i in likeliest],
        "image": image,
        "heat": None if heat is None or image is None else with_heat(image, heat),
        "neighbours": report.neighbours.get(row, ()),
    }


def _calibration(report: Report, texts: Texts) -> list[str]:
    predictions, metrics = report.predictions, report.metrics
    confidence = float(predictions.probabilities.max(1).mean())
    accuracy, error = metrics["test/acc"], metrics["test/ece"]
    chance = error.if_calibrated or 0
    judgement = "uneven" if error.low > chance else "no_difference"
    if not accuracy.low <= confidence <= accuracy.high:
        judgement = "not_sure_enough" if confidence < accuracy.low else "too_sure"
    low, high = _interval(error)
    width = f"{50 * (accuracy.high - accuracy.low):.0f}"
    said = [
        texts(judgement, confidence=percent(confidence), accuracy=percent(accuracy.value), width=width),
        texts(
            "calibration_error",
            value=percent(error.value),
            low=low,
            high=high,
            chance=percent(chance),
        ),
    ]
    if "val/temperature" in metrics and "test/ece_scaled" in metrics:
        value, scaled = metrics["val/temperature"].value, metrics["test/ece_scaled"].value
        said.append(texts("temperature", value=f"{value:.2f}", scaled=percent(scaled)))
    return said


def _promise(selection: Selection, texts: Texts) -> tuple[str, str]:
    """The error, and what has to be left unsure for it, or why it cannot be promised."""
    error = percent(selection.max_error, 0)
    if selection.threshold is not None:
        coverage = selection.coverage
        left = percent(1 - coverage.value)
        low, high = f"{100 * (1 - coverage.high):.0f}", percent(1 - coverage.low, 0)
        return error, texts("promise", value=left, low=low, high=high)
    if selection.refuted:
        errors, accepted = selection.refuted
        return error, texts("promise_refuted", accepted=accepted, errors=errors)
    needed = fewest_images(selection.max_error)
    if selection.images < needed:
        return error, texts("few_validation", needed=needed, n=selection.images)
    return error, texts("many_errors", surest=selection.surest, errors=selection.errors)


def _learning_curve_note(report: Report, texts: Texts) -> str:
    if report.gain is None:
        return ""
    value, low, high = (f"{100 * end:+.1f}" for end in (report.gain.value, report.gain.low, report.gain.high))
    half, everything = (number for number, _ in report.learning_curve[-2:])
    key = "curve_helps" if report.gain.low > 0 else "curve_unclear"
    return texts(key, half=half, all=everything, gain=value, low=low, high=high)


def promised(selections: Sequence[Selection]) -> Selection | None:
    """The one of the smallest error that can be promised without leaving most unsure."""
    kept = [found for found in selections if found.threshold is not None and found.coverage.value >= 0.5]
    return min(kept, key=lambda found: found.max_error, default=None)


def weakest_class(predictions: Predictions) -> tuple[int, Number] | None:
    """The class with the lowest recall, if it is one that needs help; and its recall."""
    codes = group_codes(predictions.groups)
    right = predictions.predicted == predictions.targets
    shares = {
        label: share(right, predictions.targets == label, codes) for label in np.unique(predictions.targets).tolist()
    }
    label = min(shares, key=lambda one: shares[one].value)
    found = shares[label]
    one_slip = found.n - (found.hits or 0) < 2  # which may be anything
    return None if one_slip or found.value >= right.mean() else (label, found)
