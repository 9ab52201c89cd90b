"""The pictures of a run, drawn without a display.

Each function returns the figure, and writes it where `output` names a file: as what its ending says, or without one as
PDF and SVG for a paper. `as_svg` puts it into a page.
"""

import io
import re
import textwrap
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from imgbench.evaluation.figure_style import (
    COLOURS,
    COLUMN,
    MARKERS,
    MISSING_GLYPH,
    names_as_they_are,
    paper_figure,
    paper_style,
    save_figure,
    save_vector,
)
from imgbench.number import Number

BLUE, ORANGE, TEXT, GREY, LIGHT = "#2166ac", "#c8553d", "#1c2128", "#5b6470", "#dfe3e8"
# In a page each is a colour of its style sheet, which has another for dark screens.
VARIABLES = {BLUE: "--a", ORANGE: "--b", TEXT: "--text", GREY: "--faint", LIGHT: "--line"}
VARIABLES |= {COLOURS[0].lower(): "--a", COLOURS[1].lower(): "--b", "#000000": "--text", "#d0d0d0": "--line"}
WIDTH, HEIGHT, COUNTS = 400, 215, 76  # of a chart and of the bars below it, in points; about as wide as a phone
CELLS = 20  # up to so many classes, every count is written
NAMED = 100  # up to so many, every class is named


def _save(figure: Figure, output: Path | None) -> Figure:
    if output is not None and output.suffix:
        save_figure(figure, output, dpi=120)
    elif output is not None:
        save_vector(figure, output)
    return figure


def as_svg(figure: Figure, title: str, enlarged: float = 1.08) -> str:
    """The figure as an element of a page: as wide as there is room, with the page's fonts and colours.

    It becomes no more than so many times as large as it is printed.

    Text stays text. The same figure makes the same element; it has no identifier that another could have with
    another meaning.
    """
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "imgbench"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING_GLYPH, UserWarning)  # the reader's fonts may have them
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    # The metadata name the web, a style would be one of the whole page, and nothing is outside its axes.
    unwanted = {"metadata", "style", "clipPath"}
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.rpartition("}")[2] in unwanted]:
            parent.remove(child)
    used = set(re.findall(r'href="#(\w+)"', file.getvalue()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        attributes.pop("clip-path", None)
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        if element.tag == "text" and attributes.get("transform", "").startswith("rotate(-0 "):
            del attributes["transform"]
        for name in attributes.keys() & {"d", "x", "y", "style"}:
            value = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), attributes[name])
            attributes[name] = " ".join(value.split())
        if style := attributes.get("style"):
            style = re.sub(r" ?font-family: [^;]*;", "", style)
            attributes["style"] = re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", style)
        element.attrib.clear()
        element.attrib.update(attributes)
    width = figure.get_figwidth() * 72
    root.attrib.clear()
    root.attrib.update({
        "viewBox": f"0 0 {width:g} {figure.get_figheight() * 72:g}",
        "style": f"max-width:{enlarged * width:.0f}px;fill:currentColor",  # of texts that are black
        "role": "img",
        "aria-label": title,
    })  # fmt: skip
    return ElementTree.tostring(root, encoding="unicode")


def shortened(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return name if len(name) <= 24 else name[:23] + "…"


def _wrapped(text: str, inches: float, fontsize: float) -> str:
    """The text in lines that fit; the average letter is 0.6 of its size wide."""
    letters = int(inches * 72 / (0.6 * fontsize))
    return "\n".join(textwrap.fill(line, letters) for line in text.splitlines())


@dataclass(frozen=True)
class Line:
    """Points (x, y), those left out that are not finite, and the intervals `low` to `high` around them if there are."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: bool = False  # mark the points


@dataclass(frozen=True)
class Chart:
    """Lines on one pair of axes.

    Args:
        x_range, y_range: the ends of the axes; None takes those of the points.
        guides: dotted lines to compare with, such as the diagonal.
        mark: an x that a dotted vertical line marks, and its name.
        counts: for each x a number of things, drawn as bars below; with the label of their axis.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    guides: Sequence[Line] = ()
    mark: tuple[float, str] | None = None
    counts: tuple[Sequence[float], Sequence[int], str] | None = None


@names_as_they_are()
def draw_charts(charts: Sequence[Chart], output: Path | None, title: str = "") -> Figure:
    """Charts side by side."""
    title = _wrapped(title, WIDTH * len(charts) / 72, 12)
    foot = 62 if any(len(chart.lines) + len(chart.guides) + bool(chart.mark) > 1 for chart in charts) else 42
    floor = foot + (COUNTS if any(chart.counts for chart in charts) else 0)
    canvas = _Canvas(WIDTH * len(charts), floor + HEIGHT, title)
    for i, chart in enumerate(charts):
        left, right = WIDTH * i + 48, WIDTH * (i + 1) - 14
        axes = canvas.axes(left, floor, right, floor + HEIGHT - 30)
        for line, color in zip(chart.lines, (BLUE, ORANGE), strict=False):
            x, y = np.asarray(line.x, float), np.asarray(line.y, float)
            finite = np.isfinite(x) & np.isfinite(y)
            if len(line.low):
                axes.vlines(x, line.low, line.high, color=color, linewidth=1.5)
            marker = "o" if line.dots or finite.sum() == 1 else ""
            axes.plot(x[finite], y[finite], color=color, marker=marker, markersize=6, linewidth=2, label=line.name,
                      clip_on=False)  # fmt: skip
        for line in chart.guides:
            axes.plot(line.x, line.y, color=GREY, linestyle=":", label=line.name)
        if chart.mark:
            axes.axvline(chart.mark[0], color=GREY, linestyle=":", label=chart.mark[1])
        axes.margins(0)
        axes.set(xlim=chart.x_range, ylim=chart.y_range)
        _plain(axes, chart.y_label, 5)
        lowest = axes
        if chart.counts:
            x, heights, label = chart.counts
            axes.tick_params(labelbottom=False)
            lowest = canvas.axes(left, foot, right, foot + COUNTS - 34)
            lowest.bar(x, heights, width=0.03 * np.diff(axes.get_xlim())[0], color=BLUE)
            lowest.set_xlim(axes.get_xlim())
            _plain(lowest, label, 2)
        lowest.set_xlabel(chart.x_label, fontsize=12, color=GREY)
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1:
            options = {"fontsize": 12, "frameon": False, "labelcolor": GREY, "handlelength": 1.5, "columnspacing": 1.2}
            place = {"loc": "lower left", "bbox_to_anchor": (WIDTH * i / canvas.width, 0), "borderaxespad": 0.1}
            canvas.figure.legend(handles, names, ncols=len(names), **place, **options)
    return _save(canvas.figure, output)


class _Canvas:
    """A figure in which everything has its place in points from the lower left corner, under a title."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height + 18 * len(title.splitlines())
        self.figure = Figure(figsize=(width / 72, self.height / 72))
        if title:
            self.figure.text(0.5, 1 - 5 / self.height, title, fontsize=11, color=TEXT, ha="center", va="top")

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        width, height = self.width, self.height
        return self.figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))


def _plain(axes: Axes, label: str, ticks: int) -> None:
    """No box, but horizontal lines under the data, and the label of the vertical axis above it."""
    axes.annotate(label, (0, 1), (-44, 10), "axes fraction", "offset points", fontsize=12, color=GREY)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(bottom=False, left=False, labelsize=12, labelcolor=GREY)
    axes.grid(axis="y", color=LIGHT, linewidth=1)
    axes.set_axisbelow(True)
    low, high = axes.get_xlim()
    steps = [1, 2, 2.5, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=steps, integer=high - low >= 1))
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=steps))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")


@names_as_they_are()
def draw_confusion(
    confusion: np.ndarray,
    class_names: Sequence[str],
    output: Path | None,
    title: str = "",
    labels: tuple[str, str] = ("true", "predicted"),
) -> Figure:
    """A row for each true class; the larger its share, the deeper a cell's colour; up to 20 classes have numbers."""
    k = len(class_names)
    depth = np.sqrt(confusion / np.maximum(confusion.sum(1, keepdims=True), 1))  # the root shows rare mistakes
    names = [shortened(name) for name in class_names] if k <= NAMED else []
    cell = 30.0 if k <= 8 else 22.0 if k <= CELLS else max(900 / k, 7.5)
    size = min(11.0, 0.8 * cell)
    longest = size * max(map(_letters, names), default=0)
    beside, below = 30 + longest, 45 if longest < cell else 40 + 0.75 * longest
    side = cell * k if k <= NAMED else 600.0
    width = max(beside + side + 10, 300.0)
    title = _wrapped(title, width / 72, 12)
    canvas = _Canvas(width, below + side + 10, title)
    axes = canvas.axes(beside, below, beside + side, below + side)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set_color(LIGHT)
    axes.tick_params(bottom=False, left=False, labelcolor=GREY)
    axes.set_xlabel(labels[1], fontsize=12, color=GREY)
    axes.set_ylabel(labels[0], fontsize=12, color=GREY)
    if names:
        turned = {"rotation": 45 if k <= CELLS else 90, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(k), names, fontsize=size, **({} if longest < cell else turned))
        axes.set_yticks(range(k), names, fontsize=size)
    if k <= CELLS:
        for i, j in np.argwhere(confusion):
            corner, color = (j - 0.5, i - 0.5), BLUE if i == j else ORANGE
            axes.add_patch(Rectangle(corner, 1, 1, color=color, alpha=0.7 * depth[i, j], linewidth=0))
        for i, j in np.ndindex(k, k):
            color = TEXT if confusion[i, j] else GREY
            axes.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=size, color=color)
    else:
        colors = np.where(np.eye(k, dtype=bool)[..., None], to_rgba(BLUE), to_rgba(ORANGE))
        colors[..., 3] = depth
        axes.imshow(colors, interpolation="none", aspect="auto")
    return _save(canvas.figure, output)


def _letters(text: str) -> float:
    """The width of a text, in sizes of its font."""
    return sum(1.0 if ord(letter) > 0x2E80 else 0.62 for letter in text)


@names_as_they_are()
def draw_grid(images: np.ndarray, names: Sequence[str], output: Path | None, title: str) -> Figure:
    """Up to 20 images (N, H, W, 3) in 0 to 1 with their class names."""
    columns, side, step = 5, 136, 162  # in points
    width, height = 144 * columns, step * -(-len(images) // columns)
    canvas = _Canvas(width, height, title)
    axes = canvas.axes(0, 0, width, height)  # one for all: each further one takes twenty milliseconds
    axes.axis("off")
    for i, (image, name) in enumerate(zip(images, names, strict=False)):
        middle, top = 144 * (i % columns + 0.5), height - step * (i // columns) - 22
        scale = side / max(image.shape[:2])
        extent = (middle - scale * image.shape[1] / 2, middle + scale * image.shape[1] / 2,
                  top - scale * image.shape[0], top)  # fmt: skip
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest", extent=extent)
        axes.text(middle, top + 5, shortened(name), fontsize=9, ha="center")
    axes.set(xlim=(0, width), ylim=(0, height))
    return _save(canvas.figure, output)


@names_as_they_are()
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


@names_as_they_are()
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


@names_as_they_are()
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
        axes.set_yticks(range(len(ranked)), [shortened(name) for name, _ in ranked], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="probability")
        axes.set_title(_wrapped(title, 3, 9), fontsize=9)
    return _save(figure, output)


@names_as_they_are()
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


@paper_style()
def draw_pareto(
    points: Mapping[str, tuple[Any, ...]], labels: Sequence[str], output: Path | None, y_label: str = "test accuracy, %"
) -> Figure:
    """Accuracy with its interval against costs; the points are numbered, a legend names them.

    The axes of costs are logarithmic, unless the largest is less than twice the smallest.

    `points` are the costs, for each of which there is a label, and the accuracy of each name, a Number. Orange squares:
    nothing else is at least as cheap and as accurate.
    """
    names = [textwrap.fill(f"{number}  {name}", 50 * len(labels)) for number, name in enumerate(points, 1)]
    figure = paper_figure(COLUMN * len(labels), 55 + 3.2 * sum(name.count("\n") + 1 for name in names))
    for axis, axes in enumerate(figure.subplots(1, len(labels), sharey=True, squeeze=False)[0]):
        places = [(point[axis], point[-1]) for point in points.values()]
        for number, (name, (cost, accuracy)) in enumerate(zip(names, places, strict=True), 1):
            beaten = any(
                x <= cost and y.value >= accuracy.value and (x, y.value) != (cost, accuracy.value) for x, y in places
            )
            value, style = 100 * accuracy.value, 0 if beaten else 1
            error = [[value - 100 * accuracy.low], [100 * accuracy.high - value]]
            axes.errorbar(cost, value, error, color=COLOURS[style], alpha=0.6, elinewidth=0.8)
            axes.plot(cost, value, MARKERS[style], color=COLOURS[style], markersize=9, label=name)
            axes.annotate(str(number), (cost, value), color="white", fontsize=6.5, ha="center", va="center")
        axes.set(xlabel=labels[axis], ylabel=y_label if axis == 0 else None)
        costs = [cost for cost, _ in places]
        if max(costs) < 2 * min(costs):  # too near for a logarithmic axis to have a number on it
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        else:
            axes.set(xscale="log")
            near = max(costs) < 5 * min(costs)  # where round numbers are rare
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if near else (1, 2, 5)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.12)
        axes.grid()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower left", markerscale=0, handlelength=0)
    return _save(figure, output)


@paper_style()
def draw_intervals(numbers: Mapping[str, tuple[Number, Sequence[float]]], label: str, output: Path | None) -> Figure:
    """A number of each name with its interval, the first on top; hollow grey points are single runs, if several."""
    names = [textwrap.fill(name, 26) for name in numbers]
    figure = paper_figure(COLUMN, 16 + sum(5 + 3 * name.count("\n") for name in names))
    axes = figure.subplots()
    scale = 100 if all(number.percent for number, _ in numbers.values()) else 1
    for row, (number, runs) in enumerate(numbers.values()):
        value, low, high = (scale * each for each in (number.value, number.low, number.high))
        if len(runs) > 1:
            axes.plot([scale * run for run in runs], [row + 0.25] * len(runs), "o", color="#5b6470", markersize=3,
                      markerfacecolor="none", markeredgewidth=0.6)  # fmt: skip
        axes.errorbar(value, row, xerr=[[value - low], [high - value]], color=COLOURS[0], marker=MARKERS[0])
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axes.grid(axis="x")
    return _save(figure, output)
