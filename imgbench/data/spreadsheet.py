"""Tables as people have them, as columns of text: CSV in any usual encoding, Excel, JSON lines, Parquet."""

import csv
import datetime
import importlib.util
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from imgbench.cells import unguarded
from imgbench.errors import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "blanks"}
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
PACKAGES = {".xlsx": "openpyxl", ".parquet": "pyarrow"}
ENDINGS = (".csv", ".tsv", ".xlsx", ".jsonl", ".ndjson", ".parquet")
LOOKED_AT = 50  # lines from which it is told what separates columns
HIGH = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True)
class Spreadsheet:
    """A table; cell i of each column belongs to row i. Blanks around texts are gone, and an empty cell is ""."""

    path: Path
    columns: dict[str, list[str]]
    form: str = ""  # what had to be guessed of a text file, such as "GB18030, semicolons"
    beside: tuple[Path, ...] = ()  # further files whose rows it has

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def without_header(self) -> "Spreadsheet":
        """The table whose first row is no row of names, but one like the others."""
        cells = ([name, *column] for name, column in self.columns.items())
        return replace(self, columns={f"column {place}": column for place, column in enumerate(cells, start=1)})


def read_spreadsheet(path: Path, option: str = "data.labels") -> Spreadsheet:
    """The table in a file, whose first row of two cells or more names the columns.

    Raises:
        UserError: it is no table, damaged or empty, or a package for it is missing; `option` is how it was named.
    """
    ending, form = path.suffix.lower(), ""
    package = PACKAGES.get(ending)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f'{option}={path} needs {package}, not installed here. Mend it with: pip install "imgbench[{ending[1:]}]", '
            "or save it as .csv"
        )
    try:
        if ending == ".xlsx":
            rows = _excel_rows(path)
        elif ending == ".parquet":
            rows = _parquet_rows(path)
        elif ending in (".jsonl", ".ndjson"):
            rows = _json_rows(path)
        elif ending in (".csv", ".tsv", ".txt"):
            rows, form = _text_rows(path.read_bytes())
        else:
            known = ", ".join(ENDINGS)
            raise UserError(f"{option}={path} is no table that imgbench reads ({known}). Save it as .csv or .xlsx.")
        return Spreadsheet(path, _as_columns(rows), form)
    except UserError:
        raise
    except Exception as error:  # openpyxl and pyarrow have no common one
        reason = str(error) or type(error).__name__
        raise UserError(f"{option}={path} cannot be read as a table: {reason}. Save it anew, as .csv.") from error


def _as_columns(rows: Iterable[Sequence[Any]]) -> dict[str, list[str]]:
    lines = [(number, [_text(cell) for cell in row]) for number, row in enumerate(rows, start=1)]
    lines = [(number, row) for number, row in lines if any(row)]
    while len(lines) > 1 and _filled(lines[0][1]) == 1 < _filled(lines[1][1]):
        del lines[0]  # a title above the table
    if len(lines) < 2:
        raise ValueError("it has no rows below the names of its columns")
    (_, header), *lines = lines
    for number, row in lines:
        if any(row[len(header) :]):
            raise ValueError(
                f"line {number} has {len(row)} cells, and there are {len(header)} columns; a text that holds what "
                "separates columns needs quotation marks"
            )
    columns: dict[str, list[str]] = {}
    for place, name in enumerate(header):
        cells = [row[place] if place < len(row) else "" for _, row in lines]
        if name or any(cells):
            columns[_unique(name or f"column {place + 1}", columns)] = cells
    return columns


def _filled(row: Sequence[str]) -> int:
    return sum(map(bool, row))


def _unique(name: str, taken: Container[str]) -> str:
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(one for one in names if one not in taken)


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "" if cell != cell else str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        cell = cell.date()
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    return unguarded(str(cell).strip())


def _text_rows(data: bytes) -> tuple[list[list[str]], str]:
    encoding = _encoding(data)
    text = data.decode(encoding)
    if "\0" in text:
        raise ValueError("it holds zeros: no text, or UTF-16 without its mark")
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?\s*', first)  # how Excel is told
    text, delimiter = (rest, stated[1]) if stated else (text, _delimiter(text))
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    guessed = [encoding.upper()] if encoding in ("gb18030", "cp1252", "latin-1") else []
    guessed += [DELIMITERS.get(delimiter, repr(delimiter))] if delimiter != "," else []
    return rows, ", ".join(guessed).replace("CP1252", "Latin-1").replace("LATIN-1", "Latin-1")


def _encoding(data: bytes) -> str:
    """By its mark; without one UTF-8 if it is that, and else GB18030 or Latin-1.

    Chinese characters have two bytes above 127 in nearly all of GB18030 that is written, and come in words. Letters
    with accents have one, and stand among letters without.
    """
    if found := next((name for mark, name in MARKS.items() if data.startswith(mark)), None):
        return found
    for encoding in ("utf-8", "gb18030", "cp1252"):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "gb18030":
            return encoding
        runs = [len(run) for run in HIGH.findall(data)]
        if sum(length for length in runs if length % 2 == 0) > sum(runs) / 2:
            return encoding
    return "latin-1"


def _delimiter(text: str) -> str:
    """What divides the first lines into the same number of columns, most of them.

    Blanks are in names and paths as well: they divide only where nothing else does.
    """
    lines = text.splitlines(keepends=True)[:LOOKED_AT]

    def agreement(delimiter: str) -> tuple[float, bool, int]:
        counts = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row)
        columns, number = max(counts.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        return (number / counts.total() if columns > 1 else 0.0, delimiter != " ", columns)

    return max(DELIMITERS, key=agreement)


def _excel_rows(path: Path) -> Sequence[Sequence[Any]]:
    """Of the first sheet that has rows: what formulas came to, not themselves."""
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a sheet has besides cells
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # some programs write wrong ones
                rows = [row for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row)]
                if len(rows) > 1:
                    return rows
        finally:
            book.close()
    return []


def _json_rows(path: Path) -> list[Sequence[Any]]:
    objects = [json.loads(line) for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(one, dict) for one in objects):
        raise ValueError("a line is no object")
    names = list(dict.fromkeys(name for one in objects for name in one))
    return [names, *([one.get(name) for name in names] for one in objects)]


def _parquet_rows(path: Path) -> list[Sequence[Any]]:
    """But for columns that hold more than a value in a cell, such as the images themselves."""
    from pyarrow import parquet, types

    schema = parquet.read_schema(path)
    plain = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
    table = parquet.read_table(path, columns=plain)
    return [plain, *zip(*(column.to_pylist() for column in table.columns), strict=True)]
