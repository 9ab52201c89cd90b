"""What a run has recorded of its images and of their division, as sentences for a paper and a checklist."""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from imgbench.cells import unguarded
from imgbench.data.layout import split_of
from imgbench.evaluation.metrics import describe
from imgbench.inspection.audit import PROVEN, RELATED
from imgbench.inspection.record import FILE as AUDIT
from imgbench.language import counted
from imgbench.publish.recorded import (
    CONFIG,
    INFO,
    SPLIT,
    Fact,
    Record,
    cite,
    listed,
    plain,
)
from imgbench.report.results import BEFORE_CORRECTIONS, SELECTED_ON_TEST
from imgbench.run import FOLDS
from imgbench.split_file import SPLITS
from imgbench.trust import damage_named

NAMED = 20  # classes; of more, a sentence gives the smallest and the largest number of images


def images(record: Record) -> Fact:
    names = Counter(row["class"] for row in record.rows)
    name = plain(record.config.get("data_name", "unnamed"))
    start = f"The data set “{name}” has {counted(len(record.rows))} of {counted(len(names), 'class', 'classes')}"
    if len(names) <= NAMED:
        parts = [f"{plain(label)} ({names[label]:,})" for label in record.classes if label in names]
        return Fact(f"{start}: {listed(parts)}.", SPLIT)
    return Fact(f"{start}, with {_span([*names.values()])} images each.", SPLIT)


def source(record: Record) -> Fact | None:
    if _are_digits(record):
        text = (
            "They are the handwritten digits that scikit-learn carries, the test part of the set of the UCI repository"
        )
        return Fact(f"{text}{cite('digits')}.", CONFIG)
    return None


def _are_digits(record: Record) -> bool:
    return str(record.data.get("_target_", "")).endswith(".DigitsDataModule")


def labels(record: Record) -> Fact | None:
    table = record.data.get("labels")
    if _are_digits(record):
        return Fact(f"The class of each image is the digit that the set says it is{cite('digits')}.", CONFIG)
    if table:
        column = (record.data.get("columns") or {}).get("class")
        of_column = f", in its column “{plain(column)}”" if column not in (None, "auto") else ""
        return Fact(f"The class of each image stands in a table, {plain(Path(str(table)).name)}{of_column}.", CONFIG)
    others = sum(row["class"] not in Path(row["path"]).parts[:-1] for row in record.rows)
    if not others:
        return Fact("The class of each image is the name of a folder that it lies in.", SPLIT)
    if record.info.get("corrections") and others < len(record.rows):
        rest = f"{counted(others)} whose class people have decided otherwise"
        return Fact(f"The class of an image is the name of a folder that it lies in, but for {rest}.", SPLIT)
    return None


def left_out(record: Record) -> Fact | None:
    file = record.run.path / "left_out.csv"
    if not file.is_file():
        return None
    with damage_named(file), file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        reasons = Counter(unguarded(row["reason"]) for row in csv.DictReader(lines))
    parts = [f"{plain(reason)} ({number:,})" for reason, number in reasons.most_common()]
    files = counted(reasons.total(), "entry", "entries")
    were = "was" if reasons.total() == 1 else "were"
    return Fact(f"{files} of the data's folder {were} left out; the reasons: {listed(parts)}.", "left_out.csv")


def corrections(record: Record) -> Fact | None:
    found = record.info.get("corrections")
    if not found or not found.get("sentence"):
        return None
    decided = plain(found["sentence"]).removeprefix("Corrections: ").rstrip(".")
    text = f"People had looked at images before the training and decided of them: {decided}."
    if changed := len(found.get("test_classes_before") or {}):
        text += f" {counted(changed, 'test image')} had another class before."
    if before := record.metrics.get(BEFORE_CORRECTIONS):
        text += f" With the labels of before, the accuracy is {describe(before)}."
    return Fact(text, INFO)


def groups(record: Record) -> Fact:
    sizes = Counter(row["group"] or row["path"] for row in record.rows)
    rule, column = record.plan.get("group"), (record.data.get("columns") or {}).get("group")
    how = ""
    if column not in (None, "auto"):
        how = f"Which images belong together was read from the column “{plain(column)}”. "
    elif rule == "auto":
        how = "Which images belong together was looked for automatically (data.split.group=auto). "
    elif rule:
        how = f"Images whose file names match alike belong together, by the expression {plain(rule)}. "
    if len(sizes) == len(record.rows):
        return Fact(f"{how}No two images are recorded as belonging together.", SPLIT)
    text = f"The {len(record.rows):,} images form {counted(len(sizes), 'independent group')}"
    text += f" of {_span([*sizes.values()])} images"
    return Fact(f"{how}{text}.", SPLIT)


def division(record: Record) -> Fact:
    if record.run.folds:
        return _folds(record)
    counts, plan = record.counts, record.plan
    parts = [f"{counts[split]:,} {use}" for split, use in zip(SPLITS, ("to train on", "to validate on", "to test on"),
             strict=True) if counts[split]]  # fmt: skip
    text = f"The images were divided into {listed(parts)}."
    if counts["val"] and record.selected_on_test:
        return Fact(text, SPLIT)
    columns, stated = record.data.get("columns") or {}, set()
    for row in record.rows:
        if split_of(row["path"].split("/")[0]) == row["split"]:
            stated.add(row["split"])
    if columns.get("split") not in (None, "auto"):
        text += f" The column “{plain(columns['split'])}” of the table of labels says so."
    elif record.data.get("labels") and columns.get("split") == "auto":
        return Fact(text, SPLIT)  # the table may have said so: it is not recorded
    elif stated:
        names = {"train": "training", "val": "validation", "test": "test"}
        parts = listed([names[split] for split in SPLITS if split in stated])
        text += f" The folders of the data say which images are for {parts}."
        drawn = [names[split] for split in ("val", "test") if counts[split] and split not in stated]
        if drawn:
            text += f" The {listed(drawn)} images were drawn{_drawn(record)}."
    else:
        if plan.get("folds"):
            text += f" The test images are fold {int(plan['fold']) + 1} of {plan['folds']}."
        text += f" The division was drawn{_drawn(record)}."
    return Fact(text, SPLIT)


def _drawn(record: Record) -> str:
    plan = record.plan
    seed = f" with the seed {plan['seed']}" if "seed" in plan else ""
    return f" at random{seed}{', stratified by class' if plan.get('stratify') else ''}"


def _folds(record: Record) -> Fact:
    tested = [sum(row["split"] == "test" for row in rows) for rows in record.fold_rows]
    trained = [sum(row["split"] == "train" for row in rows) for rows in record.fold_rows]
    validated = [sum(row["split"] == "val" for row in rows) for rows in record.fold_rows]
    parts = f"{_span(trained)} images to train on, {_span(validated)} to validate on and {_span(tested)} to test on"
    kept = record.counts
    return Fact(
        f"The images were divided into {record.run.folds} folds, drawn{_drawn(record)}. Each image was tested once, by "
        f"the network of its fold, which had {parts}. The network that is kept was trained afterwards, on "
        f"{kept['train']:,} images with {kept['val']:,} to validate on; it was itself tested on none.",
        f"{SPLIT}, {FOLDS}/*/{SPLIT}",
    )


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def disjoint(record: Record) -> Fact:
    tables = record.fold_rows or [record.rows]
    shared: dict[str, int] = {}
    for kind in ("group", "hash"):
        places: list[dict[str, set[str]]] = [defaultdict(set) for _ in tables]
        for rows, found in zip(tables, places, strict=True):
            for row in rows:
                if row[kind]:
                    found[row[kind]].add(row["split"])
        shared[kind] = max(sum(len(splits) > 1 for splits in found.values()) for found in places)
    file = f"{FOLDS}/*/{SPLIT}" if record.fold_rows else SPLIT
    if not any(shared.values()):
        level = "group" if len({row["group"] or row["path"] for row in record.rows}) < len(record.rows) else "image"
        return Fact(
            f"The parts are disjoint by {level}: no group has images in two parts, and no two parts share a file of "
            "the same content.",
            file,
        )
    parts = [f"{counted(number, what)} {'has' if number == 1 else 'have'} images in more than one part"
             for number, what in ((shared["group"], "group"), (shared["hash"], "file content")) if number]  # fmt: skip
    return Fact(f"The parts are not independent: {listed(parts)}.", file, met=False)


def inspection(record: Record) -> Fact | None:
    found = record.audit
    if found is None:
        if record.data.get("audit") in (False, "off"):
            return Fact("The images were not inspected for copies and leaks (data.audit=false).", CONFIG, met=False)
        return None
    text = "Before the training, the images were inspected for damaged files, copies, look-alikes and groups"
    if found.verdict == "leaks":
        counts = [f"{found.leaked[split]:,} of {counted(found.splits[split], f'{split} image')}"
                  for split in ("test", "val") if split in found.leaked]  # fmt: skip
        leak = f"{listed(counts)} have {RELATED if found.proven is None else PROVEN}"
        return Fact(f"{text}. Leaks were found: {leak}.", AUDIT, met=False)
    if found.verdict == "clean":
        return Fact(f"{text}. Nothing was found that looks like a leak between the parts.", AUDIT)
    kinds = [f"{plain(finding.kind).replace('_', ' ')} ({finding.count:,})" for finding in found.findings
             if finding.severity != "note"]  # fmt: skip
    return Fact(f"{text}. Findings to be judged by people: {listed(kinds)}.", AUDIT)


def difference_of_parts(record: Record) -> Fact | None:
    finding = next((one for one in record.audit.findings if one.kind == "shift_test"), None) if record.audit else None
    return finding and Fact(plain(finding.message), AUDIT)


def selection_on_test(record: Record) -> Fact | None:
    if not record.selected_on_test:
        return None
    return Fact(f"{SELECTED_ON_TEST[0].upper()}{SELECTED_ON_TEST[1:]}.", INFO, met=False)


def test_apart(record: Record) -> Fact | None:
    """That nothing was chosen on test images: of a run that recorded so."""
    if record.selected_on_test or record.info.get("selected_on_test") is None or record.tested is None:
        return None
    images = "the test images of its fold" if record.run.folds else "the test images"
    return Fact(f"What was chosen while training was chosen on validation images, not on {images}.", INFO)
