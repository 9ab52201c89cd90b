"""One style for the figures of a paper: sizes in millimetres, colours that everybody can tell apart, fonts in the file.

A figure has no title, since a paper has its caption:

    with paper_style():
        figure = paper_figure(COLUMN, 60)
        axes = figure.subplots()
        axes.errorbar(x, y, error, color=COLOURS[0], marker=MARKERS[0])
        save_vector(figure, folder / "accuracy")  # accuracy.pdf and accuracy.svg
"""

import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager, get_cachedir, rc_context
from matplotlib.figure import Figure

from imgbench.files import replacing
from imgbench.progress import quiet

log = logging.getLogger(__name__)

COLUMN, PAGE = 85, 170  # millimetres: the width of one column, and of both
# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, without the yellow, which is too pale on white. No colour says
# something alone: lines have markers too, for whoever prints in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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
NORMAL = {400, "normal", "regular"}  # a weight, as matplotlib lists it
MISSING_GLYPH = r"Glyph \d+ .*missing from"
PAPER: Any = {
    "font.size": 8,  # points, as they are printed: journals ask for 6 to 9
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#d0d0d0",
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # TrueType, which editors can change; publishers refuse matplotlib's own, Type 3
    "svg.fonttype": "path",  # an SVG cannot carry a font: text that stays text looks otherwise on another machine
    "svg.hashsalt": "imgbench",  # the same figure makes the same file
}


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """Texts made inside use a Chinese font where there is one, and a `$` in a class name does not begin a formula."""
    with rc_context({"font.family": ["DejaVu Sans", *_installed(CJK_FONTS)], "text.parse_math": False}):
        yield


def _installed(names: Sequence[str]) -> list[str]:
    """Those that there are; one that has no normal weight is listed with it too, or matplotlib reports every text."""
    fonts = font_manager.fontManager.ttflist
    found = {name: [font for font in fonts if font.name == name] for name in names}
    for same in found.values():
        if same and not any(font.weight in NORMAL for font in same):
            fonts.append(dataclasses.replace(same[0], weight=400))
    return [name for name, same in found.items() if same]


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib's settings within which a figure is made and saved; those of the caller are as before at the end."""
    with names_as_they_are(), rc_context(PAPER):
        yield


def paper_figure(width: float, height: float) -> Figure:
    """An empty figure of so many millimetres, whose parts make room for each other."""
    return Figure(figsize=(width / 25.4, height / 25.4), layout="constrained")


def save_vector(figure: Figure, stem: Path) -> None:
    """Writes `stem` with the endings .pdf and .svg, without the date; within `paper_style`."""
    for suffix, dates in ((".pdf", ("CreationDate",)), (".svg", ("Date",))):
        save_figure(figure, stem.with_name(stem.name + suffix), metadata=dict.fromkeys(dates))


def save_figure(figure: Figure, output: Path, **options: Any) -> None:
    """Writes the file in the format of its ending; one log line explains characters that no font has."""
    # matplotlib warns of every character, and what cuts the fonts of a PDF to size reports every step.
    with warnings.catch_warnings(record=True) as caught, quiet("fontTools"):
        warnings.filterwarnings("always", MISSING_GLYPH, UserWarning)
        with replacing(output, "wb") as file:
            figure.savefig(file, format=output.suffix[1:], **options)
    for warning in caught:
        if re.match(MISSING_GLYPH, str(warning.message)):
            explain_boxes()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@cache
def explain_boxes() -> None:
    """Once in a process."""
    log.warning(
        "Some names are drawn as boxes, because no installed font has their characters. For Chinese install Noto Sans "
        "CJK (apt install fonts-noto-cjk), and delete %s, which lists the fonts of before.",
        Path(get_cachedir()) / "fontlist-*.json",
    )
