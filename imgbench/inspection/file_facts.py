"""Findings about single files: damaged, no photographs, mislabelled, tiny, turned, of one colour, of unusual kinds."""

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from imgbench.data.derived import augmented_rows, mask_rows
from imgbench.data.look import Header
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut
from imgbench.decode import FORMATS
from imgbench.inspection.findings import Finding, first_few
from imgbench.inspection.thumbnails import Thumbnails
from imgbench.language import counted

TINY = 32  # pixels of the short side
LONG = 4  # times the short side
RARE = 0.05  # a mode or size that fewer images have is unusual
SCALE = 15  # times the usual values: four bits more
SUSPICIOUS = 0.4  # as of shortcuts.SUSPICIOUS: the share of the errors of always answering the largest class
SHADES = 8  # grey levels within which two are taken for one
FULL = 0.9  # share of the pixels of an image of two levels; the others are edges, blurred where it was made smaller
STRAY = {
    LeftOut.EMPTY: ("empty_file", "warning", "Copy them again from where they came, or delete them."),
    LeftOut.HIDDEN: ("hidden_file", "note", None),
    LeftOut.OTHER: ("other_file", "note", None),
    LeftOut.BROKEN: ("broken_link", "warning", "Restore what they point to, or delete them."),
    LeftOut.BESIDE: ("stray_folder", "warning", "Move what belongs to a split below train, val or test."),
    LeftOut.VISITED: ("stray_folder", "note", None),
    LeftOut.UNLABELLED: ("unlabelled", "note", "Give them a class, or classify them with imgbench.predict."),
    LeftOut.UNLISTED: ("unlisted", "note", "Give them a row in the table, or classify them with imgbench.predict."),
    LeftOut.MISSING: ("missing_file", "warning", "Copy them from where the others came, or delete their rows."),
    LeftOut.CONTRADICTED: ("contradicted", "warning", "Look at them, and leave one class for each in the table."),
}


def read_headers(table: ImageTable) -> list[Header | None]:
    """Entry i belongs to `paths[i]`; None where the image cannot be decoded."""
    return [None if row in table.errors else table.looks.header(row) for row in range(len(table.paths))]


def subjects(table: ImageTable) -> tuple[str, list[str]]:
    """What DICOM files tell apart, patients or else studies or series, and a name of that of each image.

    The names are hashes, and of other images their rows; there are none where all files say the same, or none is DICOM.
    """
    for what, hashes in zip(("patients", "studies", "series"), table.looks.facts["subject"].T, strict=True):
        if len(np.unique(hashes[hashes != 0])) > 1:
            return what, [str(one) if one else f"row {row}" for row, one in enumerate(hashes.tolist())]
    return "", []


def same_subject(table: ImageTable) -> Iterator[Finding]:
    what, names = subjects(table)
    number = len({name for name in names if not name.startswith("row")})
    if 0 < number < len(names):
        yield Finding(
            "subjects",
            "note",
            f"The DICOM files are of {number:,} {what}. Those of one are kept on one side by data.split.group=auto.",
            number,
        )


def file_findings(table: ImageTable, headers: list[Header | None], thumbnails: Thumbnails) -> Iterator[Finding]:
    yield from by_labels(table)
    looked_at = table.looked_at
    unseen = [None if row in looked_at else header for row, header in enumerate(headers)]
    yield from damaged(table)
    yield from left_out(table)
    yield from masks(table)
    yield from two_levels(table, thumbnails)
    yield from augmented(table)
    yield from mislabelled(table, unseen)
    yield from tiny(table, unseen)
    yield from elongated(table, unseen)
    yield from turned_by_exif(table, unseen)
    yield from single_coloured(table, thumbnails)
    yield from same_subject(table)
    yield from further_pages(table, unseen)
    yield from stray_values(table)
    yield from colour_profiles(table, headers)
    yield from unusual_modes(table, unseen)
    yield from unusual_sizes(table, unseen)


def by_labels(table: ImageTable) -> Iterator[Finding]:
    """Which table says the classes, and which of its columns were taken for what."""
    if table.source.labels:
        yield Finding("labels", "note", " ".join(table.notes), len(table.paths))


def damaged(table: ImageTable) -> Iterator[Finding]:
    """Every file was decoded as a whole: what is cut short does not show before."""
    if rows := sorted(table.errors.keys() - table.looked_at):
        examples = [f"{table.paths[row]} ({table.errors[row]})" for row in rows]
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
        if reason.remedy:
            kind, remedy = "unread", f"{reason.remedy}."
        message = f"{len(paths):,} left out: {reason}."
        yield Finding(kind, severity, message, len(paths), first_few(sorted(paths)), remedy)


def masks(table: ImageTable) -> Iterator[Finding]:
    if rows := mask_rows(table.paths):
        yield Finding(
            "masks",
            "warning",
            f"{counted(len(rows))} called masks, whose photographs are there too: they are no photographs, but are "
            "trained and tested on.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Move them out of the folder.",
        )


def two_levels(table: ImageTable, thumbnails: Thumbnails) -> Iterator[Finding]:
    """Masks without a name that says so, drawings and text; not where most images are of that kind."""
    found = []
    for start in range(0, len(thumbnails.grey), 4096):
        grey = thumbnails.grey[start : start + 4096].reshape(-1, thumbnails.grey[0].size).astype(np.int16)
        dark, bright = grey - grey.min(1, keepdims=True) <= SHADES, grey.max(1, keepdims=True) - grey <= SHADES
        levels = (dark | bright).mean(1) >= FULL
        both = np.minimum(dark.mean(1), bright.mean(1)) >= (1 - FULL) / 5
        found += (start + np.flatnonzero(levels & both & (np.ptp(grey, 1) > 4 * SHADES))).tolist()
    rows = sorted(set(found) - set(mask_rows(table.paths)) - set(table.errors) - table.looked_at)
    if 0 < len(rows) < len(table.paths) / 2:
        yield Finding(
            "two_levels",
            "warning",
            f"{counted(len(rows))} of little but two grey levels: masks, drawings or text among photographs?",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Delete them, or move them out of the folder, if they are no photographs.",
        )


def augmented(table: ImageTable) -> Iterator[Finding]:
    if rows := augmented_rows(table.paths):
        yield Finding(
            "augmented",
            "warning",
            f"{counted(len(rows))} called changed copies of another one: flipped, turned or noisy, made beforehand.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Keep the originals alone: imgbench changes them anew in every epoch. Else keep copies of one on one side, "
            "by data.split.group.",
        )


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


def tiny_rows(headers: list[Header | None]) -> list[int]:
    """The small ones; none where the data set is made of such."""
    rows = [row for row, header in enumerate(headers) if header and min(header.width, header.height) < TINY]
    return rows if len(rows) < len(headers) / 2 else []


def elongated_rows(headers: list[Header | None]) -> list[int]:
    return [
        row
        for row, header in enumerate(headers)
        if header and max(header.width, header.height) > LONG * min(header.width, header.height)
    ]


def single_coloured_rows(table: ImageTable, grey: np.ndarray) -> list[int]:
    """Of thumbnails (N, SIDE, SIDE)."""
    pixels = grey.reshape(len(grey), -1)
    flat = pixels.max(1, initial=0).astype(int) - pixels.min(1, initial=255) <= 2
    return sorted(set(np.flatnonzero(flat).tolist()) - set(table.errors) - table.looked_at)


def tiny(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    if rows := tiny_rows(headers):
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
    if rows := elongated_rows(headers):
        yield Finding(
            "aspect",
            "warning",
            f"{counted(len(rows))} more than {LONG} times as long as wide: stretched to a square, they are hard to "
            "recognise.",
            len(rows),
            first_few([_with_size(table, headers, row) for row in rows]),
            "Crop them to the subject, or try data.resize=pad, which keeps proportions.",
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
    if rows := single_coloured_rows(table, thumbnails.grey):
        yield Finding(
            "one_colour",
            "warning",
            f"{counted(len(rows))} of a single colour: lens caps, failed exports or placeholders?",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Delete them.",
        )


def further_pages(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    several = {row: header.format for row, header in enumerate(headers) if header and header.several}
    if rows := [*several]:
        yield Finding(
            "pages",
            "warning" if {"TIFF", "DICOM"} & set(several.values()) else "note",  # stacks, or animations
            f"{counted(len(rows), 'file')} with several pages or frames, of which only the first is read.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "Where others matter too, save each as a file: magick STACK.tif PAGE_%03d.tif",
        )


def stray_values(table: ImageTable) -> Iterator[Finding]:
    """Of images of more than 8 bits, where values far from all others would have set what is black and white."""
    known = table.looks.extremes()
    if not known or isinstance(table.intensity, str):
        return
    low, high = table.intensity
    rows = [row for row, one in known.items() if one.lowest < min(low, one.low) or one.highest > max(high, one.high)]
    if rows:
        first = known[rows[0]]
        far = first.highest if first.highest > high else first.lowest
        yield Finding(
            "stray_values",
            "warning",
            f"{counted(len(rows))} with few values far from all others, such as {far:g}: hot pixels, or marks of "
            f"missing data? They do not count for what is black and white, {low:g} and {high:g}.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
        )
    spans = {row: max(abs(one.low), abs(one.high)) for row, one in known.items()}
    usual = float(np.median([*spans.values()]))
    rows = [row for row, span in spans.items() if span > SCALE * usual > 0]
    if rows:
        yield Finding(
            "scale",
            "warning",
            f"{counted(len(rows))} with values up to {max(spans.values()):g}, while most end at {usual:g}: all are "
            "scaled alike, so that most are dark.",
            len(rows),
            first_few([table.paths[row] for row in rows]),
            "If they were saved on another scale, save them on that of the others.",
        )


def colour_profiles(table: ImageTable, headers: list[Header | None]) -> Iterator[Finding]:
    """The classes were photographed or saved by different devices, whose profiles tell them apart."""
    names = {row: header.profile for row, header in enumerate(headers) if header}
    kinds = sorted(set(names.values()))
    if len(kinds) < 2:
        return
    labels, of_kind = table.labels[[*names]], np.array([kinds.index(name) for name in names.values()])
    counts = np.zeros((len(kinds), len(table.class_names)), np.int64)
    np.add.at(counts, (of_kind, labels), 1)
    told, largest = counts.max(1).sum() / counts.sum(), counts.sum(0).max() / counts.sum()
    sides = [
        f"{kind or 'no profile'}: "
        + ", ".join(f"{n} {name}" for name, n in zip(table.class_names, row, strict=True) if n)
        for kind, row in zip(kinds, counts.tolist(), strict=True)
    ]
    shortcut = largest < 1 and (told - largest) / (1 - largest) >= SUSPICIOUS
    yield Finding(
        "profiles",
        "warning" if shortcut else "note",
        f"{len(kinds)} kinds of colour profile. All colours are converted to sRGB"
        + (
            f", but the profile alone would tell the class of {100 * told:.0f} % of the images: the classes come from "
            "different devices or programs."
            if shortcut
            else "."
        ),
        len(names),
        first_few(sides),
        "Test on photographs of all classes from one device." if shortcut else None,
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
