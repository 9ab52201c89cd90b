"""The pictures of a run, drawn without a display.

Each function returns the figure, and writes it as a PNG where `output` names a file.
"""

import csv
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager, get_cachedir, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from imgbench.evaluation.calibration import ReliabilityBin
from imgbench.number import Number

log = logging.getLogger(__name__)

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#777777"
# Fonts with Chinese, Japanese and Korean characters, in the order of preference.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Noto Sans CJK JP",  # all that matplotlib before 3.11 sees of a file with the Japanese and the Chinese forms
)
MISSING_GLYPH = r"Glyph \d+ .*missing from"


@contextmanager
def _names_as_they_are() -> Iterator[None]:
    """Texts made inside use a Chinese font where there is one, and a `$` in a class name does not begin a formula."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
    with rc_context({"font.family": fonts, "text.parse_math": False}):
        yield


@cache
def _explain_boxes() -> None:
    log.warning(
        "Some names are drawn as boxes, because no installed font has their characters. For Chinese install Noto Sans "
        "CJK (apt install fonts-noto-cjk), and delete %s, which lists the fonts of before.",
        Path(get_cachedir()) / "fontlist-*.json",
    )


def _save(figure: Figure, output: Path | None) -> Figure:
    if output is None:
        return figure
    with warnings.catch_warnings(record=True) as caught:  # matplotlib warns of every character
        warnings.filterwarnings("always", MISSING_GLYPH, UserWarning)
        figure.savefig(output, dpi=120)
    for warning in caught:
        if re.match(MISSING_GLYPH, str(warning.message)):
            _explain_boxes()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _wrapped(text: str, inches: float, fontsize: float) -> str:
    """The text in lines that fit; the average letter is 0.6 of its size wide."""
    letters = int(inches * 72 / (0.6 * fontsize))
    return "\n".join(textwrap.fill(line, letters) for line in text.splitlines())


@_names_as_they_are()
def draw_curves(metrics_csv: Path, output: Path | None, title: str, best_epoch: int | None) -> Figure | None:
    """Loss, accuracy and learning rate by epoch, the best, whose weights were kept, marked.

    None before the first epoch's end.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None
    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = (("loss", ("train/loss", "val/loss")), ("accuracy", ("train/acc", "val/acc")), ("learning rate", ("lr",)))
    for axes, (label, names) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, color in zip(names, (BLUE, ORANGE), strict=False):
            axes.plot(epochs, column(name), color=color, marker="o", markersize=3, label=name)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[-1].set_ylim(bottom=0)  # else the axis of a constant rate shows a sliver around it
    return _save(figure, output)


@_names_as_they_are()
def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], output: Path | None, title: str) -> Figure:
    """Row-normalised colours; counts are written in up to 20 classes."""
    k = len(class_names)
    side = min(max(4.0, 2.2 + 0.55 * k), 16.0)
    figure = Figure(figsize=(max(side + 1, 6), side), layout="constrained")
    figure.suptitle(_wrapped(title, figure.get_figwidth(), 10), fontsize=10)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    size = min(9, max(2, 650 / k))
    names = [_shortened(name) for name in class_names]
    axes.set_xticks(range(k), names, rotation=45 if k <= 20 else 90, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(k), names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    if k <= 20:
        for i, j in np.ndindex(k, k):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=size, color=color)
    return _save(figure, output)


@_names_as_they_are()
def draw_reliability(bins: Sequence[ReliabilityBin], output: Path | None, title: str) -> Figure:
    """Accuracy against confidence, above the number of images; on the diagonal a probability can be believed."""
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    figure.suptitle(_wrapped(title, figure.get_figwidth(), 10), fontsize=10)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, numbers = [bin.confidence for bin in bins], [bin.accuracy for bin in bins]
    accuracy = [number.value for number in numbers]
    errors = [[number.value - number.low for number in numbers], [number.high - number.value for number in numbers]]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    upper.errorbar(confidence, accuracy, errors, color=BLUE, fmt="o-", capsize=2, label="accuracy, 95 % interval")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    upper.legend(fontsize=8, loc="upper left")
    lower.bar(confidence, [number.n for number in numbers], width=0.03, color=BLUE)
    lower.set(xlabel="confidence: the highest probability", ylabel="images")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return _save(figure, output)


@_names_as_they_are()
def draw_grid(images: np.ndarray, names: Sequence[str], output: Path | None, title: str) -> Figure:
    """Up to 20 images (N, H, W, 3) in 0 to 1 with their class names."""
    columns = 5
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2.25 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, name in zip(figure.axes, images, names, strict=False):
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axes.set_title(_shortened(name), fontsize=9)
    return _save(figure, output)


@_names_as_they_are()
def draw_pairs(pairs: np.ndarray, titles: Sequence[str], output: Path | None) -> Figure:
    """Pairs of images (N, 2, H, W, 3) uint8, side by side, each under its title."""
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.3 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, pair, title in zip(figure.axes, pairs, titles, strict=False):
        gap = np.full((pair.shape[1], max(1, pair.shape[2] // 16), 3), 255, np.uint8)
        axes.imshow(np.hstack([pair[0], gap, pair[1]]))
        axes.set_title(_wrapped(title, 3.4, 8), fontsize=8)
    return _save(figure, output)


@_names_as_they_are()
def draw_prediction(image: np.ndarray, text: str, output: Path | None) -> Figure:
    """One image (H, W, 3) uint8 under its prediction."""
    height, width = image.shape[:2]
    scale = 6 / max(height, width)
    inches = max(width * scale, 3.5)
    text = _wrapped(text, inches, 11)
    lines = 1 + text.count("\n")
    figure = Figure(figsize=(inches, max(height * scale, 0.5) + 0.2 * lines + 0.2), layout="constrained")
    figure.suptitle(text, fontsize=11)
    axes = figure.subplots()
    axes.imshow(image)
    axes.axis("off")
    return _save(figure, output)


@_names_as_they_are()
def draw_probabilities(
    predictions: Sequence[Mapping[str, float]], titles: Sequence[str], output: Path | None, most: int = 10
) -> Figure:
    """For each image the probabilities of its `most` likely classes as bars; the prediction is the one in orange."""
    columns = min(len(predictions), 3)
    rows = -(-len(predictions) // columns)
    height = 0.9 + 0.22 * min(most, max(map(len, predictions)))
    figure = Figure(figsize=(4 * columns, height * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat[len(predictions) :]:
        axes.axis("off")
    for axes, prediction, title in zip(figure.axes, predictions, titles, strict=False):
        ranked = sorted(prediction.items(), key=lambda item: -item[1])[:most]
        colors = [ORANGE, *[BLUE] * (len(ranked) - 1)]
        axes.barh(range(len(ranked)), [probability for _, probability in ranked], color=colors)
        axes.set_yticks(range(len(ranked)), [_shortened(name) for name, _ in ranked], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="probability")
        axes.set_title(_wrapped(title, 3, 9), fontsize=9)
    return _save(figure, output)


@_names_as_they_are()
def draw_bars(values: Mapping[str, float], output: Path | None, unit: str) -> Figure:
    """One bar for each value, the first in orange."""
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(values)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(values), list(values.values()), color=[ORANGE, *[BLUE] * (len(values) - 1)])
    axes.bar_label(bars, fmt="{:.3g}", padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set(xlabel=unit)
    return _save(figure, output)


def draw_pareto(
    points: Mapping[str, tuple[float, float, Number]], labels: tuple[str, str], output: Path | None
) -> Figure:
    """Accuracy with its interval against two costs on logarithmic axes; the points are numbered, a legend names them.

    `points` are the two costs and the accuracy of each name. Orange: nothing else is at least as cheap and as accurate.
    """
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    for axis, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        places = {name: (point[0] if axis == 0 else point[1], point[2].value) for name, point in points.items()}
        for number, (name, (cost, share)) in enumerate(places.items(), 1):
            beaten = any(x <= cost and y >= share and (x, y) != (cost, share) for x, y in places.values())
            accuracy, value = points[name][2], 100 * share
            error = [[value - 100 * accuracy.low], [100 * accuracy.high - value]]
            color = BLUE if beaten else ORANGE
            axes.errorbar(cost, value, error, color=color, capsize=2, elinewidth=0.8, alpha=0.5)
            axes.plot(cost, value, "o", color=color, markersize=13, label=f"{number}  {name}")
            axes.annotate(str(number), (cost, value), color="white", fontsize=8, ha="center", va="center")
        axes.set(xscale="log", xlabel=labels[axis], ylabel="test accuracy, %" if axis == 0 else None)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside right upper",
        frameon=False,
        markerscale=0,
        handlelength=0,
    )
    return _save(figure, output)
