"""A table of images as a file: `split.csv` of a run, and the index of shards, which has further columns."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from imgbench.cells import guarded, unguarded
from imgbench.trust import stays_below

SPLITS = ("train", "val", "test")
# Column -> what its entries are, and in words; None where they are any text.
Columns = Mapping[str, tuple[Callable[[str], object], str] | None]
SPLIT_COLUMNS: Columns = {
    "path": (stays_below, "a file below the data's folder"),
    "class": None,
    "group": None,
    "split": (SPLITS.__contains__, "train, val or test"),
    "hash": (re.compile("[0-9a-f]{32}").fullmatch, "32 hexadecimal digits"),
}


def cross_validating(split: Mapping[str, object]) -> object | None:
    """Into how many folds the plan of a split, `data.split`, divides within one run; None where it tests on a part."""
    return split.get("folds") if split.get("fold") is None else None


def read_rows(path: Path, columns: Columns, encoding: str = "utf-8") -> Iterator[list[str]]:
    """The rows of a file, one at a time, since there may be millions.

    Raises:
        OSError: it cannot be read.
        ValueError, csv.Error: it is damaged.
    """
    checks = [(place, name, *check) for place, (name, check) in enumerate(columns.items()) if check]
    with path.open(newline="", encoding=encoding, errors="surrogateescape") as file:
        reader = csv.reader(file, strict=True)
        if (first := next(reader, None)) != [*columns]:
            raise ValueError(f"its columns are {first}, not {[*columns]}")
        for cells in filter(None, reader):
            row = [*map(unguarded, cells)]
            if len(row) != len(columns):
                raise ValueError(f"line {reader.line_num} has not {len(columns)} columns")
            for place, name, is_right, expected in checks:
                if not is_right(row[place]):
                    raise ValueError(f"line {reader.line_num} has the {name} {row[place]!r}, not {expected}")
            yield row


class _LastLine:
    """What a `csv.writer` takes for a file."""

    def write(self, line: str) -> None:
        self.line = line


def csv_lines(columns: Iterable[str], rows: Iterable[Sequence[str]], guard: bool = True) -> Iterator[str]:
    """The lines of a file, never all at once, since of a million images they take a quarter of a gigabyte.

    Args:
        guard: as `imgbench.cells` has it; a hash is taken of the texts as they are.
    """
    last = _LastLine()
    writer = csv.writer(last, lineterminator="\n")
    for row in chain([[*columns]], rows):
        writer.writerow(map(guarded, row) if guard else row)
        yield last.line
