"""The predictions of a collection in one file, written as they come: CSV, Parquet, JSON or Excel.

The rows of every format grow in a CSV file. Parquet ends with a table of contents without which nothing can be read,
and JSON with a bracket, so that neither can be cut short by a kill and gone on with: these are made of a CSV file
beside them when all rows are there, and put in place at once. A folder of small Parquet files would be readable
earlier, but it would be many files where one was asked for.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.files import replacing
from imgbench.inference.journal import Journal, check_source, csv_line, describe

FACTS = (
    "path",
    "predicted",
    "probability",
    "classes",
    "unsure",
    "error",
    "placed",
)  # the columns beside those of the classes
METADATA = b"imgbench"
CELLS = 2_000_000  # of a row group: some ten megabytes
ENDINGS = (".csv", ".json", ".parquet", ".xlsx")
PACKAGES = {".parquet": "pyarrow", ".xlsx": "openpyxl"}
EXCEL_ROWS = 2**20  # of a sheet


def check_ending(path: Path) -> None:
    """Raises UserError: no file of ours ends so, or the package for it is not installed."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--output {path} should end in .csv or .json or .parquet or .xlsx.")
    package = PACKAGES.get(path.suffix.lower())
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"--output {path} needs {package}, not installed here. Mend it with: pip install "
            f'"imgbench[{path.suffix.lower()[1:]}]", or write a .csv'
        )


def class_columns(class_names: Sequence[str]) -> list[str]:
    """The names of the columns of probabilities: those of the classes, unless another column is called so."""
    return [f"probability of {name}" if name in FACTS else name for name in class_names]


@contextmanager
def prediction_file(
    path: Path, columns: Sequence[str], source: dict[str, Any], batch: int, plain: bool = True
) -> Iterator[Journal]:
    """Where to append the rows; at the end without an error the file is there.

    Args:
        columns, source, batch: as of `Journal`.
        plain: whether the names of files and classes are ASCII. Of others, Excel has to be told how they are encoded.

    Raises:
        UserError: as of `Journal`.
    """
    ending = path.suffix.lower()
    place = path if ending == ".csv" else path.with_name(f"{path.name}.unfinished.csv")
    continued = ending == ".parquet" and path.is_file() and not place.exists()
    if continued:
        _continue_parquet(path, place, columns, source)
    journal = Journal(place, columns, source, batch, marked=ending == ".csv" and not plain)
    before = journal.rows
    try:
        yield journal
        journal.complete()
        if ending != ".csv" and not (continued and journal.rows == before and not journal.replaced):
            try:
                {".parquet": _write_parquet, ".json": _write_json, ".xlsx": _write_excel}[ending](path, journal)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be written: {error.strerror}.\nKept: all predictions, in {place}. Make room, then "
                    "repeat the same command."
                ) from error
        if ending != ".csv":
            journal.remove()
    finally:
        journal.close()


def readable(text: str) -> str:
    """A name as every format holds it: Parquet and JSON hold UTF-8 only, which names of files need not be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_json(path: Path, journal: Journal) -> None:
    names = [name for name in journal.columns if name not in FACTS]
    with replacing(path, "w", encoding="utf-8", newline="") as file:
        for number, row in enumerate(journal):
            probabilities = {name: float(row[name]) for name in names if row[name]}
            content: dict[str, Any] = {name: readable(row[name]) or None for name in FACTS if name in row}
            content["probability"] = float(row["probability"]) if row["probability"] else None
            content["probabilities"] = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
            text = json.dumps(content, indent=2, ensure_ascii=False).replace("\n", "\n  ")
            file.write(("[" if number == 0 else ",") + f"\n  {text}")
        file.write("\n]\n" if journal.rows else "[]\n")


def _write_excel(path: Path, journal: Journal) -> None:
    from openpyxl import Workbook
    from openpyxl.cell import Cell, WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if journal.rows >= EXCEL_ROWS:
        raise UserError(f"--output {path}: Excel takes {EXCEL_ROWS - 1:,} rows, not {journal.rows:,}. Write a .csv")
    book = Workbook(write_only=True)
    sheet = book.create_sheet("predictions")

    def text(value: str) -> Cell:
        cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("?", readable(value)))
        cell.data_type = "s"  # a name such as =1.jpg is no formula
        return cell

    sheet.freeze_panes = "A2"
    sheet.append([text(name) for name in journal.columns])
    words = [name in FACTS and name != "probability" for name in journal.columns]
    for row in journal:
        cells = zip(row.values(), words, strict=True)
        sheet.append([None if not cell else text(cell) if word else float(cell) for cell, word in cells])
    with replacing(path, "wb") as file:
        book.save(file)


def _write_parquet(path: Path, journal: Journal) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = [name in FACTS and name != "probability" for name in journal.columns]
    schema = pyarrow.schema(
        [
            (name, pyarrow.string() if text else pyarrow.float32())
            for name, text in zip(journal.columns, texts, strict=True)
        ],
        {METADATA: json.dumps(journal.source, ensure_ascii=False).encode()},
    )
    with replacing(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for rows in _chunks(journal, max(1, CELLS // len(journal.columns))):
            columns = [
                [_value(row[name], text) for row in rows] for name, text in zip(journal.columns, texts, strict=True)
            ]
            arrays = [pyarrow.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _value(cell: str, text: bool) -> str | float | None:
    if not cell:
        return None
    return readable(cell) if text else float(cell)


def _chunks(rows: Iterable[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    chunk: list[dict[str, str]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _continue_parquet(path: Path, place: Path, columns: Sequence[str], source: dict[str, Any]) -> None:
    """Writes the rows of a finished file to where further ones can be added."""
    import pyarrow
    from pyarrow import parquet

    remove = f"Name another file, or remove {path}."
    try:
        with parquet.ParquetFile(path) as file:
            found = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"null"))
            if not isinstance(found, dict) or file.schema_arrow.names != list(columns):
                raise UserError(f"{path} exists, but was not written by this command.\n{remove}")
            check_source(path, found, source, remove)
            describe(place, {**source, "begun": path.stat().st_mtime}, file.metadata.num_rows)
            with replacing(place, "wb") as journal:
                journal.write(csv_line(columns))
                for rows in file.iter_batches(max(1, CELLS // len(columns))):
                    for row in rows.to_pylist():
                        journal.write(csv_line([_cell(row[name]) for name in columns]))
    except (pyarrow.ArrowException, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no Parquet file, or a damaged one: {error}.\n{remove}") from error
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}.") from error


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else str(np.float32(value))
