"""The photographs of a run or a folder as they are looked at: what is known of each, and what people decide of it."""

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from imgbench.data.corrections import (
    CLASS,
    GROUP,
    LEFT_OUT,
    RIGHT,
    WITHDRAWN,
    Decision,
    Decisions,
    add_decisions,
    now,
    place_of,
    read_decisions,
    standing,
)
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.decode import open_image
from imgbench.errors import DecodeError, UserError
from imgbench.experiment.build import build_data, build_data_of
from imgbench.experiment.compose import compose
from imgbench.inference.cached_features import image_features
from imgbench.inference.neighbours import directions
from imgbench.inference.predict_split import predict_split, predictions_of_rows
from imgbench.inference.predictor import Predictor
from imgbench.inference.torch_model import TorchModel
from imgbench.inspection.audit import group_names
from imgbench.inspection.file_facts import elongated_rows, read_headers, single_coloured_rows, tiny_rows
from imgbench.inspection.labels import label_suspects, suspects_of_predictions
from imgbench.inspection.record import inspect
from imgbench.inspection.simple_features import cross_validated, group_codes
from imgbench.publish.review_queues import TEST, build_queues
from imgbench.run import Run
from imgbench.split_file import SPLITS

LARGE, SMALL = 1600, 128  # pixels at most of a photograph, and of its thumbnail
NEIGHBOURS = 6
CLASSES = 5  # most probable ones that are shown
LONGEST = {"by": 60, "why": 500}  # characters
GRID = 16  # pixels each way, by which photographs are compared where no network is frozen


@dataclass(frozen=True)
class Known:
    """What people had decided when the table was read."""

    version: int  # the number of its rows
    decisions: Decisions
    of_rows: list[Decision | None]  # the last that holds of each photograph


class ReviewedImages:
    """All photographs of a table, known to the page by numbers that tell nothing of their class.

    Args:
        corrections: the table of decisions; None: as the run has it, or `corrections.csv` beside the photographs.

    Raises:
        UserError: the photographs, the run or the table of corrections cannot be used.
    """

    def __init__(self, path: str | Path, corrections: str | Path | None = None) -> None:
        self.run, self.data = _opened(path, corrections)
        self.table: ImageTable = self.data.table
        table = self.table
        self.place = place_of(table.root, self.data.corrections)
        self.class_names = table.class_names
        decided = table.decided
        self.labels = table.labels if decided is None else decided.labels  # as the folders have them
        splits = table.splits if decided is None else decided.splits
        self.splits = np.where(splits == NO_SPLIT, table.given, splits)
        self.hashes = table.hashes
        self.files = list(zip(table.paths, self.hashes, strict=True))
        self.row_of = {digest: row for row, digest in enumerate(self.hashes)}
        # Rows are in the order of the classes, the numbers in that of the hashes.
        self.rows = np.argsort(np.array(self.hashes), kind="stable")
        self.numbers = np.argsort(self.rows, kind="stable")
        self.model = Predictor.load(self.run.path).model if self.run else None
        self.probabilities, self.features = self._opinions()
        self._lock = threading.Lock()
        self._stamp: Any = None  # of the file, as it was read
        self._known = self._known_of([])
        self.queues = self._queues()

    @property
    def frozen(self) -> bool:
        """Whether nothing but the last layer was learnt, which is solved anew in seconds."""
        return isinstance(self.model, TorchModel) and self.model.is_frozen

    def is_blind(self, row: int) -> bool:
        return bool(self.splits[row] == TEST)

    def _rows_in(self, *splits: str) -> np.ndarray:
        return np.sort(np.concatenate([self.table.rows(split) for split in splits]))

    def _opinions(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(N, num_classes) what the network says, NaN where it says nothing; (N, D) by which photographs are alike.

        Of a frozen network, each training and validation image is judged by a last layer that has not seen it.
        """
        table, model = self.table, self.model
        probabilities = np.full((len(table.paths), len(table.class_names)), np.nan, np.float32)
        features = None
        if isinstance(model, TorchModel) and model.is_frozen:
            own, tested = self._rows_in("train", "val"), self._rows_in("test")
            found = image_features(model.classifier, self.data, np.concatenate([own, tested]))
            features = np.zeros((len(table.paths), found.shape[1]), np.float32)
            features[np.concatenate([own, tested])] = found
            groups = group_codes([table.groups[row] for row in own])
            unseen = cross_validated(
                {"features": features[own]}, table.labels[own].astype(np.int64), groups, len(table.class_names)
            )
            probabilities[own] = model.classify(features[own]) if unseen is None else unseen["features"]
            probabilities[tested] = model.classify(features[tested])
        elif model is not None:
            for split in SPLITS:
                if len(rows := self.table.rows(split)):
                    probabilities[rows] = predict_split(model, self.data, split).probabilities
        return probabilities, features

    def _queues(self) -> dict[str, Any]:
        table = self.table
        found = inspect(table)
        row_of = {path: row for row, path in enumerate(table.paths)}
        pairs = [
            (row_of[pair["paths"][0]], row_of[pair["paths"][1]], pair["kind"], pair["similarity"])
            for pair in found.pairs
        ]
        headers = read_headers(table)
        seen = table.looked_at
        odd = dict.fromkeys(elongated_rows(headers), "why_long")
        odd |= dict.fromkeys(tiny_rows(headers), "why_tiny")
        odd |= dict.fromkeys(single_coloured_rows(table, table.looks.grey), "why_one_colour")
        return build_queues(
            table.labels,
            self.splits,
            self.probabilities,
            [row_of[path] for path in self._suspects()],
            pairs,
            {row: reason for row, reason in table.errors.items() if row not in seen},
            {row: why for row, why in odd.items() if row not in seen},
            self.numbers,
        )

    def _suspects(self) -> list[str]:
        """By the network, where there is one that has not seen the image; else by colours, edges and thumbnails."""
        table = self.table
        found = []
        if self.model is not None:
            rows = self._rows_in("train", "val") if self.frozen else table.rows("val")
            if len(rows):
                predictions = predictions_of_rows(table, rows, self.probabilities[rows])
                found = [suspect.path for suspect in suspects_of_predictions(predictions)]
        if not self.frozen:
            found += [suspect.path for suspect in label_suspects(table, group_names(table))]
        return list(dict.fromkeys(found))

    @cached_property
    def _directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of training and validation, and (M, D) unit vectors of these by which they are alike."""
        rows = self._rows_in("train", "val")
        if self.features is None:
            grey = self.table.looks.grey[rows].reshape(len(rows), GRID, 64 // GRID, GRID, 64 // GRID)
            values = grey.mean((2, 4), dtype=np.float32).reshape(len(rows), -1)
        else:
            values = self.features[rows]
        return rows, directions(values, values)

    def neighbours(self, row: int) -> list[int]:
        """The rows of the photographs most like one of them, the most similar first."""
        rows, known = self._directions
        place = int(np.searchsorted(rows, row))
        if place == len(rows) or rows[place] != row:
            return []
        similarity = known @ known[place]
        similarity[place] = -np.inf
        return rows[np.argsort(-similarity, kind="stable")[:NEIGHBOURS]].tolist()

    def _known_of(self, rows: list[Decision]) -> Known:
        decisions = Decisions(rows)
        return Known(len(rows), decisions, decisions.of_files(self.files))

    def decisions(self) -> Known:
        """What people have decided until now; read again where the file has changed."""
        with self._lock:
            try:
                status = self.place.stat()
                stamp = status.st_mtime_ns, status.st_size, status.st_ino
            except FileNotFoundError:
                stamp = None
            if stamp != self._stamp:
                self._known = self._known_of(read_decisions(self.place))
                self._stamp = stamp
            return self._known

    def label_now(self, row: int, decision: Decision | None) -> int:
        """The index of the class that a photograph has with a decision on it."""
        if decision is not None and decision.decision == CLASS and decision.value in self.class_names:
            return self.class_names.index(decision.value)
        return int(self.labels[row])

    def described(self) -> dict[str, Any]:
        """What people have decided until now, for the page: of test images only by whom."""
        known = self.decisions()
        decisions = known.decisions
        found = {}
        for row, decision in enumerate(known.of_rows):
            if decision is None:
                continue
            what = {"by": decision.by}
            if self.is_blind(row):
                what["decision"] = "done"
            else:
                what |= {"decision": decision.decision, "label": self.label_now(row, decision)}
            found[int(self.numbers[row])] = what
        pairs = [
            sorted(int(self.numbers[self.row_of[one]]) for one in pair)
            for pair in decisions.pairs
            if pair <= self.row_of.keys()
        ]
        groups: dict[str, list[int]] = {}
        for digest, name in decisions.groups.items():
            if digest in self.row_of:
                groups.setdefault(name, []).append(int(self.numbers[self.row_of[digest]]))
        return {"version": known.version, "rows": found, "pairs": pairs, "groups": list(groups.values())}

    def decide(self, request: Mapping[str, Any]) -> None:
        """Appends what a person has decided; what they had decided already is not appended twice.

        Args:
            request: `rows` (numbers), `decision`, `label` (index of a class), `by`, `why`, from a browser.

        Raises:
            UserError: the request is none, or the table cannot be written.
        """
        rows, by, what = self._checked(request)
        why = str(request.get("why") or "")[: LONGEST["why"]]
        if what == GROUP:
            name = self.hashes[rows[0]] if self.is_blind(rows[0]) else self.table.paths[rows[0]]
            new = [self._row(row, GROUP, name, by, why) for row in rows]
        elif what == RIGHT and len(rows) == 2:
            new = [self._row(rows[0], RIGHT, self.hashes[rows[1]], by, why)]
        elif what in (LEFT_OUT, WITHDRAWN):
            new = [self._row(row, what, "", by, why) for row in rows]
        else:
            label = request.get("label")
            if what == RIGHT:  # as the page shows it
                label = self.label_now(rows[0], self.decisions().of_rows[rows[0]])
            if type(label) is not int or not 0 <= label < len(self.class_names):
                raise UserError(f"There is no class {label!r}.")
            new = [self._labelled(row, label, by, why) for row in rows]
        new = list({one.hash: one for one in new}.values())  # of two files with the same bytes, one row is of both

        def wanted(known: list[Decision]) -> bool:
            last = {(one.hash, one.by): one for one in standing(known)}
            mine = [last.get((one.hash, by)) for one in new]
            if what == WITHDRAWN:
                return mine[0] is not None
            latest = {one.hash: one for one in standing(known)}
            return any(own is None or latest[own.hash] is not own or _said(own) != _said(one)
                       for own, one in zip(mine, new, strict=True))  # fmt: skip

        add_decisions(self.place, new, wanted)

    def _labelled(self, row: int, label: int, by: str, why: str) -> Decision:
        """`right`, where that is the class of all folders in which a file of this content lies."""
        folders = {self.labels[other] for other in range(len(self.hashes)) if self.hashes[other] == self.hashes[row]}
        kept = folders == {label}
        return self._row(row, RIGHT if kept else CLASS, "" if kept else self.class_names[label], by, why)

    def _checked(self, request: Mapping[str, Any]) -> tuple[list[int], str, str]:
        numbers, by, what = request.get("rows"), request.get("by"), request.get("decision")
        if not isinstance(numbers, list) or not 1 <= len(numbers) <= 2:
            raise UserError("A decision is on one photograph or on two.")
        if any(type(number) is not int or not 0 <= number < len(self.rows) for number in numbers):
            raise UserError("There is no such photograph.")
        if not isinstance(by, str) or not by.strip() or len(by) > LONGEST["by"]:
            raise UserError("Whoever decides has a name.")
        if what not in (CLASS, LEFT_OUT, RIGHT, GROUP, WITHDRAWN):
            raise UserError(f"There is no decision {what!r}.")
        rows = [int(self.rows[number]) for number in numbers]
        if what == RIGHT and len(rows) == 1 and self.is_blind(rows[0]):
            raise UserError("A test image is given its class: nobody is shown the one that it has.")
        return rows, " ".join(by.split()), what

    def _row(self, row: int, what: str, value: str, by: str, why: str) -> Decision:
        return Decision(self.hashes[row], self.table.paths[row], what, value, by, now(), why)

    def about(self, row: int) -> dict[str, Any]:
        """What the page shows beside a photograph; of a test image nothing that would tell its class."""
        table = self.table
        width, height = (int(table.looks.facts[row][side]) for side in ("width", "height"))
        if self.is_blind(row):
            return {"blind": True, "split": "test", "size": [width, height]}
        decision = self.decisions().of_rows[row]
        known = self.probabilities[row]
        order = [] if np.isnan(known).any() else np.argsort(-known, kind="stable")[:CLASSES].tolist()
        split = int(self.splits[row])
        return {
            "blind": False,
            "path": table.paths[row].encode("utf-8", "replace").decode(),
            "split": SPLITS[split] if split != NO_SPLIT else "",
            "size": [width, height],
            "label": self.label_now(row, decision),
            "folder": int(self.labels[row]),
            "classes": [[label, round(float(known[label]), 4)] for label in order],
            "error": table.errors.get(row, ""),
            "neighbours": [[int(self.numbers[one]), int(table.labels[one])] for one in self.neighbours(row)],
        }

    def picture(self, row: int, side: int) -> bytes | None:
        """A JPEG of a photograph of at most so many pixels; None where it cannot be decoded."""
        table = self.table
        if side <= SMALL and row not in table.errors:
            if table.pixels is not None:
                image = Image.fromarray(np.asarray(table.pixels[row]))
            else:
                image = Image.fromarray(table.looks.grey[row])
        else:
            try:
                image = open_image(table.read(row), table.intensity)
            except (DecodeError, OSError):
                return None
        image.thumbnail((side, side))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=88 if side > SMALL else 80)
        return file.getvalue()


def _said(decision: Decision) -> tuple[str, ...]:
    """What makes a decision another one than the last of the same person on the same photograph."""
    path = decision.path if decision.decision == LEFT_OUT else ""
    return decision.decision, decision.value, path


def _opened(path: str | Path, corrections: str | Path | None) -> tuple[Run | None, ImageFolderDataModule]:
    """A run and its images, or the images of a folder that was not trained on yet."""
    place = Path(path)
    is_folder = place.is_dir() and not (place / "config.yaml").is_file()
    run = None if is_folder else Run.open(place)
    config = compose([str(place)], "audit") if run is None else DictConfig(run.config)
    if corrections is not None:
        table = place_of(config.data.root, corrections).resolve()
        if not table.exists():
            add_decisions(table, [])  # so that a place where none can be written is found out at once
        config.data.corrections = str(table)
    return run, build_data(config) if run is None else build_data_of(run, config)
