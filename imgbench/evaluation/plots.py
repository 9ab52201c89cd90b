"""The pictures of a run, drawn without a display."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#777777"
# Fonts with Chinese, Japanese and Korean characters, in the order of preference.
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "PingFang SC", "Hiragino Sans GB",
             "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS")  # fmt: skip


def _use_fonts() -> None:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    rcParams["font.family"] = ["DejaVu Sans", *[name for name in CJK_FONTS if name in installed]]


def _save(figure: Figure, path: Path) -> None:
    _use_fonts()
    figure.savefig(path, dpi=120)


def draw_curves(metrics_csv: Path, output: Path, title: str, monitor: str = "val/acc", mode: str = "max") -> None:
    """Loss, accuracy and learning rate by epoch, the best epoch marked."""
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    values = column(monitor) if monitor in rows[0] else [float("nan")]
    best = None
    if not np.isnan(values).all():
        best = epochs[int(np.nanargmax(values) if mode == "max" else np.nanargmin(values))]
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = (("loss", ("train/loss", "val/loss")), ("accuracy", ("train/acc", "val/acc")), ("learning rate", ("lr",)))
    for axes, (label, names) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, color in zip(names, (BLUE, ORANGE), strict=False):
            axes.plot(epochs, column(name), color=color, marker="o", markersize=3, label=name)
        if best is not None:
            axes.axvline(best, color=GREY, linestyle=":", label=f"best epoch ({best})")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, output)


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], output: Path, title: str) -> None:
    """Row-normalised colours; counts are written in up to 20 classes."""
    k = len(class_names)
    side = min(max(4.0, 2.2 + 0.55 * k), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    size = 9 if k <= 20 else max(3, 180 // k)
    axes.set_xticks(range(k), class_names, rotation=45 if k <= 20 else 90, ha="right", fontsize=size)
    axes.set_yticks(range(k), class_names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10)
    if k <= 20:
        for i, j in np.ndindex(k, k):
            axes.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=size,
                      color="white" if shares[i, j] > 0.5 else "black")  # fmt: skip
    _save(figure, output)


def draw_grid(images: np.ndarray, names: Sequence[str], output: Path, title: str) -> None:
    """Up to 20 images (N, H, W, 3) in 0 to 1 with their class names."""
    columns = 5
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2.25 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, name in zip(figure.axes, images, names, strict=False):
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axes.set_title(name if len(name) <= 24 else name[:23] + "…", fontsize=9)
    _save(figure, output)


def draw_verdict(image: np.ndarray, text: str, output: Path) -> None:
    """One image (H, W, 3) uint8 under its verdict."""
    height, width = image.shape[:2]
    scale = 6 / max(height, width)
    figure = Figure(figsize=(max(width * scale, 3.5), height * scale + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(image)
    axes.axis("off")
    axes.set_title(text, fontsize=11)
    _save(figure, output)
