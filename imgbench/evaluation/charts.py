"""Line charts as SVG that follows the page around it: its colours, its language, light or dark, paper or phone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 400, 250  # about as wide as a phone, so that texts have the same size there
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 26, 42


@dataclass(frozen=True)
class Line:
    """Points (x, y), those left out that are not finite, and the intervals `low` to `high` around them if there are."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: bool = False  # mark the points
    guide: bool = False  # no data, but a line to compare with


@dataclass(frozen=True)
class Chart:
    """What the template draws; all coordinates are in pixels of a picture of WIDTH x HEIGHT.

    Args:
        x_range, y_range: the ends of the axes; None takes those of the points.
        percent: whether y is a share, written in per cent; `x_percent` alike.
        mark: an x that is marked by a vertical line.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    percent: bool = True
    x_percent: bool = False
    mark: float | None = None
    note: str = ""
    width: int = field(default=WIDTH, init=False)
    height: int = field(default=HEIGHT, init=False)
    box: tuple[int, int, int, int] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), init=False)

    def _ends(self, axis: str) -> tuple[float, float]:
        given = self.x_range if axis == "x" else self.y_range
        if given:
            return given
        names = (axis,) if axis == "x" else ("y", "low", "high")
        values = np.concatenate([np.asarray(getattr(line, name), float) for line in self.lines for name in names])
        values = values[np.isfinite(values)]
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the picture."""
        (left, right), (low, high) = self._ends("x"), self._ends("y")
        return (
            round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1),
        )

    def _ticks(self, axis: str, percent: bool, number: int) -> list[tuple[float, str]]:
        low, high = self._ends(axis)
        scale = 100 if percent else 1
        locator = MaxNLocator(number, steps=[1, 2, 2.5, 5, 10])
        values = np.asarray(locator.tick_values(low * scale, high * scale)) / scale
        margin = 1e-6 * (high - low)
        inside = [float(value) for value in values if low - margin <= value <= high + margin]
        pixels = [self.at(value, 0)[0] if axis == "x" else self.at(0, value)[1] for value in inside]
        return [(pixel, f"{scale * value:g}") for pixel, value in zip(pixels, inside, strict=True)]

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """(pixel, text) of each."""
        return self._ticks("x", self.x_percent, 6)

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """(pixel, text) of each."""
        return self._ticks("y", self.percent, 5)

    @property
    def mark_at(self) -> float | None:
        """The pixel of the vertical line."""
        return None if self.mark is None else self.at(self.mark, 0)[0]

    def points(self, line: Line) -> list[tuple[float, float]]:
        """The finite points of a line."""
        pairs = zip(line.x, line.y, strict=True)
        return [self.at(x, y) for x, y in pairs if np.isfinite(x) and np.isfinite(y)]

    def path(self, line: Line) -> str:
        """For the attribute `points` of a polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points(line))

    def bars(self, line: Line) -> list[tuple[float, float, float]]:
        """(x, y of the low end, y of the high end) of each interval."""
        triples = zip(line.x, line.low, line.high, strict=True) if len(line.low) else ()
        return [(self.at(x, low)[0], self.at(x, low)[1], self.at(x, high)[1]) for x, low, high in triples]
