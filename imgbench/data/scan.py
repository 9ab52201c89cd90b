"""Finds the images of a data set: which files, which class, and which split if the folders say so."""

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imgbench.errors import UserError
from imgbench.preprocessing import IMAGE_ENDINGS, image_format

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LAYOUTS = """Expected one of
  {root}/<class>/*.jpg
  {root}/{{train,val,test}}/<class>/*.jpg      (val and test may be missing; valid and validation mean val)"""


@dataclass
class Scan:
    """The images below `root`, sorted by split, class and name; row i of each array belongs to `paths[i]`.

    `paths` are relative to `root` with forward slashes; `splits` holds indices into `SPLITS`, or -1 where the folders
    do not tell; `stamps` are (size in bytes, modification time in ns), which tell a changed file.
    """

    root: Path
    paths: list[str]
    labels: np.ndarray  # (N,) int32
    splits: np.ndarray  # (N,) int8
    stamps: np.ndarray  # (N, 2) int64
    class_names: list[str]
    skipped: Counter[str] = field(default_factory=Counter)


def natural_key(name: str) -> str:
    """Sorts "2" before "10" and "img9" before "img10".

    A string, since a tuple for each of a million names takes half a gigabyte: each number is written as how many digits
    it has, and then these.
    """
    return re.sub(r"\d+", _sortable_number, name)


def _sortable_number(match: re.Match[str]) -> str:
    digits = str(int(match[0]))
    return f"\0{chr(len(digits))}{digits}"


def natural_sort(names: Iterable[str]) -> list[str]:
    """In the order of `natural_key`; the names themselves decide between "1" and "01"."""
    return sorted(sorted(names), key=natural_key)


def _image_files(folder: str, skipped: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """Yields (path, size, mtime_ns) of every image below `folder`, in an order that does not depend on the disk."""
    subfolders: list[str] = []
    images: dict[str, tuple[int, int]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                skipped["hidden"] += 1
            elif entry.is_dir():
                subfolders.append(entry.name)
            elif not entry.is_file():
                skipped["broken links"] += 1
            else:
                stat = entry.stat()
                if stat.st_size == 0:
                    skipped["empty files"] += 1
                elif _is_image(entry):
                    images[entry.name] = stat.st_size, stat.st_mtime_ns
                else:
                    skipped["other files"] += 1
    for name in natural_sort(images):
        yield os.path.join(folder, name), *images.pop(name)  # noqa: PTH118
    for name in natural_sort(subfolders):
        yield from _image_files(os.path.join(folder, name), skipped)  # noqa: PTH118


def _is_image(entry: "os.DirEntry[str]") -> bool:
    # A usual ending is believed here, since opening a million files takes minutes; a wrong one shows in decoding.
    if os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS:  # noqa: PTH122 a Path per file costs memory and time
        return True
    with open(entry.path, "rb") as file:  # noqa: PTH123
        return image_format(file.read(12)) is not None


def class_folders(folder: Path) -> list[str]:
    """The visible sub-folders of `folder`, numbers in numeric order."""
    names = [e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".") and e.name != "__MACOSX"]
    return natural_sort(names)


def describe_tree(root: Path, limit: int = 12) -> str:
    """What a user would want to see of a folder that has the wrong shape."""
    lines = []
    for entry in [root / name for name in natural_sort(os.listdir(root))[: limit + 1]]:  # noqa: PTH208
        inside = f"  ({sum(1 for _ in entry.iterdir())} entries)" if entry.is_dir() else ""
        lines.append(f"  {entry.name}{'/' if entry.is_dir() else ''}{inside}")
    if len(lines) > limit:
        lines[limit] = "  ..."
    return "\n".join(lines) or "  (nothing)"


def scan(root: str | Path, option: str = "data.root", min_classes: int = 2) -> Scan:
    """Lists the images of a data set in one of the two layouts of `LAYOUTS`.

    Raises:
        UserError: the folder is missing, has another shape, one class only, or splits with different classes;
            `option` is how the message names the setting that mends it.
    """
    root = Path(root).expanduser()
    expected = LAYOUTS.format(root=root)
    mend = f"Point {option} at the folder that holds the class folders, for example {option}=/my/photos"
    if option == "data.root":
        mend += "\n(the named data sets lie below data_dir, which the environment variable IMGBENCH_DATA sets)"
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(f"{option}: {root} should be a folder of images, but there is {found}.\n{expected}\n{mend}")
    folders = class_folders(root)
    split_folders = [name for name in folders if name.lower() in SPLIT_FOLDERS]
    if split_folders and "train" not in [name.lower() for name in split_folders]:
        split_folders = []  # a class may well be called "test"
    extra = [name for name in folders if split_folders and name not in split_folders]
    result = Scan(root, [], np.empty(0, np.int32), np.empty(0, np.int8), np.empty((0, 2), np.int64), [])
    if split_folders:
        folder_of: dict[str, str] = {}
        for name in split_folders:
            split = SPLIT_FOLDERS[name.lower()]
            if split in folder_of:
                raise UserError(f"{option}: {root} has two folders for the split {split!r}: {split_folders}.")
            folder_of[split] = name
        train = root / folder_of["train"]
        result.class_names = class_folders(train)
        for name in split_folders:
            names = class_folders(root / name)
            if set(names) != set(result.class_names):
                missing = sorted(set(result.class_names) - set(names))
                unknown = sorted(set(names) - set(result.class_names))
                raise UserError(
                    f"{option}: the classes of {root / name} differ from those of {train}: "
                    f"missing {missing or 'none'}, additional {unknown or 'none'}.\n"
                    "Every split needs the same class folders; rename, add or remove them."
                )
        places = sorted((SPLITS.index(split), name) for split, name in folder_of.items())
        result.skipped["folders beside the splits"] += len(extra)
    else:
        result.class_names = folders
        places = [(-1, "")]
    for name in result.class_names:
        if any("\udc80" <= character <= "\udcff" for character in name):  # how Python shows bytes that are no UTF-8
            raise UserError(
                f"{option}: {root} has a class folder whose name is not UTF-8: {name!r}.\nRename it; a whole folder "
                "with names in a legacy encoding is converted by, for example, convmv -f gbk -t utf8 -r --notest DIR."
            )
    if len(result.class_names) < min_classes:
        raise UserError(
            f"{option}: {root} has {len(result.class_names)} class folder(s), but at least {min_classes} are needed.\n"
            f"{expected}\nFound\n{describe_tree(root)}\n{mend}"
        )
    try:
        _collect(result, places)
    except PermissionError as error:
        raise UserError(f"{option}: {error.filename} cannot be read: {error.strerror}.") from error
    _require_images(result, places, option)
    return result


def _collect(result: Scan, places: list[tuple[int, str]]) -> None:
    labels, splits, stamps = array("i"), array("b"), array("q")  # a million Python numbers would take 36 MB each
    prefix = len(str(result.root)) + 1
    for split, folder in places:
        for label, class_name in enumerate(result.class_names):
            for path, size, mtime in _image_files(os.path.join(result.root, folder, class_name), result.skipped):  # noqa: PTH118
                result.paths.append(path[prefix:].replace(os.sep, "/"))
                labels.append(label)
                splits.append(split)
                stamps.extend((size, mtime))
    result.labels = np.array(labels, np.int32)
    result.splits = np.array(splits, np.int8)
    result.stamps = np.array(stamps, np.int64).reshape(-1, 2)
    result.skipped = +result.skipped  # drop the zeros


def _require_images(result: Scan, places: list[tuple[int, str]], option: str) -> None:
    for split, folder in places:
        counts = np.bincount(result.labels[result.splits == split], minlength=len(result.class_names))
        empty = [name for name, count in zip(result.class_names, counts, strict=True) if count == 0]
        if empty:
            raise UserError(
                f"{option}: no images in the class folder(s) {empty} of {result.root / folder} "
                f"(left out: {describe_skipped(result.skipped)}).\nAdd images to them or remove the folder(s)."
            )


def describe_skipped(skipped: Counter[str]) -> str:
    """For example `3 hidden, 1 empty files`; `nothing` if nothing was."""
    return ", ".join(f"{count} {what}" for what, count in sorted(skipped.items())) or "nothing"


def images_below(folder: Path) -> list[Path]:
    """All images of a folder and its sub-folders, whatever their class."""
    return [Path(path) for path, _, _ in _image_files(str(folder), Counter())]
