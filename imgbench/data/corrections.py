"""What people have decided of photographs: `corrections.csv`, a plain table beside them, which is only ever added to.

Photographs are known by the hash of their content, so that a decision goes on to hold where they are moved or renamed.
None of them is moved, changed or deleted.
"""

import csv
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from imgbench.data.shards import index_path, is_shards
from imgbench.data.split import NO_SPLIT
from imgbench.data.walk import LeftOut
from imgbench.errors import UserError
from imgbench.files import keep_names
from imgbench.split_file import SPLIT_COLUMNS, SPLITS, Columns, csv_lines, read_rows
from imgbench.trust import stays_below

if TYPE_CHECKING:
    from imgbench.data.table import ImageTable

log = logging.getLogger(__name__)

FILE = "corrections.csv"
CLASS, LEFT_OUT, RIGHT, GROUP, WITHDRAWN = "class", "left out", "right", "group", "withdrawn"
DECISIONS = (CLASS, LEFT_OUT, RIGHT, GROUP, WITHDRAWN)
# In the column `why`, of a photograph that was asked by its turn in the order of the hashes, which is one by chance.
BY_CHANCE = "Drawn by chance. Which class is it?"
COLUMNS: Columns = {
    "hash": SPLIT_COLUMNS["hash"],
    "path": None,  # for people; of a photograph outside of the data's folder it is opened, see data.annotated
    "decision": (DECISIONS.__contains__, f"one of {', '.join(DECISIONS)}"),
    "value": None,
    "by": None,
    "when": None,
    "why": None,
}
WAIT = 30  # seconds for others that write
MARK = "\N{BYTE ORDER MARK}"  # by which Excel knows UTF-8


@dataclass(frozen=True)
class Decision:
    """A row of the table: what was decided of the photograph whose content has this hash.

    `value` is the class of `class`, the name of the group of `group`, and of `right` the hash of another photograph
    where it is the pair of them that was looked at. `withdrawn` takes back what the same person last decided of the
    photograph.
    """

    hash: str  # 32 hexadecimal digits, as in split.csv
    path: str
    decision: str  # one of DECISIONS
    value: str = ""
    by: str = ""
    when: str = ""
    why: str = ""


@dataclass(frozen=True)
class Decided:
    """What decisions have made of a table of N images."""

    labels: np.ndarray  # (N,) int32, as they were before
    splits: np.ndarray  # (N,) int8, before images were left out
    looked_at: np.ndarray  # (N,) bool: their class was changed or found right, or they were left out
    left_out: np.ndarray  # (N,) bool
    by_chance: np.ndarray  # (N,) bool: a random sample, where people were asked for the classes; see `drawn_by_chance`
    pairs: frozenset[tuple[int, int]]  # of rows, the lower first, that were looked at beside each other
    hash: str  # of the decisions that hold here
    sentence: str


def place_of(root: str | Path, corrections: str | Path | None = None) -> Path:
    """Where the table lies: as `data.corrections` says, or in the folder of the photographs or of their shards.

    Raises:
        UserError: it is called as no table is.
    """
    if corrections is not None:
        if Path(corrections).suffix.lower() != ".csv":  # a run of somebody else's shall not have any file written to
            raise UserError(f"data.corrections={corrections}, but it is a table whose name ends in .csv.")
        return Path(corrections).expanduser()
    return (index_path(root).parent if is_shards(root) else Path(root).expanduser()) / FILE


def read_decisions(path: Path) -> list[Decision]:
    """The rows of the table, the first decision first; none where there is no table yet.

    Raises:
        UserError: it is damaged, or cannot be read.
    """
    try:
        rows = list(read_rows(path, COLUMNS, encoding="utf-8-sig")) if path.stat().st_size else []
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise UserError(_is_open(path)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. data.corrections=FILE names another.") from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged: {error}.\nMend or remove that line (it is a table with commas, in UTF-8), restore the "
            "file from a copy, or name another: data.corrections=FILE"
        ) from error
    return [Decision(*row) for row in rows]


def _is_open(path: Path) -> str:
    return (
        f"{path} cannot be opened: another program, perhaps Excel, holds it, or it is not yours to write. Close it "
        "there, or have the table elsewhere: data.corrections=FILE.csv, or review --corrections FILE.csv. Nothing was "
        "changed."
    )


def standing(decisions: Iterable[Decision]) -> list[Decision]:
    """Those that were not withdrawn, in their order."""
    kept: dict[str, list[tuple[int, Decision]]] = {}
    for number, decision in enumerate(decisions):
        own = kept.setdefault(decision.hash, [])
        if decision.decision != WITHDRAWN:
            own.append((number, decision))
        elif last := next((one for one in reversed(own) if one[1].by == decision.by), None):
            own.remove(last)
    return [decision for _, decision in sorted((one for own in kept.values() for one in own), key=lambda one: one[0])]


def add_decisions(
    path: Path, new: Sequence[Decision], wanted: Callable[[list[Decision]], bool] = lambda known: True
) -> bool:
    """Appends rows, which are on the disk when this returns; whether they were wanted.

    Other processes that do the same wait for it. Where it fails, the table is as it was.

    Args:
        wanted: whether to append them after the rows that there are.

    Raises:
        UserError: the table is damaged, open in another program, or there is no place for it.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}. Nothing was decided.")
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT):
            known = read_decisions(path)
            if wanted(known):
                _append(path, new)
                return True
            return False
    except PermissionError as error:
        raise UserError(_is_open(path)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Nothing was decided.") from error


def _append(path: Path, new: Sequence[Decision]) -> None:
    """Raises OSError: nothing was appended."""
    header, *lines = csv_lines(COLUMNS, map(astuple, new))
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        text = "".join(lines)
        if size == 0:
            text = MARK + header + text
        else:
            file.seek(size - 1)
            text = ("" if file.read(1) == b"\n" else "\n") + text
        data = text.encode("utf-8", "surrogateescape")
        try:
            while data:  # of a disk that fills, a part may be written before the error comes
                data = data[file.write(data) :]
            os.fsync(file.fileno())
            if size == 0:
                keep_names(path.parent)
        except OSError:
            file.truncate(size)
            if size == 0:
                with suppress(OSError):
                    path.unlink()
            raise


def now() -> str:
    """The time, as the column `when` has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Decisions:
    """What a table decides of photographs, by their hashes."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.rows = standing(decisions)
        self._of: dict[str, list[Decision]] = {}
        self.groups: dict[str, str] = {}
        self.pairs: set[frozenset[str]] = set()
        for decision in self.rows:
            if decision.decision == GROUP:
                self.groups[decision.hash] = decision.value
            elif decision.decision == RIGHT and decision.value:
                self.pairs.add(frozenset((decision.hash, decision.value)))
            else:
                self._of.setdefault(decision.hash, []).append(decision)

    @cached_property
    def classes(self) -> dict[str, tuple[str, str]]:
        """Hash -> the path and the class of each photograph that was given one, and was not left out after it."""
        found = {}
        for digest, own in self._of.items():
            given = [decision for decision in own if decision.decision == CLASS]
            if given and own[-1].decision != LEFT_OUT:
                found[digest] = given[-1].path, given[-1].value
        return found

    def of(self, digest: str, path: str, is_there: Callable[[str], bool]) -> Decision | None:
        """The last decision on a photograph; None where there is none.

        Args:
            is_there: whether a path is of a file with the same content: of these, only the one that was meant is left
                out.
        """
        for decision in reversed(self._of.get(digest, ())):
            if decision.decision != LEFT_OUT or decision.path == path or not is_there(decision.path):
                return decision
        return None

    def of_files(self, files: Sequence[tuple[str, str]], root: Path | None = None) -> list[Decision | None]:
        """As `of`, of each (path, hash).

        Args:
            root: where further files may lie; None: these are all.
        """
        paths: dict[str, list[str]] = {}
        for path, digest in files:
            if digest in self._of:
                paths.setdefault(digest, []).append(path)

        def decision(path: str, digest: str) -> Decision | None:
            if digest not in paths:
                return None
            elsewhere = root and (lambda one: stays_below(one) and (root / one).is_file())
            return self.of(digest, path, lambda one: one in paths[digest] or bool(elsewhere and elsewhere(one)))

        return [decision(path, digest) for path, digest in files]

    def relabelled(
        self, files: Mapping[str, str], paths: Sequence[str], targets: np.ndarray, class_names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(N,) indices of the classes that images have by now, and (N,) whether they were not left out.

        Args:
            files: path -> hash of all files of a data set, among them the `paths` of the N images.
            targets: (N,) indices of the classes that they had.
        """
        decided = dict(zip(files, self.of_files(list(files.items())), strict=True))
        codes = {name: label for label, name in enumerate(class_names)}
        result, kept = targets.copy(), np.ones(len(paths), bool)
        for place, path in enumerate(paths):
            if (decision := decided.get(path)) is not None:
                kept[place] = decision.decision != LEFT_OUT
                if decision.decision == CLASS:
                    result[place] = codes.get(decision.value, result[place])
        return result, kept


def decisions_of(root: str | Path, corrections: str | Path | None = None) -> Decisions:
    """What people have decided of the photographs in a folder.

    Raises:
        UserError: the table is damaged, or one that is named is not there.
    """
    place = place_of(root, corrections)
    if corrections is not None and not place.is_file():
        raise UserError(f"data.corrections={corrections}, but there is no such file. Leave it out, or name another.")
    return Decisions(read_decisions(place))


def grouped(table: "ImageTable", decisions: Decisions, groups: list[str]) -> list[str]:
    """The groups, in which all of those that a decision puts together are one."""
    if not decisions.groups:
        return groups
    result = list(groups)
    renamed: dict[str, str] = {}
    for row, digest in enumerate(table.hashes):
        if (name := decisions.groups.get(digest)) is not None:
            result[row] = name
            if groups[row]:
                renamed[groups[row]] = name
    return [renamed.get(name, name) for name in result]


def corrected(table: "ImageTable", decisions: Decisions, whole: bool = True) -> "ImageTable":
    """The table with other labels and without what was left out; its splits stay, so that results can be compared.

    Args:
        whole: the table has all images of its folder: it is said how many decisions are on others.

    Raises:
        UserError: a decision names a class that there is not, or a class has no image left to train on.
    """
    if not decisions.rows:
        return table
    hashes = table.hashes
    labels, splits = table.labels.copy(), table.splits.copy()
    looked_at, gone, touched = np.zeros(len(hashes), bool), np.zeros(len(hashes), bool), False
    codes = {name: label for label, name in enumerate(table.class_names)}
    files = list(zip(table.paths, hashes, strict=True))
    for row, decision in enumerate(decisions.of_files(files, None if whole else table.root)):
        if decision is None:
            continue
        touched = True
        is_label = table.paths[row] in table.annotated and decision.decision == CLASS
        looked_at[row] = not is_label  # as any other label, the audit may doubt it
        if decision.decision == LEFT_OUT:
            splits[row], gone[row] = NO_SPLIT, True
        elif is_label:
            continue
        elif decision.decision == CLASS:
            if decision.value not in codes:
                raise UserError(
                    f"{FILE}: {decision.path} is given the class {decision.value!r}, but there are "
                    f"{table.class_names}. Withdraw that row in {FILE}, or add a folder of that class."
                )
            labels[row] = codes[decision.value]
    row_of = {digest: row for row, digest in enumerate(hashes)}
    pairs = {tuple(sorted(row_of[one] for one in pair if one in row_of)) for pair in decisions.pairs}
    missing = sum(decision.hash not in row_of for decision in decisions.rows) if whole else 0
    labelled = sum(path in table.annotated and splits[row] != NO_SPLIT for row, path in enumerate(table.paths))
    sentence = _sentence(decisions, table.labels != labels, gone, looked_at, missing, labelled)
    facts = [astuple(replace(one, by="", when="", why="")) for one in decisions.rows if one.hash in row_of]
    known = hashlib.blake2b(repr(facts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    decided = Decided(
        table.labels,
        table.splits,
        looked_at,
        gone,
        drawn_by_chance(hashes, decisions.rows),
        frozenset((pair[0], pair[1]) for pair in pairs if len(pair) == 2),
        known,
        sentence,
    )
    if not touched and not (decisions.groups.keys() | set().union(*decisions.pairs)) & set(hashes):
        if whole:
            log.warning("%s", sentence)
        return table
    passed_over = dict(table.passed_over)
    if gone.any():
        passed_over[LeftOut.DECIDED] = [table.paths[row] for row in np.flatnonzero(gone)]
    result = replace(table, labels=labels, splits=splits, passed_over=passed_over, decided=decided)
    _require_every_class(table, result)
    log.info("%s", sentence)
    return result


def drawn_by_chance(hashes: Sequence[str], decisions: Sequence[Decision]) -> np.ndarray:
    """(N,) bool: the photographs up to the last that was asked by chance, in the order of their hashes.

    One that was asked for another reason before its turn came belongs to the sample as well: without such, it would
    hold too few of those that a network is unsure of.
    """
    last = max((one.hash for one in decisions if one.why == BY_CHANCE), default="")
    return np.array([digest <= last for digest in hashes], bool)


def _sentence(
    decisions: Decisions, changed: np.ndarray, gone: np.ndarray, looked_at: np.ndarray, missing: int, labelled: int
) -> str:
    if missing == len(decisions.rows):
        return (
            f"Corrections: no row of the {missing} in {FILE} matches an image here. It is of other photographs, or "
            "these have changed."
        )
    right = int((looked_at & ~changed & ~gone).sum())
    parts = [
        _counted(int(changed.sum()), "label", "changed"),
        _counted(int(gone.sum()), "image", "left out"),
        f"{right:,} looked at and right",
    ]
    if labelled:
        parts.insert(0, _counted(labelled, "photograph", "labelled"))
    if number := len(decisions.pairs):
        parts.append(f"{_counted(number, 'pair', 'looked at')}")
    if number := len(decisions.groups):
        parts.append(f"{_counted(number, 'image', 'grouped')}")
    more = f"; {missing:,} row{'s match' if missing != 1 else ' matches'} no image here" if missing else ""
    return f"Corrections: {', '.join(parts)}{more}."


def _counted(number: int, noun: str, done: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'} {done}"


def _require_every_class(before: "ImageTable", after: "ImageTable") -> None:
    for split in SPLITS:
        lost = [name for name in after.missing_classes(split) if name not in before.missing_classes(split)]
        if (lost and split == "train") or (len(before.rows(split)) and not len(after.rows(split))):
            what = f"no {split} image{f' of {lost}' if lost and len(after.rows(split)) else ''}"
            raise UserError(
                f"{FILE} leaves {what}: all were left out, or have another class now. Withdraw some of these "
                "decisions, or remove the class folder."
            )
