"""The index of shards: a CSV file with a line for each image, written once, from which splits and audits are made."""

import csv
import logging
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from imgbench.data.annotated import annotated_images, holds_photographs
from imgbench.data.columns import AUTO, Chosen
from imgbench.data.corrections import decisions_of, place_of
from imgbench.data.label_files import found_labels, labels_path, of_parts, tables_near
from imgbench.data.labels import OPEN, read_labels
from imgbench.data.layout import split_of
from imgbench.data.pixels import digest
from imgbench.data.scan import check_folder, scan
from imgbench.data.shards import Folder, Photograph, Shards, index_path, is_shards, require_whole, shard_paths
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.data.walk import has_image_ending, natural_sort, stamp_of
from imgbench.decode import decoded, deep_extremes, to_rgb
from imgbench.errors import DecodeError, UserError
from imgbench.files import write_atomically
from imgbench.intensity import Extremes, Intensity, intensity_range
from imgbench.language import counted
from imgbench.split_file import SPLIT_COLUMNS, SPLITS, Columns, csv_lines, read_rows

log = logging.getLogger(__name__)

NUMBER = re.compile("[0-9]{1,18}").fullmatch, "a number of bytes"
COLUMNS: Columns = {
    **SPLIT_COLUMNS,
    "path": None,  # which names no file
    "split": (("", *SPLITS).__contains__, "train, val, test or nothing"),
    "shard": None,
    "offset": NUMBER,
    "size": NUMBER,
    "intensity": (re.compile("([-+.0-9e]+ [-+.0-9e]+)?").fullmatch, "two values or nothing"),
}
SIDE = 64  # pixels to which images are decoded that are only to be known to be whole
END = 1024  # bytes of zeros with which every tar ends


def find_images(
    root: str | Path,
    option: str = "data.root",
    min_classes: int = 2,
    labels: str | None = AUTO,
    columns: Chosen = OPEN,
    corrections: str | Path | None = None,
) -> ImageTable:
    """The images of shards, of class folders, or of a folder beside which a table says the classes.

    Of a folder with neither, those that people have labelled while they looked at them.

    Args:
        labels: where that table lies; AUTO takes the one that is there where there are no class folders, None never.
        columns: which of its columns were named, by what they hold.
        corrections: see `imgbench.data.corrections.place_of`.

    Raises:
        UserError: as `scan`, `read_index` and `read_labels`.
    """
    if is_shards(root):
        return read_index(root, option, min_classes)
    if labels not in (AUTO, None):
        return read_labels(root, labels_path(root, labels), columns, option, min_classes)
    try:
        found = scan(root, option, min_classes)
        if labels is None:
            return found
        if len(found.class_names) > 1:
            return of_parts(found, columns, option) or found
        return found_labels(root, columns, option, min_classes)[0] or found
    except UserError as error:
        by_table, reasons = None, []
        if labels is not None and tables_near(Path(root).expanduser()):
            by_table, reasons = found_labels(root, columns, option, min_classes)
        if by_table is None and holds_photographs(root):
            by_table = annotated_images(root, decisions_of(root, corrections), option, min_classes)
        if by_table is None:
            raise UserError("\n".join([str(error), *reasons])) from error
        return by_table


def check_root(
    root: str | Path, option: str = "data.root", labels: str | None = AUTO, corrections: str | Path | None = None
) -> None:
    """Raises the errors of `find_images` that need neither a look into class folders nor at each line of a table."""
    if is_shards(root):
        shard_paths(root, option)
        _require_index(root, option)
        if labels not in (AUTO, None):
            raise UserError(f"data.labels={labels}: the classes of shards stand in their index. Leave it out.")
    elif labels not in (AUTO, None):
        labels_path(root, labels)
    else:
        try:
            check_folder(root, option)
        except UserError:
            by_table = labels is not None and tables_near(Path(root).expanduser())
            if not by_table and not place_of(root, corrections).is_file():
                raise


def find_listed(root: Path, paths: Iterable[str]) -> ImageTable:
    """Those of the images at `paths` that are there, in that order; of a folder, their classes are left open.

    Raises:
        UserError: as of `read_index`.
    """
    if is_shards(root):
        found = read_index(root, "data.root", min_classes=1)
        rows = {path: row for row, path in enumerate(found.paths)}
        return found.take([rows[path] for path in paths if path in rows])
    there = [path for path in paths if (root / path).is_file()]
    stamps = np.array([stamp_of((root / path).stat()) for path in there], np.int64).reshape(-1, 4)
    given = np.full(len(there), NO_SPLIT, np.int8)
    return ImageTable(root, [], there, np.zeros(len(there), np.int32), given, stamps, Folder(root))


def photographs(root: Path, paths: Iterable[str]) -> dict[str, Photograph]:
    """Where a few images of a folder or of shards lie, for those that are there; raises what `find_listed` raises."""
    found = find_listed(root, paths)
    return {path: found.photograph(row) for row, path in enumerate(found.paths)}


def _require_index(root: str | Path, option: str) -> Path:
    path = index_path(root)
    if not path.is_file():
        raise UserError(
            f"{option}={root}: the index {path} is missing.\nCopy it from where the shards came, or have it made: "
            f'python -m imgbench.shard data=shards data.root="{root}"\n'
            "(A tar that is no shard of WebDataset is unpacked, and its folder named.)"
        )
    return path


def read_index(root: str | Path, option: str, min_classes: int = 2) -> ImageTable:
    """The images that the index knows in the shards that `root` names, in the order of its lines.

    Raises:
        UserError: a shard or the index is missing, cut short or damaged; or there are too few classes.
    """
    paths = shard_paths(root, option)
    place = _require_index(root, option)
    names = [path.name for path in paths]
    wanted = {name: number for number, name in enumerate(names)}
    codes: dict[str, int] = {}
    given = {name: split for split, name in enumerate(SPLITS)} | {"": NO_SPLIT}
    files: list[str] = []
    groups: list[str] = []
    known_groups: dict[str, str] = {}
    labels, splits, numbers, offsets, sizes = array("i"), array("b"), array("i"), array("q"), array("q")
    digests = bytearray()
    intensities: set[str] = set()
    elsewhere = set()
    try:
        for path, name, group, split, content, shard, offset, size, intensity in read_rows(place, COLUMNS):
            codes.setdefault(name, len(codes))
            intensities.add(intensity)
            if (number := wanted.get(shard)) is None:
                elsewhere.add(shard)
                continue
            files.append(path)
            # Most groups are one image, called after it: the same text need not be kept twice.
            groups.append(path if group == path else known_groups.setdefault(group, group))
            labels.append(codes[name])
            splits.append(given[split])
            numbers.append(number)
            offsets.append(int(offset))
            sizes.append(int(size))
            digests += bytes.fromhex(content)
        low_high = sorted(intensities - {""})
        low, high = map(float, low_high[0].split()) if low_high else (0.0, 0.0)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{place} is damaged: {error}.\nCopy it again from where the shards came, or have it "
            f'made: python -m imgbench.shard data=shards data.root="{root}"'
        ) from error
    where = np.array(numbers, np.int32)
    shards = Shards(place.parent, names, where, np.array(offsets, np.int64), np.array(sizes, np.int64))
    stamps = _stamps(paths, shards)
    all_names = natural_sort(codes)
    of_file = np.array([all_names.index(name) for name in codes], np.int32)
    coded = of_file[np.array(labels, np.int32)] if files else np.zeros(0, np.int32)
    there = np.unique(coded)
    class_names = [all_names[label] for label in there]
    notes = []
    if elsewhere:
        missing = [name for name in all_names if name not in class_names]
        lacking = f", and no image of {missing}" if missing else ""
        notes.append(f"{option} names {len(names)} of the {len(names) + len(elsewhere)} shards of {place}{lacking}.")
    if empty := sorted(set(range(len(names))) - set(where.tolist())):
        raise UserError(f"{place} knows no image in {names[empty[0]]}. Delete it, and have it made for all shards.")
    if len(class_names) < min_classes:
        raise UserError(
            f"{option}={root} has {counted(len(class_names), 'class', 'classes')}, {class_names}, but it takes "
            f"at least {min_classes}. "
            + (notes[0] if notes else "Name all shards, or make them from a folder with more classes.")
        )
    return ImageTable(
        Path(root).expanduser(),
        class_names,
        files,
        np.searchsorted(there, coded).astype(np.int32),
        np.array(splits, np.int8),
        stamps,
        shards,
        notes=notes,
        digests=np.frombuffer(bytes(digests), np.uint8).reshape(-1, 16),
        intensity=(low, high) if low_high else "file",
        groups=groups if any(groups) else [],
    )


def _stamps(paths: list[Path], shards: Shards) -> np.ndarray:
    """(N, 4) the stamp of each image's shard, with the size of the image; every shard is found to be whole."""
    ends = np.zeros(len(paths), np.int64)
    np.maximum.at(ends, shards.numbers, shards.offsets + shards.sizes)
    for path, end in zip(paths, ends.tolist(), strict=True):
        require_whole(path, end)
    stamps = np.array([stamp_of(path.stat()) for path in paths], np.int64)[shards.numbers]
    stamps[:, 0] = shards.sizes
    stamps[:, 2] ^= shards.offsets  # what another index finds elsewhere in the shard is another image
    return stamps


def write_index(place: Path, rows: Iterator[list[str]]) -> None:
    """Raises OSError: it cannot be written; what was there before is still there."""
    write_atomically(place, csv_lines(COLUMNS, rows), errors="surrogateescape")


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """The name of each file in a tar, where its bytes begin, and how many they are.

    Raises:
        UserError: it is no tar, or cut short.
    """
    try:
        with path.open("rb") as file:
            file.seek(-END, 2)
            if any(file.read(END)):
                raise tarfile.ReadError("it does not end as a tar does")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in iter(tar.next, None):
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue] it keeps all, a kilobyte each
                    if member.isfile():
                        yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path} is no tar, or cut short ({error}). Copy it again from where it came.") from error


def index_shards(root: str | Path) -> Path:
    """Makes the index of shards that another program wrote, or whose index is lost; returns where it is.

    The class of an image is what the file `.cls` beside it says, as WebDataset has it; or else, and also where the two
    agree, the name of the folder that it lies in. Near-duplicates are not looked for.

    Raises:
        UserError: a shard is damaged or has no images, or an image has no class.
    """
    paths, place = shard_paths(root, "data.root"), index_path(root)
    pairs = {(label, PurePosixPath(name).parent.name) for path in paths for name, label, _, _ in _images(path)}
    labels, folders = ({pair[side] for pair in pairs} - {""} for side in (0, 1))
    by_folder = len(folders) == len(pairs) and len(labels) in (0, len(pairs))
    write_index(place, _indexed(paths, by_folder))
    return place


def _images(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Name, content of `.cls` ("" where there is none), offset and size of each image of a shard."""
    entries = list(members(path))
    with path.open("rb") as file:
        classes: dict[str, str] = {}
        for name, offset, size in entries:
            if name.endswith(".cls"):
                file.seek(offset)
                classes[name.removesuffix(".cls")] = file.read(size).decode("utf-8", "surrogateescape").strip()
    images = [entry for entry in entries if has_image_ending(entry[0])]
    if not images:
        raise UserError(f"{path} has no image.")
    for name, offset, size in images:
        yield name, classes.get(str(PurePosixPath(name).with_suffix("")), ""), offset, size


def _indexed(paths: list[Path], by_folder: bool) -> Iterator[list[str]]:
    deep: list[Extremes] = []
    damaged: list[str] = []
    row: list[str] = []
    for path in paths:
        with path.open("rb") as file:
            for name, label, offset, size in _images(path):
                folder = PurePosixPath(name).parent
                if not (label := folder.name if by_folder or not label else label):
                    raise UserError(f"{path}: {name} has no class, neither a file .cls beside it nor a folder.")
                file.seek(offset)
                data = file.read(size)
                try:
                    decoded(data, to_rgb, SIDE)  # only a decode to the end tells what is cut short
                    deep += [found] if (found := deep_extremes(data)) else []
                except DecodeError as error:
                    damaged.append(f"{name} of {path} ({error})")
                    continue
                if row:
                    yield row
                split = split_of(folder.parent.name) or ""
                row = [name, label, "", split, digest(data).hex(), path.name, str(offset), str(size), ""]
    if not row:
        raise UserError(f"No image in {paths[0]} can be decoded: {damaged[0]}.")
    # Of all images of more than 8 bits one range is taken, which is known when all have been seen.
    yield [*row[:-1], intensity_text(intensity_range(deep)) if deep else ""]
    if damaged:
        log.warning("Left out, cannot be decoded: %s, for example %s", counted(len(damaged)), damaged[0])


def intensity_text(intensity: Intensity) -> str:
    """The values of black and white; nothing where all images have 8 bits."""
    return "" if isinstance(intensity, str) else f"{intensity[0]:g} {intensity[1]:g}"
