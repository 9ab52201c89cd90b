"""Finds the images of a data set: which files, which class, and which split if the folders say so."""

import os
import shlex
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgbench.data.layout import (
    LAYOUTS,
    advice,
    describe_tree,
    folder_that_would_do,
    inner_split,
    layout_notes,
    listed,
    one_form,
    setting,
    split_of,
)
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT, TRAIN
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut, Walk, describe_left_out, images_in, natural_sort, remedies, visible_folders
from imgbench.errors import UserError
from imgbench.language import counted
from imgbench.split_file import SPLITS

ARCHIVES = {".zip", ".rar", ".7z", ".tar", ".gz", ".tgz"}


@dataclass(frozen=True)
class _Place:
    """A folder of class folders."""

    split: int
    folder: Path
    class_names: list[str]


def scan(root: str | Path, option: str = "data.root", min_classes: int = 2) -> ImageTable:
    """Lists the images of a data set in one of the two layouts of `LAYOUTS`.

    A val or test folder may lack classes, but has none that train does not have. One without class folders is left out.

    Raises:
        UserError: the folder is missing, has another shape, one class only, or a class without training images;
            `option` is how the message names the setting that mends it.
    """
    root = Path(root).expanduser()
    walk, notes = Walk(root), []
    try:
        places = _class_folders(walk, root, option, min_classes, notes)
        result = _collect(walk, root, places)
        _require_images(result, places, option)
        depths = {place.split: len(place.folder.relative_to(root).parts) + 1 for place in places}
        notes += layout_notes(result, depths, min_classes)
    except PermissionError as error:
        raise UserError(f"{option}: {error.filename} cannot be read: {error.strerror}.") from error
    result.notes = notes
    return result


def check_folder(root: str | Path, option: str = "data.root") -> None:
    """Raises the errors of `scan` that need no look into the class folders, however many images these hold."""
    root = Path(root).expanduser()
    try:
        _class_folders(Walk(root), root, option, 2, [])
    except PermissionError as error:
        raise UserError(f"{option}: {error.filename} cannot be read: {error.strerror}.") from error


def _class_folders(walk: Walk, root: Path, option: str, min_classes: int, notes: list[str]) -> list[_Place]:
    _require_folder(root, option)
    places = list(_places(walk, root, option, notes))
    class_names = places[0].class_names
    _require_readable_names(class_names, root, option)
    if len(class_names) < min_classes:
        raise UserError(
            f"{option}: {places[0].folder} has {counted(len(class_names), 'class folder')}, but it "
            f"takes at least {min_classes}.\n{LAYOUTS.format(root=root)}\nFound\n{describe_tree(root)}\n"
            f"{advice(root, option, class_names)}"
        )
    return places


def _require_folder(root: Path, option: str) -> None:
    if root.is_dir():
        return
    found = "a file" if root.exists() else "nothing"
    mend = (
        f"Point {option} at the folder that holds the class folders, for example {setting(option, Path('/my/photos'))}"
    )
    if root.suffix.lower() in ARCHIVES and root.exists():
        mend = f"Unpack it, and point {option} at the folder that holds the class folders."
    elif option == "data.root":
        mend += "\n(the named data sets lie below data_dir, which the environment variable IMGBENCH_DATA sets)"
    raise UserError(
        f"{option}: {root} should be a folder of images, but there is {found}.\n{LAYOUTS.format(root=root)}\n{mend}"
    )


def _require_readable_names(class_names: list[str], root: Path, option: str) -> None:
    for name in class_names:
        if any("\udc80" <= character <= "\udcff" for character in name):  # how Python shows bytes that are no UTF-8
            raise UserError(
                f"{option}: {root} has a class folder whose name is not UTF-8: {name!r}.\nRename it; a whole folder "
                "with names in a legacy encoding is converted by, for example, convmv -f gbk -t utf8 -r --notest DIR."
            )


def _places(walk: Walk, root: Path, option: str, notes: list[str]) -> Iterator[_Place]:
    """The folders of class folders: `root`, or those of the splits, train first."""
    folders = visible_folders(root)
    split_folders = [name for name in folders if split_of(name)]
    train = next((name for name in split_folders if split_of(name) == "train"), None)
    if train is None or _is_class(root, train, folders):  # then a class may well be called "test"
        yield _Place(NO_SPLIT, root, walk.without_second_names(root, folders))
        _leave_out_unlabelled(walk, root)
        return
    folder_of: dict[str, Path] = {}
    for name in walk.without_second_names(root, split_folders):
        split = split_of(name)
        assert split is not None
        if split in folder_of:
            raise UserError(f"{option}: {root} has two folders for the split {split!r}: {split_folders}.")
        folder_of[split] = inner_split(root / name)
    if "train" not in folder_of:  # a link to the folder of another split, which would be trained and tested on
        raise UserError(
            f"{option}: {root / train} is the same folder as that of another split: it leads to "
            f"{os.path.realpath(root / train)}.\nMake train a folder of its own, or remove the link, so that images "
            "are divided."
        )
    beside = [name for name in folders if name not in split_folders]
    for name in beside:
        walk.leave_out(str(root / name), LeftOut.BESIDE)
    if beside:
        notes.append(
            f"{root / train} is taken for the training images, and what lies beside it is left out: "
            f"{listed(beside)}. Splits are called train, val and test, or much like it; rename what is one of them."
        )
    known: list[str] = []
    for split, name in enumerate(SPLITS):
        if (folder := folder_of.get(name)) is None:
            continue
        class_names = walk.without_second_names(folder, visible_folders(folder))
        unlabelled = _leave_out_unlabelled(walk, folder)
        if split == TRAIN:
            known = class_names
        elif not class_names:
            note = f"{folder} has {unlabelled or 'no'} images and no class folders: it counts as if it were not there."
            if unlabelled:
                note += f" To classify them, once trained: python -m imgbench.predict RUN {shlex.quote(str(folder))}"
            notes.append(note)
            continue
        elif unknown := natural_sort(name for name in class_names if one_form(name) not in map(one_form, known)):
            raise UserError(
                f"{option}: {folder} has class folders that {folder_of['train']} lacks: {unknown}.\nIt has {known}; "
                "rename the folders, remove them, or add them to train. Images without a class are for "
                f"python -m imgbench.predict RUN {shlex.quote(str(folder))}"
            )
        if other := [name for name in class_names if name not in known]:
            notes.append(
                f"{folder / other[0]} is taken for the class of that name in train: they differ only in how accents "
                "are encoded (Unicode NFC and NFD)."
            )
        yield _Place(split, folder, class_names)


def _is_class(root: Path, train: str, folders: list[str]) -> bool:
    """Whether the folder "train" shows trains: it has images and no folders, and two more folders beside it do so."""
    others = [name for name in folders if split_of(name) is None]
    alike = [name for name in [train, *others] if any(images_in(root / name)) and not visible_folders(root / name)]
    return train in alike and len(alike) > 2


def _leave_out_unlabelled(walk: Walk, folder: Path) -> int:
    number = 0
    for path in images_in(folder):
        walk.leave_out(path, LeftOut.UNLABELLED)
        number += 1
    return number


def _collect(walk: Walk, root: Path, places: list[_Place]) -> ImageTable:
    paths: list[str] = []
    labels, splits, stamps = array("i"), array("b"), array("q")  # a million Python numbers would take 36 MB each
    walk.add_places(place.folder / name for place in places for name in place.class_names)
    for place in places:
        own = {one_form(name): name for name in place.class_names} | {name: name for name in place.class_names}
        for label, class_name in enumerate(places[0].class_names):
            if (name := own.get(class_name) or own.get(one_form(class_name))) is None:
                continue
            for path, stamp in walk.images(os.path.join(place.folder, name)):  # noqa: PTH118
                paths.append(walk.relative(path))
                labels.append(label)
                splits.append(place.split)
                stamps.extend(stamp)
    return ImageTable(
        root,
        places[0].class_names,
        paths,
        np.array(labels, np.int32),
        np.array(splits, np.int8),
        np.array(stamps, np.int64).reshape(-1, 4),
        Folder(root),
        walk.left_out,
    )


def _require_images(result: ImageTable, places: list[_Place], option: str) -> None:
    """Every class has images to train on; every split has some at all."""
    for place in places:
        counts = np.bincount(result.labels[result.given == place.split], minlength=len(result.class_names))
        own = set(place.class_names)
        empty = [name for name, n in zip(result.class_names, counts, strict=True) if n == 0 and name in own]
        if empty and (place.split in (NO_SPLIT, TRAIN) or not counts.any()):
            below = folder_that_would_do(result.root)
            hint = f"\nIs it {below} that you mean? Then: {setting(option, below)}" if below else ""
            raise UserError(
                f"{option}: no images in these class folders: {empty} of {place.folder} "
                f"(left out: {describe_left_out(result.passed_over)}).\nAdd images to them, or remove them."
                f"{hint}{''.join(f'{chr(10)}{one}' for one in remedies(result.passed_over))}"
            )
