"""Class probabilities of a set of labelled images, and the file that keeps them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from imgbench.cells import guarded, unguarded


@dataclass(frozen=True)
class Predictions:
    """Row i of each array belongs to `paths[i]`."""

    paths: list[str]
    groups: list[str]  # of images that are not independent of each other; "" for none
    targets: np.ndarray  # (N,) int64, indices into class_names
    probabilities: np.ndarray  # (N, num_classes) float32
    class_names: list[str]
    networks: int = 1  # that made them, each for other images: more than one by cross-validation

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) the most probable class of each image."""
        return self.probabilities.argmax(1)

    @property
    def never_predicted(self) -> list[str]:
        """The classes that have images, but are never predicted."""
        return [self.class_names[i] for i in np.setdiff1d(self.targets, self.predicted)]

    def subset(self, chosen: np.ndarray) -> "Predictions":
        """Those images for which chosen (N,) is true."""
        rows = np.flatnonzero(chosen)
        return Predictions(
            [self.paths[row] for row in rows],
            [self.groups[row] for row in rows],
            self.targets[rows],
            self.probabilities[rows],
            self.class_names,
            self.networks,
        )

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Those of several networks, each for other images of the same classes, in the order of paths."""
        paths = [path for part in parts for path in part.paths]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        groups = [group for part in parts for group in part.groups]
        return cls(
            [paths[row] for row in order],
            [groups[row] for row in order],
            np.concatenate([part.targets for part in parts])[order],
            np.concatenate([part.probabilities for part in parts])[order],
            parts[0].class_names,
            len(parts),
        )

    def to_csv(self, remark: str = "") -> str:
        """path, group, target, predicted and a column of probabilities per class: what `predictions.csv` holds.

        Args:
            remark: a line before the header, which begins with `#`.
        """
        file = io.StringIO()
        file.write(f"# {remark}\n" if remark else "")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "group", "target", "predicted", *map(guarded, self.class_names)])
        for i, path in enumerate(self.paths):
            names = [path, self.groups[i], self.class_names[self.targets[i]], self.class_names[self.predicted[i]]]
            # Nine digits give back the same float32, so that near ties fall as they fell.
            writer.writerow([*map(guarded, names), *(f"{p:.9g}" for p in self.probabilities[i])])
        return file.getvalue()

    @classmethod
    def read_csv(cls, path: Path) -> "Predictions":
        """Reads `predictions.csv`; that of an earlier imgbench has no groups.

        Raises:
            ValueError: it is damaged.
        """
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = ([*map(unguarded, row)] for row in csv.reader(file))
        if header and header[0].startswith("#"):
            header, *rows = rows
        if len(header) < 2 or any(len(row) != len(header) for row in rows):
            raise ValueError("its rows have not as many cells as there are columns")
        if header[1] != "group":
            header, rows = [header[0], "group", *header[1:]], [[row[0], "", *row[1:]] for row in rows]
        names = header[4:]
        if not names:
            raise ValueError("it has no column of probabilities after `predicted`")
        targets = np.array([names.index(row[2]) for row in rows], np.int64)
        probabilities = np.array([row[4:] for row in rows], np.float32).reshape(len(rows), len(names))
        return cls([row[0] for row in rows], [row[1] for row in rows], targets, probabilities, names)
