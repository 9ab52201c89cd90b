"""The pictures of a run for a paper: the charts of its report, without titles, as vector files in `figure_style`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from imgbench.evaluation.figure_style import COLOURS, COLUMN, MARKERS, PAGE, paper_figure, paper_style, save_vector
from imgbench.evaluation.plots import CELLS, NAMED, Chart, shortened
from imgbench.number import Number

WIDTHS = (COLUMN, PAGE)  # of each figure, in the names of its files
DASHES = ("-", "--")  # for whoever prints in grey
SMALLEST = 5  # points of a letter; a matrix whose numbers would be smaller has none


def stem_of(folder: Path, name: str, width: int) -> Path:
    return folder / f"{name}-{width}mm"


def charts_of_paper(charts: Sequence[Chart], folder: Path, name: str) -> None:
    """Charts beside each other on a page's width, and below each other on a column's."""
    for width in WIDTHS:
        columns = 1 if width == COLUMN else len(charts)
        rows = -(-len(charts) // columns)
        height = 62 if any(chart.counts for chart in charts) else 52
        with paper_style():
            figure = paper_figure(width, rows * height)
            parts = figure.subfigures(rows, columns, squeeze=False).ravel()
            for part, chart in zip(parts, charts, strict=True):
                if chart.counts is None:
                    _draw(part.subplots(), chart)
                    continue
                upper, lower = part.subplots(2, 1, sharex=True, height_ratios=(3, 1))
                _draw(upper, chart)
                upper.set_xlabel("")
                x, heights, label = chart.counts
                lower.bar(x, heights, width=0.03 * np.diff(upper.get_xlim())[0], color=COLOURS[0])
                lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
                lower.set(xlabel=chart.x_label, ylabel=label)
            save_vector(figure, stem_of(folder, name, width))


def _draw(axes: Axes, chart: Chart) -> None:
    for line, color, marker, dash in zip(chart.lines, COLOURS, MARKERS, DASHES, strict=False):
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        finite = np.isfinite(x) & np.isfinite(y)
        if len(line.low):
            axes.vlines(x, line.low, line.high, color=color, linewidth=0.8)
        shown = marker if line.dots or finite.sum() <= CELLS else ""
        axes.plot(x[finite], y[finite], color=color, marker=shown, linestyle=dash, label=line.name, clip_on=False)
    for line in chart.guides:
        axes.plot(line.x, line.y, color="0.4", linestyle=":", linewidth=0.8, label=line.name)
    if chart.mark:
        axes.axvline(chart.mark[0], color="0.4", linestyle=":", linewidth=0.8, label=chart.mark[1])
    axes.margins(0.02)
    axes.set(xlim=chart.x_range, ylim=chart.y_range, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(axis="y")
    whole = float(np.diff(axes.get_xlim())[0]) >= 1
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()


def confusion_of_paper(confusion: np.ndarray, class_names: Sequence[str], folder: Path) -> None:
    """A row for each true class; the larger its share, the deeper a cell's colour."""
    k = len(class_names)
    depth = np.sqrt(confusion / np.maximum(confusion.sum(1, keepdims=True), 1))  # the root shows rare mistakes
    colors = np.where(np.eye(k, dtype=bool)[..., None], to_rgba(COLOURS[0]), to_rgba(COLOURS[1]))
    colors[..., 3] = 0.75 * depth
    names = [shortened(name) for name in class_names]
    longest = max(map(len, names))
    for width in WIDTHS:
        turned = k * longest > width / 2
        with paper_style():
            figure = paper_figure(width, min(0.9 * width, 25 + 9 * k) + (1.4 * longest if turned else 0))
            axes = figure.subplots()
            axes.imshow(colors, interpolation="none", aspect="auto")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.set(xlabel="predicted class", ylabel="true class")
            letters = min(7.0, 0.6 * width / 25.4 * 72 / max(k, 1))  # of names that stand below each other
            if k <= NAMED and letters >= SMALLEST - 1:
                axes.set_xticks(range(k), names, fontsize=letters, rotation=90 if turned else 0)
                axes.set_yticks(range(k), names, fontsize=letters)
            else:
                axes.set(xticks=[], yticks=[])
            size = min(7.0, 0.3 * width / 25.4 * 72 / k)
            if k <= CELLS and size >= SMALLEST - 2:
                for i, j in np.ndindex(k, k):
                    color = "black" if confusion[i, j] else "0.6"
                    axes.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=size, color=color)
            save_vector(figure, stem_of(folder, "confusion", width))


def intervals_of_paper(names: Sequence[str], numbers: Sequence[Number], label: str, folder: Path, name: str) -> None:
    """A row for each name, with its number in per cent and the interval; the first on top."""
    for width in WIDTHS:
        with paper_style():
            figure = paper_figure(width, 14 + 4.5 * len(names))
            axes = figure.subplots()
            for row, number in enumerate(numbers):
                if number.n:
                    axes.hlines(row, 100 * number.low, 100 * number.high, color=COLOURS[0], linewidth=0.8)
                    axes.plot(100 * number.value, row, MARKERS[0], color=COLOURS[0], clip_on=False)
            shown = [textwrap.shorten(shortened(one), 26, placeholder="…") for one in names]
            axes.set_yticks(range(len(names)), shown)
            axes.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
            axes.set_xlim(right=100)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
            save_vector(figure, stem_of(folder, name, width))
