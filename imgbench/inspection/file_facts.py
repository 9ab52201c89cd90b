"""Findings about single files: damaged, mislabelled, tiny, turned, of one colour, of unusual modes and sizes."""

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from imgbench.data.look import Header
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut
from imgbench.decode import FORMATS
from imgbench.inspection.findings import Finding, counted, first_few
from imgbench.inspection.thumbnails import Thumbnails

TINY = 32  # pixels of the short side
LONG = 4  # times the short side
RARE = 0.05  # a mode or size that fewer images have is unusual
STRAY = {
    LeftOut.EMPTY: ("empty_file", "warning", "Copy them again from where they came, or delete them."),
    LeftOut.HIDDEN: ("hidden_file", "note", None),
    LeftOut.OTHER: ("other_file", "note", None),
    LeftOut.BROKEN: ("broken_link", "warning", "Restore what they point to, or delete them."),
    LeftOut.BESIDE: ("stray_folder", "warning", "Move what belongs to a split below train, val or test."),
    LeftOut.VISITED: ("stray_folder", "note", None),
    LeftOut.UNLABELLED: ("unlabelled", "note", "Sort them into class folders, or classify them with imgbench.predict."),
}


def read_headers(table: ImageTable) -> list[Header | None]:
    """Entry i belongs to `paths[i]`; None where the image cannot be decoded."""
    return [None if row in table.errors else table.looks.header(row) for row in range(len(table.paths))]


def file_findings(table: ImageTable, headers: list[Header | None], thumbnails: Thumbnails) -> Iterator[Finding]:
    yield from damaged(table)
    yield from left_out(table)
    yield from mislabelled(table, headers)
    yield from tiny(table, headers)
    yield from elongated(table, headers)
    yield from turned_by_exif(table, headers)
    yield from single_coloured(table, thumbnails)
    yield from unusual_modes(table, headers)
    yield from unusual_sizes(table, headers)


def damaged(table: ImageTable) -> Iterator[Finding]:
    """Every file was decoded as a whole: what is cut short does not show before."""
    if table.errors:
        examples = [f"{table.paths[row]} ({reason})" for row, reason in sorted(table.errors.items())]
        yield Finding(
            "damaged",
            "warning",
            f"{counted(len(examples), 'file')} cannot be decoded, and are left out.",
            len(examples),
            first_few(examples),
            "Copy them again from where they came, or delete them.",
        )


def left_out(table: ImageTable) -> Iterator[Finding]:
    """What lies in the folder and is no image of a class."""
    for reason, paths in sorted(table.passed_over.items()):
        kind, severity, remedy = STRAY.get(reason, ("left_out", "note", None))
        message = f"{len(paths):,} left out: {reason}."
        yield Finding(kind, severity, message, len(paths), first_few(sorted(paths)), remedy)


def mislabelled(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    """The ending of the name says another format than the content."""
    examples = []
    for path, header in zip(table.paths, headers, strict=True):
        ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 a Path per file costs memory and time
        if header and ending not in FORMATS[header.format].endings:
            examples.append(f"{path} ({header.format})")
    if examples:
        yield Finding(
            "ending",
            "note",
            f"{counted(len(examples), 'file')} of another format than the ending says: read by content all the same, "
            "but other programs may refuse them.",
            len(examples),
            first_few(examples),
        )


def tiny(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    rows = [row for row, header in enumerate(headers) if header and min(header.width, header.height) < TINY]
    if rows and len(rows) < len(headers) / 2:  # else the data set is made of small images
        yield Finding(
            "tiny",
            "warning",
            f"{counted(len(rows))} with fewer than {TINY} pixels on the short side: thumbnails or icons among "
            "photographs?",
            len(rows),
            first_few([_with_size(table, headers, row) for row in rows]),
            "Replace them by the originals, or delete them.",
        )


def elongated(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    rows = [
        row
        for row, header in enumerate(headers)
        if header and max(header.width, header.height) > LONG * min(header.width, header.height)
    ]
    if rows:
        yield Finding(
            "aspect",
            "warning",
            f"{counted(len(rows))} more than {LONG} times as long as wide: stretched to a square, they are hard to "
            "recognise.",
            len(rows),
            first_few([_with_size(table, headers, row) for row in rows]),
            "Crop them to the subject, or try data.short_side, which keeps proportions.",
        )


def turned_by_exif(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    rows = [row for row, header in enumerate(headers) if header and header.turned]
    if rows:
        yield Finding(
            "exif",
            "note",
            f"{counted(len(rows))} stored lying and turned upright by their EXIF entry: so in training and prediction, "
            "but programs that ignore the entry show them otherwise.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
        )


def single_coloured(table: ImageTable, thumbnails: Thumbnails) -> Iterator[Finding]:
    grey = thumbnails.grey.reshape(len(thumbnails.grey), -1)
    flat = grey.max(1, initial=0).astype(int) - grey.min(1, initial=255) <= 2
    rows = [int(row) for row in np.flatnonzero(flat) if int(row) not in table.errors]
    if rows:
        yield Finding(
            "one_colour",
            "warning",
            f"{counted(len(rows))} of a single colour: lens caps, failed exports or placeholders?",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Delete them.",
        )


def unusual_modes(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    """Grey images among coloured ones, palettes, transparency, more than 8 bits."""
    modes = Counter(header.mode for header in headers if header)
    for mode, number in modes.items():
        if number < RARE * modes.total():
            rows = [row for row, header in enumerate(headers) if header and header.mode == mode]
            usual = modes.most_common(1)[0][0]
            labels = {table.class_names[table.labels[row]] for row in rows}
            yield Finding(
                "mode",
                "note",
                f"{counted(number)} stored as {mode}, while most are {usual}"
                + (f"; all of class {labels.pop()!r}." if len(labels) == 1 and number > 1 else "."),
                number,
                first_few([table.paths[row] for row in rows]),
            )


def unusual_sizes(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    """Where nearly all images have one size, the few others come from elsewhere."""
    sizes = Counter((header.width, header.height) for header in headers if header)
    if not sizes:
        return
    (width, height), number = sizes.most_common(1)[0]
    if number < sizes.total() and sizes.total() - number < RARE * sizes.total():
        rows = [
            row for row, header in enumerate(headers) if header and (header.width, header.height) != (width, height)
        ]
        yield Finding(
            "size",
            "note",
            f"{counted(len(rows))} of another size than {width} x {height}, which all others have.",
            len(rows),
            first_few([_with_size(table, headers, row) for row in rows]),
        )


def _with_size(table: ImageTable, headers: list[Header | None], row: int) -> str:
    header = headers[row]
    assert header is not None
    return f"{table.paths[row]} ({header.width} x {header.height})"
