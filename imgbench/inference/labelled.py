"""Labelled images to evaluate a model on: a split of its run, or a folder from elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from imgbench.data.columns import AUTO, Chosen
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.labels import OPEN
from imgbench.data.layout import folder_that_would_do, one_form, setting, split_of
from imgbench.data.read import NAMED, labelled_table
from imgbench.data.shard_index import find_images, find_listed
from imgbench.data.shards import is_shards
from imgbench.data.split import NO_SPLIT
from imgbench.data.spreadsheet import ENDINGS
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.inference.predictor import Model
from imgbench.language import counted
from imgbench.run import Run
from imgbench.split_file import SPLITS


def images_of_run(
    run: Run, split: str, model: Model, most: int | None = None, unchanged: bool = False
) -> tuple[ImageFolderDataModule, list[str]]:
    """The images of a split as `split.csv` names them, and notes on those that are not as they were.

    Of more than `most` images that are there, so many are drawn at random. `unchanged` leaves out those whose
    files have changed since.

    Raises:
        UserError: the folder or all of its images are gone, or they have classes that the model does not know.
    """
    config = run.config["data"]
    root = Path(config["root"])
    if not is_shards(root) and not root.is_dir():
        raise UserError(f"The images of {run.shown} are no longer in {root}. Name their folder: --data DIR")
    rows = run.split_rows(split)
    if unknown := {row["class"] for row in rows} - set(model.class_names):
        raise UserError(
            f"{run.path / 'split.csv'} has classes the model does not know: {sorted(unknown)}.\n"
            f"It knows {model.class_names}."
        )
    found = find_listed(root, [row["path"] for row in rows])
    if not found.paths:
        raise UserError(f"{run.shown} has no {split} images in {root}. Name their folder: --data DIR")
    known = {row["path"]: row for row in rows}
    is_there = set(found.paths)
    gone = [path for path in known if path not in is_there]
    if most is not None and len(found.paths) > most:
        found = found.take(np.sort(np.random.default_rng(0).permutation(len(found.paths))[:most]))
    there = [known[path] for path in found.paths]
    labels = np.array([model.class_names.index(row["class"]) for row in there], np.int32)
    found = replace(found, class_names=model.class_names, labels=labels)
    groups = [row["group"] for row in there]
    table = labelled_table(found, split, model.preprocessing, groups, config.get("corrections"))
    notes = []
    if gone:
        notes.append(f"{counted(len(gone), 'image is', 'images are')} gone since training, for example {gone[0]}")
    changed = [i for i, (row, digest) in enumerate(zip(there, table.hashes, strict=True)) if row["hash"] != digest]
    if changed:
        which = counted(len(changed), "image has", "images have")
        notes.append(f"{which} changed since training, for example {there[changed[0]]['path']}")
    if unchanged:
        table.splits[changed] = NO_SPLIT
    return ImageFolderDataModule.of_table(table, model.preprocessing), notes


def images_of_folder(
    folder: str | Path, split: str, model: Model, columns: Chosen = OPEN
) -> tuple[ImageFolderDataModule, list[str]]:
    """All images of a folder whose classes are known; of one with splits, those of `split`. Classes match by name.

    The second value are notes on what was taken for what.

    Args:
        folder: of class folders, or with a table of labels in it or beside it; or that table.
        columns: of such a table, those that the model was trained by: taken where it has them.

    Raises:
        UserError: the folder cannot be used, or has classes that the model does not know.
    """
    path, labels = Path(folder), AUTO
    if path.suffix.lower() in ENDINGS and path.is_file():
        path, labels = path.parent, str(path.resolve())
    try:
        found = find_images(path, "--data", 1, labels, columns)
    except UserError:  # another table may well have other names
        found = find_images(path, "--data", 1, labels)
    known = {one_form(name): number for number, name in enumerate(model.class_names)}
    known |= {name: number for number, name in enumerate(model.class_names)}
    of_model = [known.get(name, known.get(one_form(name))) for name in found.class_names]
    unknown = [name for name, number in zip(found.class_names, of_model, strict=True) if number is None]
    if unknown:
        split_folder = next((found.root / name for name in unknown if split_of(name)), None)
        inner = split_folder or folder_that_would_do(found.root)
        mend = "rename or remove the folders" + (
            f", or name the one inside: {setting('--data', inner)}" if inner else ""
        )
        if found.source.labels:
            mend = f"write these into {found.source.labels.path}"
        raise UserError(
            f"--data {folder} has classes the model does not know: {unknown}.\nIt knows {model.class_names}; {mend}."
        )
    rows = np.flatnonzero(np.isin(found.given, [NO_SPLIT, SPLITS.index(split)]))
    if not len(rows):
        raise UserError("\n".join([f"--data {folder} has no images for --split {split}.", *found.notes]))
    labels_of_model = np.array(of_model, np.int32)[found.labels]
    chosen = replace(found, class_names=model.class_names, labels=labels_of_model).take(rows)
    by_table = found.source.labels is not None
    table = labelled_table(chosen, split, model.preprocessing, chosen.groups if by_table else None)
    notes = found.notes if by_table else []
    return ImageFolderDataModule.of_table(table, model.preprocessing), [note.removesuffix(".") for note in notes]


def columns_of(path: Path) -> Chosen:
    """The column of the class in the table of labels that the model of `path` was trained by."""
    try:
        columns = Run.open(path).config["data"].get("columns") or OPEN
    except UserError:
        return OPEN
    return {"class": columns.get("class", AUTO)}


def notes_on_seen(path: Path, table: ImageTable, allow_seen: bool) -> list[str]:
    """What to say of images that are, byte for byte, among those that the model of `path` was trained on or chosen by.

    Raises:
        UserError: there are some, and they are not allowed.
    """
    try:
        run = Run.open(path)
    except UserError:
        return [f"whether these images were trained on cannot be told, since {path} lies in no run directory"]
    known = {row["hash"] for row in run.split_rows() if row["split"] != "test"}
    rows = np.flatnonzero(table.splits != NO_SPLIT)
    seen = [row for row in rows if table.digests[row].tobytes().hex() in known]
    if not seen:
        return []
    count = f"{len(seen):,} of {counted(len(rows))} are byte for byte what {run.shown} learnt from"
    if allow_seen:
        return [f"{count}: the accuracy is too good"]
    names = "".join(f"\n  {table.paths[row]}" for row in seen[:NAMED]) + ("\n  ..." if len(seen) > NAMED else "")
    raise UserError(
        f"--data {table.root}: {count}:{names}\nTheir accuracy says nothing of new images. Leave them out, or measure "
        "them nevertheless: --allow-seen"
    )
