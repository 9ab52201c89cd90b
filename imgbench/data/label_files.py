"""Which table near a folder of photographs says their classes."""

import os
import re
from collections import Counter
from pathlib import Path

from imgbench.data.columns import AUTO, Chosen
from imgbench.data.labels import OPEN, Images, collect, is_of_training, no_files, read_with_splits, with_file_column
from imgbench.data.layout import listed, setting
from imgbench.data.spreadsheet import ENDINGS, Spreadsheet
from imgbench.data.table import ImageTable
from imgbench.data.walk import natural_sort
from imgbench.errors import UserError

OPTION = "data.labels"
# What imgbench writes or reads for another purpose is no table of labels, be it by its name or by how it begins.
OWN = {"corrections", "split", "predictions"}
BEGINNINGS = (b"path,reason", b"path,group,target,predicted", b"path,predicted,probability", b"# weights ")


def is_own(path: Path) -> bool:
    """Whether a table is one of a run, the index of shards, or what `predict --output` wrote."""
    if path.stem.casefold() in OWN or path.name.endswith("-index.csv"):
        return True
    if path.with_name(f"{path.name}.source.json").is_file():
        return True
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").startswith(BEGINNINGS)


def tables_in(folder: Path) -> list[Path]:
    """The tables in a folder that may be of labels."""
    try:
        names = natural_sort(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return []
    found = (folder / name for name in names if not name.startswith((".", "~$")))  # Excel's lock
    return [path for path in found if path.suffix.lower() in ENDINGS and not is_own(path)]


def tables_near(root: Path) -> list[list[Path]]:
    """The tables in a folder of images, and those beside it; an empty list where there are neither."""
    places = [tables_in(root), tables_in(Path(os.path.normpath(root / "..")))] if root.is_dir() else []
    return places if any(places) else []


def labels_path(root: str | Path, labels: str) -> Path:
    """Where a table of labels lies that is named as seen from here, from the folder of images, or from beside it.

    Raises:
        UserError: there is none, or it is one of imgbench's own.
    """
    root, named = Path(root).expanduser(), Path(labels).expanduser()
    places = [named, root / named, Path(os.path.normpath(root / "..")) / named]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        there = [str(table) for tables in tables_near(root) for table in tables]
        hint = f" There are {listed(there)}." if there else ""
        raise UserError(f"{OPTION}={labels}: there is no such file, here, in {root} or beside it.{hint}")
    if is_own(path):
        raise UserError(
            f"{OPTION}={path} is a table that imgbench writes, and no table of labels. Name another, or give it "
            "another name."
        )
    return path


def found_labels(
    root: str | Path, chosen: Chosen = OPEN, option: str = "data.root", min_classes: int = 2
) -> tuple[ImageTable | None, list[str]]:
    """As `read_labels` with the one table in the folder, or else beside it, that names its images.

    The second value says of each table near by why it is not taken.

    Raises:
        UserError: as `read_labels`, of a table that names the images; or several tables do.
    """
    root = Path(root).expanduser()
    reasons: list[str] = []
    if not (places := tables_near(root)):
        return None, []
    images = Images.below(root, option)
    for tables in places:
        able: list[tuple[Spreadsheet, str, bool]] = []
        joined: set[Path] = set()  # to the table of the training images
        for path in sorted(tables, key=lambda path: not is_of_training(path)):
            if path in joined:
                continue
            try:
                table = read_with_splits(path)
                joined.update(table.beside)
                known = with_file_column(table, images, {"file": chosen.get("file", AUTO)})
            except UserError as error:
                reasons.append(str(error))
                continue
            if known is None:
                reasons.append(no_files(table, images))
            else:
                able.append(known)
        found: list[ImageTable] = []
        names: list[str] = []
        errors: list[UserError] = []
        for known in able:
            try:
                found.append(collect(images, *known, chosen, option, min_classes))
                names.append(str(known[0].path))
            except UserError as error:
                errors.append(error)
        if len(found) > 1:
            names = natural_sort(names)
            raise UserError(
                f"{option}: {len(names)} tables give the images of {root} a class: {listed(names)}. Which is right? "
                f"For example {setting(OPTION, Path(names[0]))}"
            )
        if found:
            return found[0], reasons
        if errors:
            raise UserError("\n".join(map(str, errors)))
    return None, reasons


def of_parts(found: ImageTable, columns: Chosen, option: str) -> ImageTable | None:
    """What a table says where class folders are parts of one collection, such as images_1 and images_2, and no classes.

    They have one name but for numbers, and none of its classes; most of them hold several of its classes.
    """
    tables = tables_in(found.root)
    if tables and len({re.sub(r"\d+", "", name) for name in found.class_names}) == 1:
        try:
            by_table, _ = found_labels(found.root, columns, option)
        except UserError:
            by_table = None
        if by_table and not set(by_table.class_names) & set(found.class_names):
            folders = dict(zip(found.paths, found.labels.tolist(), strict=True))
            held = {
                (folders.get(path), label) for path, label in zip(by_table.paths, by_table.labels.tolist(), strict=True)
            }
            several = Counter(folder for folder, _ in held)
            if sum(number > 1 for number in several.values()) > len(found.class_names) / 2:
                return by_table
    found.notes += [
        f"{table} is not read: the class folders say the classes. If the table is to say them: {setting(OPTION, table)}"
        for table in tables
    ]
    return None
