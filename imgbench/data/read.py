"""Reads a folder or shards into a table of images: finds, decodes and divides them."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgbench.data.annotated import with_added
from imgbench.data.columns import AUTO, Chosen
from imgbench.data.corrections import corrected, decisions_of, grouped
from imgbench.data.derived import mask_rows
from imgbench.data.labels import OPEN
from imgbench.data.layout import listed
from imgbench.data.look import look_on
from imgbench.data.pixels import decode_images
from imgbench.data.shard_index import find_images
from imgbench.data.shards import Shards
from imgbench.data.split import NO_SPLIT, TRAIN, SplitPlan, assign_splits, group_names
from imgbench.data.table import ImageTable
from imgbench.data.walk import LeftOut, describe_left_out, remedies
from imgbench.distributed import Launcher, launched
from imgbench.errors import UserError
from imgbench.files import memory_left
from imgbench.language import counted
from imgbench.preprocessing import Preprocessing
from imgbench.split_file import SPLITS

log = logging.getLogger(__name__)

NAMED = 10  # of how many things a message gives the names
OF_LABELS = (LeftOut.MISSING, LeftOut.UNLISTED, LeftOut.UNLABELLED, LeftOut.CONTRADICTED)
RELATED = {"val": LeftOut.RELATED_VAL, "test": LeftOut.RELATED_TEST}
ALIKE = (
    "These groups were found: their images look alike, as frames of one film do. data.split.group=null divides them "
    "nevertheless. The accuracy is then that on pictures like those learned from."
)
FindGroups = Callable[[ImageTable], list[str]]


def read_table(
    root: str | Path,
    preprocessing: Preprocessing,
    plan: SplitPlan,
    cache: str = "auto",
    num_classes: int | None = None,
    find_groups: FindGroups = lambda table: table.paths,
    labels: str | None = AUTO,
    columns: Chosen = OPEN,
    corrections: str | None = None,
    launcher: Launcher | None = None,
) -> ImageTable:
    """Scans, decodes and divides the images of a folder, and logs what was found and what was left out.

    `find_groups` names the group of each image, for `plan.group="auto"` and `plan.leaks="drop"`; by default each is
    alone. `cache`: see `imgbench.data.pixels.decode_images`. `num_classes`, where stated, must agree with what is
    found. `labels` and `columns`: see `imgbench.data.shard_index.find_images`. `corrections`: see
    `imgbench.data.corrections.place_of`. `launcher`: the files are looked at on the cluster of that.

    Raises:
        UserError: the folder cannot be used as it is, or has other classes than stated, or there is no cluster.
    """
    found = find_images(root, labels=labels, columns=columns, corrections=corrections)
    if num_classes not in (None, len(found.class_names)):
        raise UserError(
            f"data.num_classes={num_classes}, but {found.root} has {len(found.class_names)} classes: "
            f"{found.class_names}.\nSet data.num_classes={len(found.class_names)}, or null to take what is there."
        )
    for note in found.notes:
        log.log(logging.INFO if found.source.labels else logging.WARNING, "%s", note)
    decisions = decisions_of(found.root, corrections)
    every = with_added(found, decisions)
    with launched(launcher) as cluster:
        if cluster:
            look_on(cluster, every, every.photograph)
    whole = decode_images(every, preprocessing, cache)
    table = whole.first(len(found.paths))
    _require_decodable(table)
    if plan.group == "auto" and isinstance(table.source, Shards) and table.groups:
        groups = table.groups
    elif plan.group == "auto" and table.groups:  # those of a table of labels, with copies of one photograph together
        table = _divided(table, plan, table.groups)
        groups = find_groups(table)
    elif plan.group == "auto":
        table = _divided(table, replace(plan, group=None), [""] * len(table.paths))
        groups = find_groups(table)
    else:
        groups = group_names(table.paths, plan.group, without=table.errors)
    groups = grouped(table, decisions, groups)
    table = _divided(table, plan, groups)
    if plan.leaks == "drop" and table.folder_splits:
        _drop_leaks(table, groups if plan.group == "auto" else find_groups(table))
    if len(whole.paths) > len(table.paths):
        table = _with_added(table, whole, find_groups)
    table = corrected(table, decisions)  # after the division, which is so the same with other labels
    _describe(table)
    return table


def _divided(table: ImageTable, plan: SplitPlan, groups: list[str]) -> ImageTable:
    try:
        splits = assign_splits(table.given, table.labels, table.class_names, plan, groups, without=table.errors)
    except UserError as error:
        if what := _class_of_one_picture(table):
            raise UserError(f"data.root: {what} Replace them by photographs, or leave the class out.") from error
        if table.source.labels:
            raise UserError("\n".join([str(error), *table.notes])) from error
        if plan.group == "auto" and _can_be_divided(table, plan):
            raise UserError(f"{error}\n{ALIKE}") from error
        raise
    return replace(table, plan=plan, groups=groups, splits=splits)


def _can_be_divided(table: ImageTable, plan: SplitPlan) -> bool:
    """Whether it is only the groups that stand in the way."""
    alone = [""] * len(table.paths)
    try:
        assign_splits(table.given, table.labels, table.class_names, plan, alone, without=table.errors)
    except UserError:
        return False
    return True


def _class_of_one_picture(table: ImageTable) -> str:
    """What to say of a class in which there is nothing to be learnt, since no other seed would divide it."""
    shown = np.ascontiguousarray(table.looks.facts["shown"]).view("V16").ravel()
    for label, name in enumerate(table.class_names):
        rows = [row for row in np.flatnonzero(table.labels == label) if row not in table.errors]
        if len(rows) > 1 and not table.looks.facts["deep"][rows].any():
            grey = table.looks.grey[rows].reshape(len(rows), -1)
            if (np.ptp(grey, 1) <= 2).all():
                return f"all {len(rows)} images of class {name!r} are blank, of a single colour each."
            if len(np.unique(shown[rows])) == 1:
                return f"all {len(rows)} images of class {name!r} show one and the same picture."
    return ""


def labelled_table(
    found: ImageTable,
    split: str,
    preprocessing: Preprocessing,
    groups: list[str] | None = None,
    corrections: str | None = None,
) -> ImageTable:
    """Images of known classes, all to be evaluated as those of a split: nothing is left in the cache.

    Raises:
        UserError: none can be decoded, or the table of corrections is damaged.
    """
    decisions = decisions_of(found.root, corrections)
    size = preprocessing.stored_size
    fits = len(found.paths) * size * size * 3 < memory_left() / 4
    table = decode_images(found, preprocessing, "memory" if fits else "stream")
    splits = np.full(len(table.paths), SPLITS.index(split), np.int8)
    splits[list(table.errors)] = NO_SPLIT
    return corrected(replace(table, groups=groups or [""] * len(table.paths), splits=splits), decisions, whole=False)


def _require_decodable(table: ImageTable) -> None:
    """Some image of each class, and of each split that the folders give, can be decoded."""
    damaged = np.array(list(table.errors), np.int64)
    for kind, keys, names in (("class", table.labels, table.class_names), ("split", table.given, SPLITS)):
        for key in np.setdiff1d(keys[damaged], np.delete(keys, damaged)):
            rows = np.flatnonzero(keys == key)
            example = f"{table.root / table.paths[rows[0]]} ({table.errors[int(rows[0])]})"
            raise UserError(
                f"data.root: {kind} {names[key]!r} has {len(rows)} images, and none can be decoded, for example "
                f"{example}.\nReplace them or leave the {kind} out."
            )


def _drop_leaks(table: ImageTable, groups: list[str]) -> None:
    """Leaves images of the training images' groups out of the val and test that the folders give."""
    trained = {groups[row] for row in table.rows("train")} - {""}
    for split in table.folder_splits:
        if split == "train":
            continue
        rows = table.rows(split)
        related = [row for row in rows if groups[row] in trained]
        if len(related) == len(rows):
            raise UserError(
                f"data.split.leaks=drop leaves no {split} image: all {len(rows)} look like a training image or "
                "belong to its group. Leave the folders undivided, so that these stay on one side."
            )
        table.splits[related] = NO_SPLIT
        if related:
            names = table.passed_over.setdefault(RELATED[split], [])
            names += [table.paths[row] for row in related]


def _with_added(table: ImageTable, whole: ImageTable, find_groups: FindGroups) -> ImageTable:
    """The divided table with the further rows of the whole, which are trained on.

    Those that look like a validation or test image, or are of its group, are left out.
    """
    own, more = len(table.paths), whole.paths[len(table.paths) :]
    whole = replace(
        whole,
        plan=table.plan,
        groups=table.groups + [_group(path, table.plan.group) for path in more],
        splits=np.append(table.splits, np.full(len(more), TRAIN, np.int8)),
        passed_over={reason: [*paths] for reason, paths in table.passed_over.items()},
    )
    names = find_groups(whole)
    relatives: dict[str, int] = {}  # group -> an image of it, before others one that is not trained on
    for row in sorted(range(own), key=lambda row: table.splits[row] == TRAIN):
        relatives.setdefault(names[row], row)
    related = []
    for row, path in enumerate(more, own):
        relative = relatives.get(names[row])
        whole.groups[row] = names[row] if relative is None else table.groups[relative]
        if table.plan.group is None:
            whole.groups[row] = ""
        if row in whole.errors:
            whole.splits[row] = NO_SPLIT
        elif relative is not None and table.splits[relative] not in (TRAIN, NO_SPLIT):
            whole.splits[row] = NO_SPLIT
            related.append(path)
    if related:
        whole.passed_over[LeftOut.RELATED_NEW] = related
    return whole


def _group(path: str, pattern: str | None) -> str:
    """As a regular expression names it, where it fits the name of an image from elsewhere; else it is alone."""
    if pattern in (None, "auto"):
        return path
    try:
        return group_names([path], pattern)[0]
    except UserError:
        return path


def _describe(table: ImageTable) -> None:
    for note in remedies(table.passed_over):
        log.warning("%s", note)
    if masks := mask_rows(table.paths):
        log.warning(
            "Called masks, with photographs of the same names: %s, for example %s. Masks are trained and tested on as "
            "photographs: move them out of the folder.",
            counted(len(masks)),
            table.paths[masks[0]],
        )
    if table.source.labels:
        for reason in OF_LABELS:
            if names := table.passed_over.get(reason):
                log.info("%s: %s", reason.counted(len(names)), listed(names))
    for row, reason in sorted(table.errors.items())[:NAMED]:
        log.warning("Left out, cannot be decoded: %s (%s)", table.root / table.paths[row], reason)
    if (more := len(table.errors) - NAMED) > 0:
        log.warning("... and %d more that cannot be decoded; left_out.csv in the run directory names all.", more)
    for split in table.folder_splits:
        if missing := table.missing_classes(split):
            names = f"{missing[:NAMED]}{f' and {len(missing) - NAMED} more' if len(missing) > NAMED else ''}"
            log.warning("%s has no %s images of %s: not measured there.", table.root, split, names)
    counts = ", ".join(f"{len(rows)} {name}" for name in SPLITS if len(rows := table.rows(name)))
    left_out = table.passed_over | ({LeftOut.DAMAGED: table.errors} if table.errors else {})
    log.info(
        "%s: %d images in %d classes (%s); left out: %s",
        table.root,
        int((table.splits != NO_SPLIT).sum()),
        len(table.class_names),
        counts,
        describe_left_out(left_out),
    )
