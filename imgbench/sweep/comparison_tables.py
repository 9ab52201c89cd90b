"""A comparison as tables in the terminal, CSV, Markdown and LaTeX, and as figures for a paper."""

import csv
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from imgbench.cells import guarded, markdown, unguarded
from imgbench.errors import UserError
from imgbench.evaluation.plots import draw_intervals, draw_pareto
from imgbench.files import write_atomically
from imgbench.language import counted
from imgbench.latex import HEADER, table
from imgbench.report.catalogue import Texts
from imgbench.run import Run
from imgbench.sweep.comparison import Comparison
from imgbench.sweep.comparison_page import comparison_page
from imgbench.sweep.configurations import METRICS, Configuration
from imgbench.sweep.differences import Difference, disagreements
from imgbench.terminal import print_table

NAMES = {"acc": "accuracy, %", "balanced_acc": "balanced accuracy, %", "macro_f1": "macro F1, %", "auroc": "AUROC"}
RESULTS = ("configuration", "runs", "test {metric}", "sd", "over runs", "over images", "below the best")
COSTS = ("parameters", "multiply-adds", "MB", "ms", "training, s")
PAIRS = ("configuration", "against", "{points}", "95 % interval", "p", "p, corrected", "found", "test")
CAPTION = (
    "Intervals are 95 %. Those over runs (seeds or folds) say how far another run may differ, and sd is the standard "
    "deviation of a single one; those over images, how far these networks may on other images. Below the best: "
    "{points}, with p corrected for the number of pairs (Holm)."
)
METRICS_CAPTION = "Every metric with its standard deviation over runs, and below it its interval over images."
TABLE, PLACES = "comparison.csv", "run_directories"  # the file by which a comparison is known, and its column of runs
FILES = (
    f"{TABLE}, differences.csv, disagreements.csv, comparison.md, comparison.tex, comparison.html, intervals.pdf,"
    " intervals.svg, size.pdf, size.svg, latency.pdf, latency.svg"
)
TEXTS = Texts("en")
BESIDE_NUMBERS, BESIDE_FEWER = 22, 34  # letters of a name in a line of a LaTeX table, which fits the page of an article


def _words(comparison: Comparison, texts: Sequence[str]) -> list[str]:
    points = "difference" if comparison.metric == "auroc" else "percentage points"
    return [text.format(metric=NAMES[comparison.metric], points=points) for text in texts]


def _shown(value: float, percent: bool, digits: int, form: str = "") -> str:
    """In per cent with so many digits after the point, or of 1 with two more."""
    return f"{100 * value if percent else value:{form}.{digits if percent else digits + 2}f}"


def _interval(low: float, high: float, percent: bool, form: str = "") -> str:
    digits = 2 if form else 1
    return f"{_shown(low, percent, digits, form)} to {_shown(high, percent, digits, form)}"


def results_cells(comparison: Comparison, configuration: Configuration) -> list[str]:
    """One row of the table of the metric that is tested."""
    number, spread = configuration.metrics[comparison.metric], configuration.spread.get(comparison.metric)
    difference = comparison.against_best(configuration)
    return [
        configuration.name,
        str(len(configuration.runs)),
        _shown(number.value, number.percent, 2),
        _shown(spread.sd, number.percent, 2) if spread else "-",
        _interval(spread.low, spread.high, number.percent) if spread else "-",
        _interval(number.low, number.high, number.percent),
        _verdict(difference) if difference else "-",
    ]


def cost_cells(configuration: Configuration) -> list[str]:
    """One row of what the configurations cost, without their names."""
    cost = configuration.cost or {}
    return [
        f"{cost['parameters']:,}" if cost else "-",
        f"{cost['multiply_adds'] / 1e6:,.1f} M" if cost else "-",
        f"{cost['size_mb']:.3g}" if cost else "-",
        f"{cost['latency_ms']:.3g}" if cost else "-",
        f"{configuration.seconds:,.0f}" if configuration.seconds is not None else "-",
    ]


def metric_cells(configuration: Configuration) -> list[list[str]]:
    """For each of METRICS two lines: the value with its standard deviation over runs, and its interval over images."""
    found = []
    for metric in METRICS:
        number, spread = configuration.metrics.get(metric), configuration.spread.get(metric)
        if number is None:
            found.append(["-"])
            continue
        sd = f" ± {_shown(spread.sd, number.percent, 2)}" if spread else ""
        value = _shown(number.value, number.percent, 2)
        found.append([value + sd, _interval(number.low, number.high, number.percent)])
    return found


def _verdict(difference: Difference) -> str:
    if not difference.distinguishable:
        return f"not distinguishable (p = {difference.adjusted:.2g})"
    return f"{_shown(difference.number.value, difference.number.percent, 2)} (p = {difference.adjusted:.2g})"


def pair_cells(comparison: Comparison, difference: Difference) -> list[str]:
    """One row of the table of differences."""
    number, found = difference.number, "not distinguishable"
    if difference.distinguishable:
        words = ("more accurate", "less accurate") if comparison.metric == "acc" else ("higher", "lower")
        found = words[0] if number.value > 0 else words[1]
    return [
        difference.first,
        difference.second,
        _shown(number.value, number.percent, 2, "+"),
        _interval(number.low, number.high, number.percent, "+"),
        f"{difference.p:.2g}",
        f"{difference.adjusted:.2g}",
        found,
        test_name(difference, TEXTS),
    ]


def test_name(difference: Difference, texts: Texts) -> str:
    """What a difference was tested by."""
    return texts("compare_both").join(texts(name) for name in difference.tests)


def print_comparison(comparison: Comparison) -> None:
    """The numbers of each configuration, what it costs, and what must be known of both."""
    all_of_them = comparison.configurations
    print_table(_words(comparison, RESULTS), [results_cells(comparison, one) for one in all_of_them])
    rows = [[one.name, *("\n".join(cell) for cell in metric_cells(one))] for one in all_of_them]
    print_table((RESULTS[0], *NAMES.values()), rows)
    [caption] = _words(comparison, [CAPTION])
    notes = [f"{caption} {METRICS_CAPTION}", *(f"Note: {note}." for note in comparison.notes)]
    print_table((RESULTS[0], *COSTS), [[one.name, *cost_cells(one)] for one in all_of_them], notes=notes)


def require_free(place: Path, runs: Sequence[Run]) -> None:
    """A comparison is written again over one of the same runs, and over nothing else.

    Args:
        place: the table of configurations, or the folder of all files.

    Raises:
        UserError: something else is there.
    """
    table = place if place.suffix.lower() == ".csv" and not place.is_dir() else place / TABLE
    if not table.is_file():
        taken = [name for name in FILES.split(", ") if table == place / TABLE and (place / name).exists()]
        if taken:
            raise UserError(f"--output {place} holds {taken[0]} already, of no comparison. Name another directory.")
        return
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not rows[0].keys() >= {"configuration", PLACES}:
        raise UserError(f"--output {place}: {table} is no table of a comparison, and is not overwritten.")
    earlier = " ".join(unguarded(row[PLACES] or "") for row in rows)
    if sorted(earlier.split()) != sorted(" ".join(str(run.shown) for run in runs).split()):  # paths may have blanks
        raise UserError(
            f"--output {place} holds the comparison of other runs, {earlier}, which is not overwritten.\n"
            "Name another place, or remove it."
        )


def write_comparison(comparison: Comparison, folder: Path, language: str) -> None:
    """Writes the files that `FILES` names; those of costs where one is known."""
    write_table(comparison, folder / TABLE)  # by which the others are known to be of these runs
    draw_intervals(
        {
            one.name: (one.metrics[comparison.metric], one.values(comparison.metric))
            for one in comparison.configurations
        },
        f"test {NAMES[comparison.metric]}",
        folder / "intervals",
    )
    figures = _draw_costs(comparison, TEXTS, folder)
    if language != TEXTS.language:  # a paper is written in English, and the page in the reader's language
        figures = _draw_costs(comparison, Texts(language), None)
    write_atomically(folder / "differences.csv", _csv(DIFFERENCES, _difference_rows(comparison)))
    write_atomically(folder / "disagreements.csv", _csv(DISAGREEMENTS, _disagreement_rows(comparison)), "replace")
    write_atomically(folder / "comparison.md", _markdown_page(comparison), errors="replace")
    write_atomically(folder / "comparison.tex", _latex_file(comparison), errors="replace")
    write_atomically(folder / "comparison.html", comparison_page(comparison, figures, language), errors="replace")


def _draw_costs(comparison: Comparison, texts: Texts, folder: Path | None) -> list[Figure]:
    """Accuracy against size and against latency, of the configurations whose cost is known."""
    costs = [one for one in comparison.configurations if one.cost]
    figures = []
    labels = {"size": texts("compare_axis_size"), "latency": texts("compare_axis_latency")}
    for name, key in (("size", "size_mb"), ("latency", "latency_ms")) if costs else ():
        points = {one.name: (one.cost[key], one.accuracy) for one in costs if one.cost}
        output, label = folder / name if folder else None, labels[name]
        figures.append(draw_pareto(points, [label], output, texts("compare_axis_accuracy")))
    return figures


NUMBERS = ("configuration", "runs", "accuracy", "low", "high", "n", "groups", "low_over_runs", "high_over_runs",
           "mean_over_runs", "sd_over_runs")  # fmt: skip
OTHERS = [f"{name}{end}" for name in METRICS[1:] for end in ("", "_low", "_high", "_mean_over_runs", "_sd_over_runs")]
COST = ("parameters", "multiply_adds", "size_mb", "latency_ms", "threads")
DIFFERENCES = ("first", "second", "value", "low", "high", "test", "p", "adjusted", "distinguishable", "metric")
DISAGREEMENTS = ("first", "second", "path", "class", "right", "first_predicted", "second_predicted",
                 "first_right", "second_right", "first_probability", "second_probability")  # fmt: skip


def write_table(comparison: Comparison, path: Path) -> None:
    """Writes the table of the configurations, all numbers as they are."""
    rows = [_numbers(one) for one in comparison.configurations]
    write_atomically(path, _csv((*NUMBERS, *OTHERS, *COST, "seconds", PLACES), rows), errors="replace")


def _numbers(one: Configuration) -> list[Any]:
    accuracy = [one.accuracy.value, one.accuracy.low, one.accuracy.high, one.accuracy.n, one.accuracy.groups]
    spread = one.spread.get("acc")
    over_runs = (spread.low, spread.high, spread.mean, spread.sd) if spread else [""] * 4
    others: list[Any] = []
    for name in METRICS[1:]:
        number, spread = one.metrics.get(name), one.spread.get(name)
        others += [number.value, number.low, number.high] if number else [""] * 3
        others += [spread.mean, spread.sd] if spread else [""] * 2
    cost = [(one.cost or {}).get(key, "") for key in COST]
    places = " ".join(str(tested.run.shown) for tested in one.runs)
    return [one.name, len(one.runs), *accuracy, *over_runs, *others, *cost, one.seconds, places]


def _difference_rows(comparison: Comparison) -> Iterator[list[Any]]:
    for one in comparison.differences:
        number = one.number
        yield [one.first, one.second, number.value, number.low, number.high, test_name(one, TEXTS), one.p, one.adjusted,
               one.distinguishable, comparison.metric]  # fmt: skip


def _disagreement_rows(comparison: Comparison) -> Iterator[list[Any]]:
    """Of every pair, where `probability` is that of the true class."""
    for a, b in combinations(comparison.configurations, 2):
        for one in disagreements(a, b):
            yield [a.name, b.name, one.image[0], one.target, a.name if one.first_is_right else b.name,
                   one.first.predicted, one.second.predicted, one.first.right, one.second.right,
                   f"{one.first.probability:.6g}", f"{one.second.probability:.6g}"]  # fmt: skip


def _csv(header: Sequence[str], rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(map(guarded, row) for row in [header, *rows])
    return file.getvalue()


def _markdown_page(comparison: Comparison) -> str:
    everything = comparison.configurations
    results = [[*results_cells(comparison, one), *cost_cells(one)] for one in everything]
    metrics = [[one.name, *("<br>".join(cell) for cell in metric_cells(one))] for one in everything]
    tables = [
        _markdown((*_words(comparison, RESULTS), *COSTS), results),
        f"{METRICS_CAPTION}\n\n" + _markdown((RESULTS[0], *NAMES.values()), metrics),
    ]
    if comparison.differences:
        pairs = [pair_cells(comparison, difference) for difference in comparison.differences]
        tables.append(_markdown(_words(comparison, PAIRS), pairs))
    [caption] = _words(comparison, [CAPTION])
    notes = "".join(f"- {note}\n" for note in comparison.notes)
    return f"{caption}\n\n{notes}\n" + "\n".join(tables)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([*map(markdown, row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _latex_file(comparison: Comparison) -> str:
    """Three tables for the package booktabs, each with a caption and a label."""
    everything = comparison.configurations
    n, groups = everything[0].accuracy.n, everything[0].accuracy.groups
    of = f"{n} images" if n == groups else f"{n} images in {counted(groups, 'group')}"
    caption = (
        f"Results on the test set ({of}). ± is the standard deviation over runs (seeds or folds); below it stands the "
        "95 % interval over images."
    )
    # The deviation on a line of its own, so that the four numbers leave room for the names.
    results = [
        [_wrapped(one.name, BESIDE_NUMBERS), [str(len(one.runs))],
         *([part for line in cell for part in line.replace(" ±", "\n±").split("\n")] for cell in metric_cells(one))]
        for one in everything
    ]  # fmt: skip
    parts = [HEADER, table((*RESULTS[:2], *NAMES.values()), results, caption, "tab:comparison")]
    if comparison.differences:
        [difference] = [f"Difference in {NAMES[comparison.metric].removesuffix(', %')} on the same test images"]
        unit = "" if comparison.metric == "auroc" else ", in percentage points"
        caption = (
            f"{difference}{unit}, with its 95 % interval; p is corrected for the number of pairs (Holm). "
            f"Tested by: {'; '.join(sorted({test_name(one, TEXTS) for one in comparison.differences}))}."
        )
        rows = []
        for one in comparison.differences:
            first, second, value, interval, p, adjusted, *_ = pair_cells(comparison, one)
            names = [*_wrapped(first, BESIDE_FEWER), *_wrapped(f"minus {second}", BESIDE_FEWER)]
            rows.append([names, [value], [interval], [p], [adjusted]])
        columns = ("configurations", "difference", "95 % interval", "p", "corrected")
        parts.append(table(columns, rows, caption, "tab:differences"))
    if any(one.cost for one in everything):
        rows = [[_wrapped(one.name, BESIDE_NUMBERS), *([cell] for cell in cost_cells(one))] for one in everything]
        caption = "What the models cost: of the first run of each configuration, with milliseconds for one image."
        parts.append(table((RESULTS[0], *COSTS), rows, caption, "tab:cost"))
    return "\n".join(parts)


def _wrapped(name: str, letters: int) -> list[str]:
    """In lines; a word that is longer than one is cut where a path or a setting can be."""
    parts: list[str] = []
    for word in re.findall(r"\S+\s*", name):
        parts += [word] if len(word.rstrip()) <= letters else re.findall(r"[^./=_]+[./=_]*\s*|[./=_]+\s*", word)
    lines = [""]
    for part in [piece for whole in parts for piece in textwrap.wrap(whole, letters, drop_whitespace=False)]:
        if len(lines[-1]) + len(part.rstrip()) > letters:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines if line] or [""]
