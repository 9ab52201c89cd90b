"""A table of labels beside images: it gives the same table of images as class folders do.

Nothing is opened by a name that stands in the table: rows are matched with the images that were found below the folder.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.data.columns import (
    AUTO,
    ROLES,
    Chosen,
    FileNames,
    Labels,
    comparable,
    file_column,
    find_columns,
    is_blank,
    one_hot_names,
    splits_of,
)
from imgbench.data.layout import listed, one_form, split_of
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT, TRAIN
from imgbench.data.spreadsheet import Spreadsheet, read_spreadsheet
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut, Stamp, Walk, describe_left_out, has_image_ending, natural_sort
from imgbench.errors import UserError
from imgbench.language import counted
from imgbench.split_file import SPLITS

OPEN: Chosen = dict.fromkeys(ROLES, AUTO)


@dataclass
class Images:
    """The images below a folder."""

    root: Path
    paths: list[str]
    stamps: list[Stamp]
    left_out: dict[LeftOut, list[str]]
    files: FileNames

    @classmethod
    def below(cls, root: Path, option: str) -> "Images":
        if not root.is_dir():
            raise UserError(f"{option}: {root} should be a folder of images, but there is none.")
        walk = Walk(root)
        try:
            found = list(walk.images(str(root)))
        except PermissionError as error:
            raise UserError(f"{option}: {error.filename} cannot be read: {error.strerror}.") from error
        if not found:
            raise UserError(
                f"{option}: there is no image in {root} or below it (left out: {describe_left_out(walk.left_out)})."
            )
        paths = [walk.relative(path) for path, _ in found]
        return cls(root, paths, [stamp for _, stamp in found], walk.left_out, FileNames(str(root.resolve()), paths))


def read_labels(
    root: str | Path, path: Path, chosen: Chosen = OPEN, option: str = "data.root", min_classes: int = 2
) -> ImageTable:
    """The images below `root` that a table gives a class; its groups and splits are those of the table, too.

    Args:
        chosen: the columns that were named, by what they hold.

    Raises:
        UserError: the folder has no images; the table cannot be read, names none of them, names a file outside, or has
            no column that could be the class, or several.
    """
    images = Images.below(Path(root).expanduser(), option)
    table = read_with_splits(path) if option.startswith("data.") else read_spreadsheet(path)
    if (known := with_file_column(table, images, chosen)) is None:
        raise UserError(no_files(table, images))
    return collect(images, *known, chosen, option, min_classes)


def read_with_splits(path: Path) -> Spreadsheet:
    """The table of a path; that of the training images with those beside it that are called after the other splits.

    Such as `my_train.csv` with `my_val.csv` and `my_test.csv`, where they have the same columns.
    """
    table, (split, rest) = read_spreadsheet(path), _split_in(path)
    if split != "train" or "split" in map(str.casefold, table.columns):
        return table
    parts = {split: table}
    for other in natural_sort(str(one) for one in path.parent.glob(f"*{path.suffix}")):
        split, others_rest = _split_in(Path(other))
        if split and split not in parts and others_rest == rest:
            with suppress(UserError):
                parts[split] = read_spreadsheet(Path(other))
    if not all(part.columns.keys() == table.columns.keys() for part in parts.values()):
        if not all(any(map(has_image_ending, part.columns)) for part in parts.values()):
            return table
        parts = {split: part.without_header() for split, part in parts.items()}
        if len({len(part.columns) for part in parts.values()}) > 1:
            return table
    if len(parts) < 2:
        return table
    columns = {
        name: [cell for part in parts.values() for cell in part.columns[name]] for name in parts["train"].columns
    }
    columns["split"] = [split for split, part in parts.items() for _ in range(part.rows)]
    beside = tuple(part.path for part in parts.values() if part is not parts["train"])
    named = f"with {' and '.join(one.name for one in beside)}"
    return Spreadsheet(path, columns, ", ".join(filter(None, [table.form, named])), beside)


def is_of_training(path: Path) -> bool:
    """Whether a table is called after the training images."""
    return _split_in(path)[0] == "train"


def _split_in(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """The split that a table is called after, and the other words of its name."""
    words = re.split(r"[\s_.\-]+", path.stem.casefold())
    splits = [split_of(word) for word in words]
    rest = tuple(word for word, split in zip(words, splits, strict=True) if not split)
    telling = [split for split in splits if split]
    return (telling[0] if len(telling) == 1 else None), rest


def with_file_column(table: Spreadsheet, images: Images, chosen: Chosen) -> tuple[Spreadsheet, str, bool] | None:
    """The table, which of its columns names the files, and whether by numbers alone; None where none does."""
    if any(has_image_ending(name) and images.files.find(name) for name in table.columns):
        table = table.without_header()
    wanted = check_chosen(table, chosen)["file"]
    if wanted == AUTO:
        found = file_column(table, images.files)
        return found and (table, *found)
    texts = {cell for cell in table.columns[wanted] if cell}
    return table, wanted, not any(images.files.find(text) for text in texts)


def check_chosen(table: Spreadsheet, chosen: Chosen) -> dict[str, Any]:
    """Role -> the column that was named for it, AUTO or None.

    Raises:
        UserError: the table has no such column, or what is named is none.
    """
    result: dict[str, Any] = {}
    for role in ROLES:
        value = chosen.get(role, AUTO)
        if value is None and role in ("file", "class"):
            raise UserError(f"data.columns.{role}=null, but a table of labels has one. Name it, or leave it to {AUTO}.")
        if value is None or value == AUTO:
            result[role] = value
            continue
        names = [str(name) for name in value] if isinstance(value, Sequence) and not isinstance(value, str) else None
        if names is not None and (role != "class" or len(names) < 2):
            raise UserError(f"data.columns.{role}={names}, but it is the name of a column.")
        known = [_column(table, role, name) for name in names or [str(value)]]
        result[role] = known if names else known[0]
    return result


def _column(table: Spreadsheet, role: str, name: str) -> str:
    if name in table.columns:
        return name
    alike = [column for column in table.columns if column.casefold() == name.strip().casefold()]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"data.columns.{role}={name}, but the columns of {table.path} are: {', '.join(table.columns)}.")


def no_files(table: Spreadsheet, images: Images) -> str:
    rows = [", ".join(filter(None, row[:4])) for row in zip(*table.columns.values(), strict=True)][:1]
    return (
        f"{table.path}: no column names the images of {images.root}. Its columns are {listed([*table.columns], 12)}, "
        f"its first row is {rows[0]!r}, and the images are called as {images.paths[0]}. Name the column, "
        "data.columns.file=COLUMN, or the folder that holds the images, data.root=DIR"
    )


def collect(
    images: Images, table: Spreadsheet, file: str, by_number: bool, chosen: Chosen, option: str, min_classes: int
) -> ImageTable:
    """What a table says of images, where it is known which column names these; raises what `read_labels` raises."""
    wanted = check_chosen(table, chosen)
    columns = find_columns(table, file, wanted)
    classes, groups, given = _classes(table, columns), _groups(table, columns), _splits(table, columns)
    rows_of, missing = _rows_by_image(images, table, file, by_number)
    left_out = {reason: [*paths] for reason, paths in images.left_out.items()}
    forget_tables(left_out, images.root, table.path, *table.beside)
    if missing:
        left_out[LeftOut.MISSING] = missing
    chosen_rows: list[tuple[int, str, int, str]] = []  # split, class, image, group
    for image, path in enumerate(images.paths):
        names = {classes[row] for row in rows_of.get(image, ())} - {""}
        if len(names) != 1:
            reason = LeftOut.CONTRADICTED if names else LeftOut.UNLABELLED if image in rows_of else LeftOut.UNLISTED
            left_out.setdefault(reason, []).append(path)
            continue
        # Of an image in two splits, nothing may be tested on what is learnt.
        split = min((given[row] for row in rows_of[image] if given[row] != NO_SPLIT), default=NO_SPLIT)
        group = next((groups[row] for row in rows_of[image] if groups[row]), path) if columns["group"] else ""
        chosen_rows.append((split, names.pop(), image, group))
    class_names = natural_sort({name for _, name, _, _ in chosen_rows})
    _require_classes(table, columns, class_names, chosen_rows, min_classes)
    codes = {name: code for code, name in enumerate(class_names)}
    chosen_rows.sort(key=lambda row: (row[0], codes[row[1]], row[2]))
    kept = [image for _, _, image, _ in chosen_rows]
    result = ImageTable(
        images.root,
        class_names,
        [images.paths[image] for image in kept],
        np.array([codes[name] for _, name, _, _ in chosen_rows], np.int32),
        np.array([split for split, _, _, _ in chosen_rows], np.int8),
        np.array([images.stamps[image] for image in kept], np.int64).reshape(-1, 4),
        Folder(images.root, Labels(table.path, columns)),
        left_out,
        groups=[group for _, _, _, group in chosen_rows] if columns["group"] else [],
    )
    choice = " To choose otherwise: data.columns.class=COLUMN etc." if option.startswith("data.") else ""
    result.notes = [f"{_sentence(table, columns, result)}.{choice}"]
    return result


def further_columns(table: ImageTable) -> dict[str, list[str]]:
    """What a table of labels says of each image beyond its class, group and split; of an image in several rows, the
    first.

    Raises:
        UserError: the table of labels cannot be read any more, or its names lead elsewhere.
    """
    labels = table.source.labels
    if labels is None:
        return {}
    images = Images(table.root, table.paths, [], {}, FileNames(str(table.root.resolve()), table.paths))
    if (known := with_file_column(read_with_splits(labels.path), images, labels.columns)) is None:
        return {}
    rows_of, _ = _rows_by_image(images, *known)
    taken: list[str] = []
    for role in ("file", "class", "group", "split"):
        column = labels.columns[role]
        taken += [column] if isinstance(column, str) else column or []
    return {
        name: [cells[rows_of[row][0]] if row in rows_of else "" for row in range(len(table.paths))]
        for name, cells in known[0].columns.items()
        if name not in taken
    }


def _classes(table: Spreadsheet, columns: Mapping[str, Any]) -> list[str]:
    """The class of each row; "" where it has none."""
    name = columns["class"]
    if isinstance(name, str):
        return ["" if is_blank(cell) else one_form(cell) for cell in table.columns[name]]
    found = list(one_hot_names(table.columns, name))
    if both := next((row for row, ones in enumerate(found) if len(ones) > 1), None):
        raise UserError(
            f"{table.path}: row {both + 1} has a 1 in {listed(found[both])}. imgbench gives an image one class; leave "
            "columns out, or take one for the class: data.columns.class=COLUMN"
        )
    return [ones[0] if ones else "" for ones in found]


def _groups(table: Spreadsheet, columns: Mapping[str, Any]) -> list[str]:
    if columns["group"] is None:
        return [""] * table.rows
    return ["" if is_blank(cell) else cell for cell in table.columns[columns["group"]]]


def _splits(table: Spreadsheet, columns: Mapping[str, Any]) -> list[int]:
    name = columns["split"]
    if name is None:
        return [NO_SPLIT] * table.rows
    meant = splits_of(table.columns[name], name)
    if meant is None:
        found = listed(natural_sort({cell for cell in table.columns[name] if cell}), 8)
        raise UserError(f"data.columns.split={name}: its entries are {found}, but expected are train, val and test.")
    return [SPLITS.index(meant[cell]) if cell in meant else NO_SPLIT for cell in table.columns[name]]


def _rows_by_image(
    images: Images, table: Spreadsheet, file: str, by_number: bool
) -> tuple[dict[int, list[int]], list[str]]:
    """The rows of each image, and the names that no image has.

    Raises:
        UserError: a name leads outside of the root, or may mean several images.
    """
    cells = table.columns[file]
    rows_of: dict[int, list[int]] = {}
    missing: list[str] = []
    known: dict[str, list[int]] = {}
    for row, text in enumerate(cells):
        if text not in known:
            known[text] = images.files.find(_inside(text, images.root, table.path), by_number) if text else []
        found = known[text]
        if len(found) > 1:
            both = " and ".join(images.paths[image] for image in found[:2])
            raise UserError(
                f"{table.path}: {text!r} in column {file!r} may mean {both}. Write the folder and the ending into the "
                "table, or name the folder that holds the images: data.root=DIR"
            )
        if found:
            rows_of.setdefault(found[0], []).append(row)
        else:
            _refuse_outside(text, images.root, table.path)
            missing.append(text or f"row {row + 1}, which names none")
    for image, rows in rows_of.items():
        if len({comparable(cells[row]) for row in rows}) > 1:  # test/1.jpg is not train/1.jpg
            alike = [images.files.agreement(cells[row], image) for row in rows]
            missing += [cells[row] for row, number in zip(rows, alike, strict=True) if number < max(alike)]
            rows_of[image] = [row for row, number in zip(rows, alike, strict=True) if number == max(alike)]
    return rows_of, list(dict.fromkeys(missing))


def _inside(text: str, root: Path, table: Path) -> str:
    """A name without steps upwards, which are taken from the table's own folder.

    Raises:
        UserError: they lead outside of the root.
    """
    parts = text.replace("\\", "/").split("/")
    if ".." not in parts:
        return text
    place = Path(os.path.normpath(table.resolve().parent / "/".join(parts)))
    if not place.is_relative_to(root.resolve()):
        raise _outside(text, root, table)
    return str(place)


def _refuse_outside(text: str, root: Path, table: Path) -> None:
    """Raises UserError: the name is of a file that is there, but not below the root."""
    if Path(text).is_absolute() and Path(text).exists():
        raise _outside(text, root, table)


def _outside(text: str, root: Path, table: Path) -> UserError:
    return UserError(
        f"{table} names {text}, which lies outside of {root}. Only what is below data.root is read: name a folder "
        "above all images, data.root=DIR, or mend the table."
    )


def forget_tables(left_out: dict[LeftOut, list[str]], root: Path, *tables: Path) -> None:
    """The tables are no stray files of the folder."""
    own = {table.resolve() for table in tables}
    others = [path for path in left_out.get(LeftOut.OTHER, ()) if (root / path).resolve() not in own]
    left_out.pop(LeftOut.OTHER, None)
    if others:
        left_out[LeftOut.OTHER] = others


def _require_classes(
    table: Spreadsheet,
    columns: Mapping[str, Any],
    class_names: Sequence[str],
    rows: Sequence[tuple[int, str, int, str]],
    min_classes: int,
) -> None:
    if len(class_names) < min_classes:
        raise UserError(
            f"{table.path}: the images have {counted(len(class_names), 'class', 'classes')} in the column "
            f"{columns['class']!r}{f', {class_names[0]!r}' if class_names else ''}, but it takes at least "
            f"{min_classes}. Name another column: data.columns.class=COLUMN"
        )
    trained = {name for split, name, _, _ in rows if split in (NO_SPLIT, TRAIN)}
    if unknown := [name for name in class_names if name not in trained]:
        raise UserError(
            f"{table.path}: the column {columns['split']!r} has no training image of {listed(unknown, 8)}. Give it "
            "some, leave the class of the others blank, or divide anew: data.columns.split=null"
        )


def _sentence(table: Spreadsheet, columns: Mapping[str, Any], found: ImageTable) -> str:
    """What was taken for what."""
    classes = columns["class"]
    parts = [
        f"file {columns['file']!r} ({len(found.paths):,} images)",
        f"class {classes!r} ({len(found.class_names):,})"
        if isinstance(classes, str)
        else f"class in {len(classes):,} columns of 0 and 1",
    ]
    if columns["group"]:
        parts.append(f"group {columns['group']!r} ({len(set(found.groups)):,})")
    parts += [f"{role} {columns[role]!r}" for role in ("split", "date") if columns[role]]
    none = [role for role in ("group", "split") if not columns[role]]
    parts += [f"no {' and no '.join(none)}"] if none else []
    form = f" ({table.form})" if table.form else ""
    return f"Labels from {table.path}{form}: {', '.join(parts)}"
