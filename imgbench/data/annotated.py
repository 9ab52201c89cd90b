"""Photographs whose class people gave while they looked at them: no folder and no table of labels says it.

Their classes stand in the table of decisions, `corrections.csv`. The photographs stay where they are. One that lies
outside of the data's folder is opened by the path that stands there, and used if its content is what was looked at.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgbench.data.corrections import FILE, Decisions, place_of
from imgbench.data.labels import Images, forget_tables
from imgbench.data.look import digest, kept_looks
from imgbench.data.shards import Folder, Shards
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut, images_in, natural_sort, stamp_of
from imgbench.errors import UserError
from imgbench.trust import stays_below

UNKNOWN = -1  # in the place of a class


def unlabelled_images(root: str | Path, option: str) -> ImageTable:
    """The images below a folder, of which no class is known.

    Raises:
        UserError: there is no such folder, or no image below it.
    """
    images = Images.below(Path(root).expanduser(), option)
    stamps = np.array(images.stamps, np.int64).reshape(-1, 4)
    return _table(images.root, images.paths, stamps, Folder(images.root), images.left_out)


def _table(
    root: Path,
    paths: list[str],
    stamps: np.ndarray,
    source: Folder,
    passed_over: Mapping[LeftOut, list[str]] | None = None,
) -> ImageTable:
    number = len(paths)
    labels, given = np.full(number, UNKNOWN, np.int32), np.full(number, NO_SPLIT, np.int8)
    return ImageTable(root, [], paths, labels, given, stamps, source, {**(passed_over or {})})


def _hashes(table: ImageTable) -> list[str]:
    """Of each image, read again only where its file may have changed; "" where it cannot be read."""
    looks = kept_looks(table, table.read)
    known = [digest.tobytes().hex() for digest in looks.digests]
    return [_hash(table, row) if fresh else known[row] for row, fresh in enumerate(looks.fresh)]


def _hash(table: ImageTable, row: int) -> str:
    try:
        return digest(table.read(row)).hex()
    except OSError:
        return ""


def holds_photographs(root: str | Path) -> bool:
    """Whether photographs lie in a folder itself, as they do not where sub-folders are classes."""
    folder = Path(root).expanduser()
    return folder.is_dir() and next(images_in(folder), None) is not None


def annotated_images(root: str | Path, decisions: Decisions, option: str, min_classes: int = 2) -> ImageTable | None:
    """The images below a folder that people have given a class; None where they have given none.

    Raises:
        UserError: there are too few classes.
    """
    classes = decisions.classes
    if not classes:
        return None
    found = unlabelled_images(root, option)
    rows: dict[int, str] = {}
    missing = set(classes)
    # Those that were moved or renamed are looked for among all others, which may be many.
    named = {path for path, _ in classes.values()}
    for among in ([row for row, path in enumerate(found.paths) if path in named], range(len(found.paths))):
        among = [row for row in among if row not in rows]
        if not missing:
            break
        for row, content in zip(among, _hashes(found.take(among)), strict=True):
            if content in classes:
                rows[row] = classes[content][1]
                missing.discard(content)
    if not rows:
        return None
    class_names = natural_sort(set(rows.values()))
    if len(class_names) < min_classes:
        raise UserError(
            f"{option}: people have labelled {len(rows)} of the photographs in {found.root} in {FILE}, all as "
            f"{class_names[0]!r}, but at least {min_classes} classes are needed. Label some of another: "
            f"imgbench review {found.root}"
        )
    codes = {name: code for code, name in enumerate(class_names)}
    order = sorted(rows, key=lambda row: (codes[rows[row]], row))
    result = found.take(order)
    result.class_names = class_names
    result.labels = np.array([codes[rows[row]] for row in order], np.int32)
    result.annotated = frozenset(result.paths)
    forget_tables(found.passed_over, found.root, place_of(found.root))
    others = [path for row, path in enumerate(found.paths) if row not in rows]
    result.passed_over = {**found.passed_over, **({LeftOut.UNLABELLED: others} if others else {})}
    return result


def with_added(table: ImageTable, decisions: Decisions) -> ImageTable:
    """The table, and after its images those that people have given a class and that are none of them.

    Raises:
        UserError: one was given a class that there is not.
    """
    if isinstance(table.source, Shards):  # the place of an image is one in a shard there
        return table
    known, root = set(table.paths), table.root.resolve()
    places: dict[str, tuple[Path, str, str]] = {}  # path in the table -> the file, its hash, its class
    for content, (path, name) in decisions.classes.items():
        if not (stays_below(path) or Path(path).is_absolute()) or ".." in Path(path).parts:
            continue
        file = root / path
        # As split.csv can have it.
        own = file.relative_to(root if file.is_relative_to(root) else file.anchor).as_posix()
        if own not in known and file.is_file():
            places[own] = file, content, name
    if not places:
        return table
    paths = list(places)
    stamps = np.array([stamp_of(places[path][0].stat()) for path in paths], np.int64).reshape(-1, 4)
    elsewhere = {path: file for path, (file, _, _) in places.items() if not file.is_relative_to(root)}
    more = _table(table.root, paths, stamps, replace(table.source, elsewhere=elsewhere))
    same = [row for row, content in enumerate(_hashes(more)) if content == places[paths[row]][1]]
    codes = {name: code for code, name in enumerate(table.class_names)}
    for row in same:
        if (name := places[paths[row]][2]) not in codes:
            raise UserError(
                f"{FILE}: {places[paths[row]][0]} is given the class {name!r}, but there are {table.class_names}. "
                f"Withdraw that row in {FILE}, or add a folder of that class."
            )
    more = more.take(same)
    more.labels = np.array([codes[places[path][2]] for path in more.paths], np.int32)
    return joined(table, more) if same else table


def joined(table: ImageTable, more: ImageTable) -> ImageTable:
    """The rows of a table, and after them those of another, which has its classes or none."""
    assert isinstance(table.source, Folder)
    assert isinstance(more.source, Folder)
    return replace(
        table,
        paths=table.paths + more.paths,
        labels=np.concatenate([table.labels, more.labels]),
        given=np.concatenate([table.given, more.given]),
        stamps=np.concatenate([table.stamps, more.stamps]),
        source=replace(table.source, elsewhere={**table.source.elsewhere, **more.source.elsewhere}),
        groups=table.groups and table.groups + more.paths,
        annotated=table.annotated | frozenset(more.paths),
    )
