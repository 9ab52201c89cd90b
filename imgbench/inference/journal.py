"""A CSV file that grows row by row, and that can be gone on with wherever its writer was killed."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from imgbench.cells import guarded, unguarded
from imgbench.errors import UserError
from imgbench.files import replacing, write_atomically
from imgbench.language import counted


def csv_line(cells: Sequence[object]) -> bytes:
    """A row of CSV; Python before 3.13 would leave a carriage return in a file's name unquoted with another ending."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(map(guarded, cells))
    return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "surrogateescape")


def complete_rows(file: BinaryIO, sure: int = sys.maxsize) -> Iterator[tuple[int, list[str]]]:
    """Each row that was written to its end, and where in the file that is.

    Args:
        sure: of how many rows after the names of the columns it is certain that they are on disk. When the power went,
            others may have zeros, which no name holds: there the rows end.
    """
    row, end, number = b"", 0, 0
    for line in file:
        row += line
        if number > sure and b"\0" in row:
            return
        # A name may hold a line break; then the quotation marks up to there are odd in number.
        if row.endswith(b"\n") and row.count(b'"') % 2 == 0:
            end += len(row)
            number += 1
            cells = next(csv.reader([row.decode("utf-8", "surrogateescape")], strict=True))
            yield end, [*map(unguarded, cells)]
            row = b""


def description(path: Path) -> Path:
    """The file that says what the rows of `path` are of."""
    return path.with_name(f"{path.name}.source.json")


def describe(path: Path, source: dict[str, Any], rows: int) -> None:
    """Writes it; `rows` of them are complete."""
    write_atomically(description(path), json.dumps({**source, "rows": rows}, indent=2, ensure_ascii=False) + "\n")


MARK = b"\xef\xbb\xbf"


class Journal:
    """The rows lie in `path`; what they are of, in `<path>.source.json` beside it, so that nothing else is mixed in.

    A batch of rows is one write. What a crash left half-written is cut off when the file is opened the next time.

    Args:
        columns: of the rows.
        source: plain values that say what the rows are of; a file of another source is refused.
        marked: whether the file begins with the mark that tells Excel that it is UTF-8.
        batch: of what was written since the rows were last complete, only whole batches of this number are kept when
            the file is opened: so images are computed among the same others as without an interruption, and the numbers
            are the same to the last digit. 1 keeps each row.

    Raises:
        UserError: the file is of something else, damaged or in use, or cannot be written.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], source: dict[str, Any], batch: int = 1, marked: bool = False
    ) -> None:
        from filelock import FileLock, Timeout  # a tenth of a second, which few commands need

        self.path, self.columns, self.source = path, list(columns), source
        self.begun: float | None = None  # seconds: no file of the rows was read before; None where nothing says so
        self.replaced = False
        self._complete = 0
        self.head = (MARK if marked else b"") + csv_line(self.columns)
        self.lock = FileLock(path.with_name(f".{path.name}.running"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(f"Another process writes {path}. Wait for its end, or name another file.") from error
        except OSError as error:
            raise UserError(f"--output {path} cannot be written: {error.strerror}. Name another place.") from error
        try:
            self.rows = self._open(batch)
            self.file = path.open("r+b", buffering=0)
            self.end = self.file.seek(0, os.SEEK_END)
        except OSError as error:
            self._unlock()
            raise UserError(f"--output {path} cannot be written: {error.strerror}. Name another place.") from error
        except BaseException:
            self._unlock()
            raise

    @property
    def description(self) -> Path:
        return description(self.path)

    def _open(self, batch: int) -> int:
        """Makes the file fit to append to; returns how many rows it has."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            self._describe(0)
            self._begin()
            return 0
        found = self._check_source()
        complete = self._complete = found.get("rows", 0)
        self.begun = found.get("begun")
        rows, number, kept = -1, 0, 0
        with self.path.open("rb") as file:
            for end, _ in _checked(self.path, complete_rows(file, complete), len(self.columns)):
                rows += 1
                if rows <= complete or (rows - complete) % batch == 0:
                    number, kept = rows, end
        if rows < 0:  # not even the names of the columns are whole
            self._begin()
        elif kept < self.path.stat().st_size:
            os.truncate(self.path, kept)
        return number

    def _begin(self) -> None:
        """Writes the names of the columns, and no part of them."""
        with replacing(self.path, "wb") as file:
            file.write(self.head)

    def _describe(self, rows: int) -> None:
        self._complete = rows
        describe(self.path, {**self.source, "begun": self.begun}, rows)

    def _check_source(self) -> dict[str, Any]:
        remove = f"Name another file, or remove {self.path} and {self.description.name}."
        if not self.description.is_file():
            raise UserError(
                f"{self.path} exists, but nothing says which model its rows are of: there is no "
                f"{self.description.name} beside it.\n{remove}"
            )
        try:
            found = json.loads(self.description.read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
            if type(found.get("rows", 0)) is not int or not isinstance(found.get("begun"), int | float | None):
                raise ValueError("rows or begun is no number")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.description} is damaged: {error}.\n{remove}") from error
        check_source(self.path, found, self.source, remove)
        return found

    def __iter__(self) -> Iterator[dict[str, str]]:
        """The rows that are there."""
        with self.path.open("rb") as file:
            rows = _checked(self.path, complete_rows(file), len(self.columns))
            next(rows)
            for _, cells in rows:
                yield dict(zip(self.columns, cells, strict=True))

    def replace(self, rows: Mapping[int, Sequence[object]]) -> None:
        """Puts these rows, by their number, in the place of those that are there; all at once.

        Raises:
            UserError: there is no place left; what was there before is still there.
        """
        try:
            with self.path.open("rb") as old, self.path.open("rb") as copied, replacing(self.path, "wb") as new:
                start = 0
                # The names of the columns come before the first row.
                for number, (end, _) in enumerate(_checked(self.path, complete_rows(old), len(self.columns)), -1):
                    line = copied.read(end - start)
                    new.write(csv_line(rows[number]) if number in rows else line)
                    start = end
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}. Make room, and repeat it.") from error
        self.file.close()
        self.file = self.path.open("r+b", buffering=0)
        self.end = self.file.seek(0, os.SEEK_END)
        self.replaced = True

    def begin_anew(self, time: float) -> None:
        """Notes that the rows that are there hold for the files as they are now."""
        self.begun = time
        self._describe(self._complete)

    def append(self, rows: Sequence[Sequence[object]]) -> None:
        """Raises UserError: there is no place left; what was there before is still there."""
        data = memoryview(b"".join(map(csv_line, rows)))
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            os.truncate(self.path, self.end)  # which takes no place
            raise UserError(
                f"{self.path} cannot grow: {error.strerror}.\nKept: its {counted(self.rows, 'row')}. Make room, "
                "then repeat the same command: it goes on from there."
            ) from error
        self.end = self.file.tell()
        self.rows += len(rows)

    def complete(self) -> None:
        """Notes that no rows are missing: those that are there stay, whatever comes later.

        Raises:
            UserError: they cannot be brought to disk.
        """
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}. Repeat the same command.") from error
        self._describe(self.rows)

    def close(self) -> None:
        self.file.close()
        self._unlock()

    def remove(self) -> None:
        """What says whose rows they are goes last, so that a kill leaves nothing unexplained."""
        self.path.unlink(missing_ok=True)
        self.description.unlink(missing_ok=True)

    def _unlock(self) -> None:
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()


def _checked(path: Path, rows: Iterator[tuple[int, list[str]]], columns: int) -> Iterator[tuple[int, list[str]]]:
    end = 0
    try:
        for end, cells in rows:
            if len(cells) != columns:
                raise ValueError(f"a row has {len(cells)} cells, not {columns}")
            if any("\0" in cell for cell in cells):
                raise ValueError("a row holds zeros, which no path does")
            yield end, cells
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged before byte {end}: {error}.\nRestore it, or name another file.") from error


def check_source(path: Path, found: dict[str, Any], expected: dict[str, Any], remove: str) -> None:
    """Refuses to add to a file what is of another source; a run that was only moved is the same.

    Raises:
        UserError: it is; `remove` says how to do without the file.
    """
    for name, value in expected.items():
        if name != "run" and found.get(name) != value:
            raise UserError(
                f"{path} has results of something else, of {found.get('run')}, and they are not mixed.\n"
                f"Its {name}: {_short(found.get(name))}\nHere: {_short(value)}\n{remove}"
            )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
