"""A comparison as a table in the terminal, CSV, Markdown, LaTeX and HTML, and as a picture of accuracy against cost."""

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgbench.cells import guarded
from imgbench.evaluation.plots import draw_pareto
from imgbench.files import write_atomically
from imgbench.sweep.comparison import Comparison, Configuration, Difference
from imgbench.terminal import print_table

COLUMNS = (
    "configuration",
    "runs",
    "test accuracy, %",
    "over runs",
    "over images",
    "below the best",
    "parameters",
    "multiply-adds",
    "MB",
    "ms",
    "training, s",
)
COSTS = COLUMNS.index("parameters")  # from here on the columns say what a configuration costs
PAIRS = ("configuration", "against", "points", "95 % interval", "p", "p, corrected", "found", "test")
CAPTION = (
    "Intervals are 95 %. Those over runs (seeds or folds) say how far another run may differ; those over images, how "
    "far these networks may on other images. Below the best: percentage points, with p corrected for the number of "
    "pairs (Holm)."
)
FILES = "comparison.csv, differences.csv, comparison.md, comparison.tex, comparison.html, pareto.png"


def cells(comparison: Comparison, configuration: Configuration) -> list[str]:
    """One row of the table."""
    accuracy, cost = configuration.accuracy, configuration.cost or {}
    runs = configuration.over_runs
    difference = comparison.against_best(configuration)
    return [
        configuration.name,
        str(len(configuration.runs)),
        f"{100 * accuracy.value:.2f}",
        f"{100 * runs[0]:.1f} to {100 * runs[1]:.1f}" if runs else "-",
        f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}",
        _verdict(difference) if difference else "-",
        f"{cost['parameters']:,}" if cost else "-",
        f"{cost['multiply_adds'] / 1e6:,.1f} M" if cost else "-",
        f"{cost['size_mb']:.3g}" if cost else "-",
        f"{cost['latency_ms']:.3g}" if cost else "-",
        f"{configuration.seconds:,.0f}" if configuration.seconds is not None else "-",
    ]


def _verdict(difference: Difference) -> str:
    if not difference.distinguishable:
        return f"not distinguishable (p = {difference.adjusted:.2g})"
    return f"{100 * difference.accuracy.value:.2f} (p = {difference.adjusted:.2g})"


def pair_cells(difference: Difference) -> list[str]:
    """One row of the table of differences."""
    found = "not distinguishable"
    if difference.distinguishable:
        found = "more accurate" if difference.accuracy.value > 0 else "less accurate"
    return [
        difference.first,
        difference.second,
        f"{100 * difference.accuracy.value:+.2f}",
        f"{100 * difference.accuracy.low:+.2f} to {100 * difference.accuracy.high:+.2f}",
        f"{difference.p:.2g}",
        f"{difference.adjusted:.2g}",
        found,
        difference.test,
    ]


def print_comparison(comparison: Comparison) -> None:
    """The accuracy of each configuration, what it costs, and what must be known of both."""
    rows = [cells(comparison, configuration) for configuration in comparison.configurations]
    print_table(COLUMNS[:COSTS], [row[:COSTS] for row in rows])
    notes = [CAPTION, *(f"Note: {note}." for note in comparison.notes)]
    print_table((COLUMNS[0], *COLUMNS[COSTS:]), [[row[0], *row[COSTS:]] for row in rows], notes=notes)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes the files that `FILES` names."""
    rows = [cells(comparison, configuration) for configuration in comparison.configurations]
    pairs = [pair_cells(difference) for difference in comparison.differences]
    points = {
        one.name: (one.cost["size_mb"], one.cost["latency_ms"], one.accuracy)
        for one in comparison.configurations
        if one.cost
    }
    if points:
        draw_pareto(points, ("MB", "ms for one image"), folder / "pareto.png")
    numbers = [_numbers(one) for one in comparison.configurations]
    write_atomically(folder / "comparison.csv", _csv((*NUMBERS, *COST, "seconds", "run_directories"), numbers))
    fields = ("first", "second", "value", "low", "high", "test", "p", "adjusted", "distinguishable")
    lines = [
        [one.first, one.second, one.accuracy.value, one.accuracy.low, one.accuracy.high, one.test, one.p, one.adjusted,
         one.distinguishable]
        for one in comparison.differences
    ]  # fmt: skip
    write_atomically(folder / "differences.csv", _csv(fields, lines))
    notes = "".join(f"- {note}\n" for note in comparison.notes)
    tables = [_markdown(COLUMNS, rows), *([_markdown(PAIRS, pairs)] if pairs else [])]
    write_atomically(folder / "comparison.md", f"{CAPTION}\n\n{notes}\n" + "\n".join(tables))
    tables = [_latex(COLUMNS, rows), *([_latex(PAIRS, pairs)] if pairs else [])]
    write_atomically(folder / "comparison.tex", "\n".join(tables))
    templates = Environment(loader=PackageLoader("imgbench.sweep"), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("comparison.html.jinja").render(
        caption=CAPTION,
        notes=comparison.notes,
        tables=[(COLUMNS, rows), *([(PAIRS, pairs)] if pairs else [])],
        picture=base64.b64encode((folder / "pareto.png").read_bytes()).decode() if points else None,
    )
    write_atomically(folder / "comparison.html", page)


NUMBERS = ("configuration", "runs", "accuracy", "low", "high", "n", "groups", "low_over_runs", "high_over_runs")
COST = ("parameters", "multiply_adds", "size_mb", "latency_ms", "threads")


def _numbers(one: Configuration) -> list[Any]:
    accuracy = [one.accuracy.value, one.accuracy.low, one.accuracy.high, one.accuracy.n, one.accuracy.groups]
    cost = [(one.cost or {}).get(key, "") for key in COST]
    places = " ".join(str(tested.run.shown) for tested in one.runs)
    return [one.name, len(one.runs), *accuracy, *(one.over_runs or ("", "")), *cost, one.seconds, places]


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(map(guarded, row) for row in [header, *rows])
    return file.getvalue()


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular for the package booktabs."""
    lines = [" & ".join("".join(LATEX.get(c, c) for c in cell) for cell in row) + r" \\" for row in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    top, *body = lines
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"
