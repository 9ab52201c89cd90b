"""The photographs of a run or a folder as they are looked at: what is known of each, and what people decide of it.

Those that have no label yet lie in a folder of their own, or in one without classes.
"""

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from imgbench.data.annotated import UNKNOWN, holds_photographs, joined, unlabelled_images
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
from imgbench.data.label_files import found_labels
from imgbench.data.layout import one_form
from imgbench.data.look import Looks
from imgbench.data.pixels import decode_images
from imgbench.data.shard_index import find_images
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.decode import open_image
from imgbench.errors import DecodeError, UserError
from imgbench.experiment.build import build_data, build_data_of, frozen_network
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
from imgbench.preprocessing import Preprocessing
from imgbench.publish.review_queues import TEST, Item, build_queues
from imgbench.run import Run
from imgbench.split_file import SPLITS

LARGE, SMALL = 1600, 128  # pixels at most of a photograph, and of its thumbnail
NEIGHBOURS = 6
CLASSES = 5  # most probable ones that are shown
LONGEST = {"by": 60, "why": 500, "name": 80}  # characters
GRID = 16  # pixels each way, by which photographs are compared where no network is frozen


@dataclass(frozen=True)
class Known:
    """What people had decided when the table was read."""

    version: int  # the number of its rows
    decisions: Decisions
    of_rows: list[Decision | None]  # the last that holds of each photograph
    class_names: list[str]


class ReviewedImages:
    """All photographs of a table, known to the page by numbers that tell nothing of their class.

    Args:
        corrections: the table of decisions; None: as the run has it, or `corrections.csv` beside the photographs.
        unlabelled: a folder of further photographs, of which none has a label.

    Raises:
        UserError: the photographs, the run or the table of corrections cannot be used.
    """

    def __init__(
        self, path: str | Path, corrections: str | Path | None = None, unlabelled: str | Path | None = None
    ) -> None:
        self.run, self.data = _opened(path, corrections)
        self.table: ImageTable = self.data.table
        self.names_classes = not self.table.class_names  # by people, who begin with nothing
        self.own = 0 if self.names_classes else len(self.table.paths)  # the first rows, which have labels
        if unlabelled is not None:
            self.table = self._with(unlabelled)
        table = self.table
        self.place = place_of(table.root, self.data.corrections)
        decided = table.decided
        self.labels = table.labels if decided is None else decided.labels  # as the folders have them
        splits = table.splits if decided is None else decided.splits
        if decided is not None:
            self.labels = np.append(self.labels, table.labels[len(self.labels) :])
            splits = np.append(splits, table.splits[len(splits) :])
        self.splits = np.where(splits == NO_SPLIT, table.given, splits)
        self.hashes = table.hashes
        elsewhere = table.source.elsewhere if isinstance(table.source, Folder) else {}
        self.paths = [str(elsewhere.get(path, path)) for path in table.paths]  # as decisions have them
        self.files = list(zip(self.paths, self.hashes, strict=True))
        self.row_of = {digest: row for row, digest in enumerate(self.hashes)}
        # Rows are in the order of the classes, the numbers in that of the hashes.
        self.rows = np.argsort(np.array(self.hashes), kind="stable")
        self.numbers = np.argsort(self.rows, kind="stable")
        self.asked = self._asked()
        self.drawn: frozenset[int] = (
            frozenset()
        )  # those of `asked` whose turn it is by chance, for which no help is given
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

    def _with(self, folder: str | Path) -> ImageTable:
        """The table, and after its images those of a folder that are none of them."""
        table = self.table
        if self.names_classes:
            raise UserError(f"{table.root} has no classes: all of its photographs are asked. Leave --unlabelled out.")
        if not isinstance(table.source, Folder):
            raise UserError("--unlabelled adds photographs to a folder, and the images of this run lie in shards.")
        found = unlabelled_images(folder, "--unlabelled")
        found = decode_images(found, replace(self.data.preprocessing, intensity=table.intensity), "off")
        known = set(table.hashes)
        new = [row for row, content in enumerate(found.hashes) if content not in known]
        if (number := len(found.paths) - len(new)) > 0:
            print(f"{number:,} of {len(found.paths):,} photographs in {folder} have a label, and are not asked.")
        if not new:
            raise UserError(f"--unlabelled {folder} has no photograph that is not in {table.root} or labelled already.")
        root, files = table.root.resolve(), [found.root.resolve() / found.paths[row] for row in new]
        inside = [file.is_relative_to(root) for file in files]
        paths = [
            file.relative_to(root if below else file.anchor).as_posix()
            for file, below in zip(files, inside, strict=True)
        ]
        errors = {place: found.errors[row] for place, row in enumerate(new) if row in found.errors}
        elsewhere = {path: file for path, file, below in zip(paths, files, inside, strict=True) if not below}
        own, other = table.looks, found.looks
        more = replace(found.take(new), root=table.root, paths=paths, source=Folder(table.root, elsewhere=elsewhere))
        first = len(table.paths)
        together = {first + place: reason for place, reason in errors.items()} | table.errors
        return replace(
            joined(table, more),
            digests=np.concatenate([table.digests, found.digests[new]]),
            splits=np.append(table.splits, np.full(len(new), NO_SPLIT, np.int8)),
            errors=together,
            known=Looks(
                np.concatenate([own.facts, other.facts[new]]),
                np.concatenate([own.thumbnails, other.thumbnails[new]]),
                together,
                np.append(own.fresh, other.fresh[new]),
            ),
        )

    def _asked(self) -> np.ndarray:
        """The rows that a label is wanted of: one of each content, and none that looks like what is tested on."""
        table = self.table
        first = {content: row for row, content in reversed(list(enumerate(self.hashes)))}
        rows = [row for row in sorted(first.values()) if row >= self.own and row not in table.errors]
        if self.own and rows:
            names = group_names(replace(table, pixels=None, decided=None))
            tested = {names[row] for row in np.flatnonzero(self.splits[: self.own] > 0)}
            related = [row for row in rows if names[row] in tested]
            if related:
                print(
                    f"{len(related):,} look like validation or test images, or are of their groups, and are not asked: "
                    "what is tested on is not learnt."
                )
            rows = sorted({*rows} - {*related})
        return np.array(rows, np.int64)

    def is_blind(self, row: int) -> bool:
        return bool(self.splits[row] == TEST)

    def _rows_in(self, *splits: str) -> np.ndarray:
        return np.sort(np.concatenate([self.table.rows(split) for split in splits]))

    def _opinions(self) -> tuple[np.ndarray, np.ndarray | None]:
        """(N, num_classes) what the network says, NaN where it says nothing; (N, D) by which photographs are alike.

        Of a frozen network, each training and validation image is judged by a last layer that has not seen it.
        """
        table, model = self.table, self.model
        if self.names_classes:
            return np.zeros((len(table.paths), 0), np.float32), None
        probabilities = np.full((len(table.paths), len(table.class_names)), np.nan, np.float32)
        features = None
        if isinstance(model, TorchModel) and model.is_frozen:
            own, tested = self._rows_in("train", "val"), self._rows_in("test")
            found = image_features(model.classifier, self.data, np.concatenate([own, tested]))
            features = np.zeros((self.own, found.shape[1]), np.float32)
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
        if self.names_classes:
            return {
                "next": [],
                "files": [Item((row,), "why_damaged", reason) for row, reason in self.table.errors.items()],
                "all": [Item((row,), "why_all") for row in range(len(self.table.paths))],
            }
        table = self.data.table
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
        asked: dict[str, Any] = {"next": []} if len(self.asked) else {}
        return asked | build_queues(
            table.labels,
            self.splits[: self.own],
            self.probabilities[: self.own],
            [row_of[path] for path in self._suspects()],
            pairs,
            {row: reason for row, reason in self.table.errors.items() if row not in seen},
            {row: why for row, why in odd.items() if row not in seen},
            self.numbers,
        )

    def _suspects(self) -> list[str]:
        """By the network, where there is one that has not seen the image; else by colours, edges and thumbnails."""
        table = self.data.table
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
        if row >= self.own:
            return []
        rows, known = self._directions
        place = int(np.searchsorted(rows, row))
        if place == len(rows) or rows[place] != row:
            return []
        similarity = known @ known[place]
        similarity[place] = -np.inf
        return rows[np.argsort(-similarity, kind="stable")[:NEIGHBOURS]].tolist()

    def _known_of(self, rows: list[Decision]) -> Known:
        decisions = Decisions(rows)
        names = self.table.class_names
        if self.names_classes:  # in the order in which they were named, and so none ever gets another number
            names = list(dict.fromkeys(one.value for one in rows if one.decision == CLASS))
        return Known(len(rows), decisions, decisions.of_files(self.files), names)

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

    @property
    def class_names(self) -> list[str]:
        return self.decisions().class_names

    def label_now(self, row: int, known: Known) -> int | None:
        """The index of the class that a photograph has with the decisions on it; None where it has none."""
        decision = known.of_rows[row]
        name = decision.value if decision is not None and decision.decision == CLASS else ""
        if decision is not None and decision.decision == RIGHT and self._has_label_by_people(row):
            name = known.decisions.classes.get(self.hashes[row], ("", ""))[1]
        if name in known.class_names:
            return known.class_names.index(name)
        return int(self.labels[row]) if self.labels[row] != UNKNOWN else None

    def _has_label_by_people(self, row: int) -> bool:
        """Or none at all: no folder and no table of labels says it."""
        return self.table.paths[row] in self.table.annotated or self.labels[row] == UNKNOWN

    def data_without_pixels(self, preprocessing: Preprocessing) -> ImageFolderDataModule:
        """All photographs, decoded when they are needed."""
        table = replace(self.table, pixels=None)
        return ImageFolderDataModule.of_table(table, replace(preprocessing, intensity=table.intensity))

    def labels_of_asked(self) -> tuple[Known, np.ndarray]:
        """What is known, and of each of `asked` its class by now, UNKNOWN where it has none."""
        known = self.decisions()
        labels = [self.label_now(row, known) for row in self.asked.tolist()]
        return known, np.array([UNKNOWN if label is None else label for label in labels], np.int64)

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
                what |= {"decision": decision.decision, "label": self.label_now(row, known)}
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
        return {
            "version": known.version,
            "rows": found,
            "pairs": pairs,
            "groups": list(groups.values()),
            "classes": known.class_names,
        }

    def decide(self, request: Mapping[str, Any]) -> None:
        """Appends what a person has decided; what they had decided already is not appended twice.

        Args:
            request: `rows` (numbers), `decision`, `label` (index of a class) or `name` (of a class, where people name
                them), `by`, `why`, from a browser.

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
            known = self.decisions()
            label = request.get("label")
            if what == RIGHT:  # as the page shows it
                label = self.label_now(rows[0], known)
            if (
                self.names_classes and what == CLASS and "name" in request
            ):  # another may have named one meanwhile: numbers may be others
                name = self._class_name(request["name"], known)
            elif type(label) is not int or not 0 <= label < len(known.class_names):
                raise UserError(f"There is no class {label!r}.")
            else:
                name = known.class_names[label]
            new = [self._labelled(row, what, name, by, why) for row in rows]
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

    def _class_name(self, name: object, known: Known) -> str:
        """As it is called already, if in other letter case."""
        text = one_form(" ".join(name.split())) if isinstance(name, str) else ""
        if not text or len(text) > LONGEST["name"] or not text.isprintable():
            raise UserError(f"A class has a name of at most {LONGEST['name']} letters.")
        return next((other for other in known.class_names if other.casefold() == text.casefold()), text)

    def _labelled(self, row: int, what: str, name: str, by: str, why: str) -> Decision:
        """`right`, where that is the class of all folders in which a file of this content lies.

        Where people gave the class, it is the last one that they gave.
        """
        folders = {self.labels[other] for other in range(len(self.hashes)) if self.hashes[other] == self.hashes[row]}
        names = {None if label == UNKNOWN else self.table.class_names[label] for label in folders}
        kept = what == RIGHT if self._has_label_by_people(row) else names == {name}
        return self._row(row, RIGHT if kept else CLASS, "" if kept else name, by, why)

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
        return Decision(self.hashes[row], self.paths[row], what, value, by, now(), why)

    def about(self, row: int) -> dict[str, Any]:
        """What the page shows beside a photograph; of a test image nothing that would tell its class."""
        table = self.table
        width, height = (int(table.looks.facts[row][side]) for side in ("width", "height"))
        if self.is_blind(row):
            return {"blind": True, "split": "test", "size": [width, height]}
        known = self.probabilities[row]
        label = self.label_now(row, self.decisions())
        is_known = len(known) and not np.isnan(known).any() and row not in self.drawn
        order = np.argsort(-known, kind="stable")[:CLASSES].tolist() if is_known else []
        split = int(self.splits[row])
        return {
            "blind": False,
            "path": table.paths[row].encode("utf-8", "replace").decode(),
            "split": SPLITS[split] if split != NO_SPLIT else "",
            "size": [width, height],
            "label": label,
            "folder": None if self.labels[row] == UNKNOWN else int(self.labels[row]),
            "asked": row in self.asked,
            "drawn": row in self.drawn,
            "classes": [[label, round(float(known[label]), 4)] for label in order],
            "error": table.errors.get(row, ""),
            "neighbours": [[int(self.numbers[one]), int(table.labels[one])] for one in self.neighbours(row)],
        }

    def picture(self, row: int, side: int) -> bytes | None:
        """A JPEG of a photograph of at most so many pixels; None where it cannot be decoded."""
        table = self.table
        if side <= SMALL and row not in table.errors:
            if table.pixels is not None and row < len(table.pixels):
                image = Image.fromarray(np.asarray(table.pixels[row]))
            elif row < self.own:
                image = Image.fromarray(table.looks.grey[row])
            else:
                image = open_image(table.read(row), table.intensity)
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
    """A run and its images, or the images of a folder that was not trained on yet, with its classes or without any."""
    place = Path(path)
    is_folder = place.is_dir() and not (place / "config.yaml").is_file()
    run = None if is_folder else Run.open(place)
    if run is None and not _has_classes(place):
        return None, _without_classes(place, corrections)
    config = compose([str(place)], "audit") if run is None else DictConfig(run.config)
    if corrections is not None:
        config.data.corrections = _writable(place_of(config.data.root, corrections))
    return run, build_data(config) if run is None else build_data_of(run, config)


def _writable(table: Path) -> str:
    if not table.exists():
        add_decisions(table, [])  # so that a place where none can be written is found out at once
    return str(table.resolve())


def _has_classes(place: Path) -> bool:
    """Whether folders or a table of labels say classes.

    Raises:
        UserError: a table names the photographs, and cannot be used.
    """
    try:
        return not find_images(place).annotated
    except UserError:
        if not holds_photographs(place):
            return True  # which is said where it is read
        found_labels(place)
        return False


def _without_classes(place: Path, corrections: str | Path | None) -> ImageFolderDataModule:
    data = frozen_network([str(place)])[1]
    found = decode_images(unlabelled_images(place, "review"), data, "off")
    number = len(found.paths)
    table = replace(found, groups=[""] * number, splits=np.full(number, NO_SPLIT, np.int8))
    result = ImageFolderDataModule.of_table(table, replace(data, intensity=table.intensity))
    result.corrections = _writable(place_of(place, corrections)) if corrections is not None else None
    return result
