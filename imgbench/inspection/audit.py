"""The whole inspection of a data set: what is wrong with it, which images belong together, and whether they leak."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from imgbench.data.pixels import cache_dir
from imgbench.data.shard_index import photographs
from imgbench.data.shards import Folder
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.decode import DECODING
from imgbench.files import write_atomically
from imgbench.inspection.classes import class_findings
from imgbench.inspection.duplicates import Pair, connected, find_duplicates
from imgbench.inspection.families import Family, find_family
from imgbench.inspection.file_facts import Header, file_findings, read_headers, subjects
from imgbench.inspection.findings import PROBE, Finding, first_few
from imgbench.inspection.labels import LabelReview, Suspect
from imgbench.inspection.thumbnails import Thumbnails, make_thumbnails
from imgbench.language import counted
from imgbench.number import Number
from imgbench.preprocessing import Preprocessing
from imgbench.progress import shown
from imgbench.split_file import SPLITS

T = TypeVar("T")
log = logging.getLogger(__name__)

FORMAT = 9  # raise it when the inspection changes, so that old results are not read back
SHOWN = 3  # examples of each finding, in the terminal
ORDER = {"error": 0, "warning": 1, "note": 2}
UNSEEN = ("file names", "file times")  # what probes may use and no network
LEFT = "Move each group to one side. Or leave the folders undivided, with data.split.group=auto."
RELATED = "a look-alike, a copy or an image of the same group among the training images"
PROVEN = "the same pixels as a training image, or belong to its group"
KINDS = {"near": "look alike", "scene": "one scene?"}  # in the titles of pictures
KEPT = "data.split.group=auto keeps images that look alike, and groups, on one side."
JOINED = (
    "data.split.group=auto keeps both of each pair on one side, be it one picture or two; "
    "data.split.group=null does not."
)
# How sure likeness is depends on what is shown; no estimate from a set's own scores held (see notebooks/audit.md).
HOW_SURE = (
    "Look at some: of 129 such pairs that were looked at in eight collections none was two different pictures. Of "
    "things made alike many are: 349 of 1,127 of circuit boards, 14 of 24 of solar cells."
)
OF_LABELS = "Give the images of each group one split in {table}, or divide them anew: data.columns.split=null"
GROUPED = "Give what shows one thing one {group} in {table}, or leave it to names and likeness: data.columns.group=null"


class Finder(Protocol):
    """A further question to a data set. Each image belongs to one of `groups`."""

    def __call__(self, table: ImageTable, groups: Sequence[str]) -> Iterable[Finding]: ...


@dataclass
class Audit:
    """What `audit.json` holds.

    `leaking` counts the images of val and test that have a relative among the training images: what looks like the same
    picture, or a member of the same family of file names. `proven` counts those of which it is certain: the same
    pixels, or a group that `data.split.group` or DICOM files state; audits of earlier versions have none.
    `pairs` and `groups` name paths.
    """

    root: str
    hash: str  # of the images and their splits
    verdict: Literal["clean", "suspect", "leaks"]
    images: int
    classes: dict[str, int]
    splits: dict[str, int]
    leaking: dict[str, int]
    findings: list[Finding]
    pairs: list[dict[str, Any]] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)
    relatives: dict[str, str] = field(default_factory=dict)  # path -> name of its group, where that has other images
    proposal: dict[str, Any] | None = None  # an expression for data.split.group
    seconds: float = 0
    proven: dict[str, int] | None = None
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # path -> file, where that lies outside; not kept

    def __repr__(self) -> str:
        return f"<Audit of {self.images:,} images: {self.verdict}, {len(self.findings)} findings>"

    @property
    def shortcuts(self) -> dict[str, Number]:
        """The accuracies of probes of what a network sees too, where they know anything; the best first."""
        probes = [
            (finding.kind.removeprefix(PROBE), finding.accuracy)
            for finding in self.findings
            if finding.accuracy and finding.kind.startswith(PROBE)
        ]
        known = {
            name: Number.from_dict(number) for name, number in probes if number["skill"] > 0 and name not in UNSEEN
        }
        return dict(sorted(known.items(), key=lambda probe: -probe[1].value))

    @property
    def leaked(self) -> dict[str, int]:
        """The images of each split that the verdict rests on."""
        return self.leaking if self.proven is None else self.proven

    @property
    def shown(self) -> list[Finding]:
        """The findings but those of names and times of files, which no network sees."""
        return [finding for finding in self.findings if finding.kind.removeprefix(PROBE) not in UNSEEN]

    def summary(self) -> str:
        """What the command prints."""
        return summary(self)

    def to_json(self) -> str:
        kept = {name: value for name, value in asdict(self).items() if name != "elsewhere"}
        return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Audit":
        """Raises ValueError, TypeError, KeyError or AttributeError: it is none, or its entries are of other types."""
        values = json.loads(text)
        result = cls(
            **{
                **values,
                "findings": [Finding.from_dict(finding) for finding in values["findings"]],
                "elsewhere": {},  # which is not kept, and would name files to open
            }
        )
        counts = [result.classes, result.splits, result.leaking, result.proven or {}]
        numbers = [result.images, *(number for one in counts for number in one.values())]
        texts = [result.root, result.verdict, *result.relatives, *result.relatives.values()]
        texts += [path for group in result.groups for path in group]
        for finding in result.findings:
            numbers.append(finding.count)
            texts += [finding.kind, finding.severity, finding.message, finding.remedy or "", *finding.examples]
            if finding.accuracy:
                Number.from_dict(finding.accuracy)
                numbers.append(finding.accuracy.get("skill", 0))  # a finding of a shift has none
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("a number in it is none")
        if not all(isinstance(one, str) for one in texts) or {one.severity for one in result.findings} - {
            "note",
            "warning",
            "error",
        }:
            raise ValueError("a text in it is none")
        return result


@dataclass
class Evidence:
    """What the findings rest on, each piece made when it is first asked for."""

    table: ImageTable

    @cached_property
    def headers(self) -> list[Header | None]:
        return read_headers(self.table)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        return make_thumbnails(self.table)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Kept in the cache until a file changes or another can be decoded, whatever the splits."""
        table = self.table
        facts = (FORMAT, DECODING, table.intensity, sorted(table.errors), *table.paths, table.digests.tobytes())

        def find() -> str:
            pairs = find_duplicates(self.table, self.thumbnails, self.headers)
            return json.dumps([[pair.first, pair.second, pair.kind, pair.similarity] for pair in pairs])

        pairs = _kept("pairs", facts, find, lambda text: [Pair(*values) for values in json.loads(text)])
        return [pair for pair in pairs if not self._is_settled(pair)]

    def _is_settled(self, pair: Pair) -> bool:
        """Whether people have looked at a pair that is not certain, or have left one image of it out."""
        if (decided := self.table.decided) is None:
            return False
        seen = pair.kind != "exact" and tuple(sorted((pair.first, pair.second))) in decided.pairs
        return seen or bool(decided.left_out[[pair.first, pair.second]].any())

    @cached_property
    def family(self) -> Family | None:
        """What names tell of groups, where no table of labels states them."""
        return None if group_column(self.table) else find_family(self.table, self.pairs)

    @cached_property
    def codes(self) -> np.ndarray:
        """(N,) the same number for images that duplicates, a family of names or data.split.group connect."""
        family = [self.family.groups] if self.family and self.family.support == "pixels" else []
        return related(self.table, self.pairs, stated_groups(self.table) + family)

    @cached_property
    def certain(self) -> np.ndarray:
        """(N,) as `codes`, of what is no likeness: the same pixels, and groups that are stated."""
        return related(self.table, [pair for pair in self.pairs if pair.kind == "exact"], stated_groups(self.table))

    @cached_property
    def groups(self) -> list[str]:
        """The name of each image's group, which is called after its first image."""
        rows = np.unique(self.codes, return_index=True)[1]
        return [self.table.paths[rows[code]] for code in self.codes]


def audit(table: ImageTable, finders: Sequence[Finder] = ()) -> Audit:
    """Inspects a data set; of one that was inspected before, and has not changed, the result is read back."""
    left_out = sorted((reason.value, sorted(paths)) for reason, paths in table.passed_over.items())
    names = [getattr(finder, "__name__", repr(finder)) for finder in finders]
    names += [str(table.source.labels)] if table.source.labels else []  # which remedies name
    # A damaged image is named with the reason, which is another once its format can be read.
    versions, damaged = (FORMAT, DECODING), sorted(table.errors.items())
    facts = (versions, table.root.resolve(), table.hash, table.plan, damaged, left_out, names)
    if table.decided is not None:
        facts += (table.decided.hash, table.decided.sentence)
    result = _kept("audit", facts, lambda: _inspect(table, finders).to_json(), Audit.from_json)
    elsewhere = table.source.elsewhere if isinstance(table.source, Folder) else {}
    # As it is named now, which may be from another working directory.
    return replace(result, elsewhere=elsewhere, root=str(table.root))


def group_names(table: ImageTable) -> list[str]:
    """The name of each image's group: images with the same name show the same thing, and belong on one side.

    Where a table of labels states the groups they are those, and only what is certain is added: those of two groups
    that have a photograph in common are called after the first.
    """
    evidence = Evidence(table)
    if not group_column(table):
        return evidence.groups
    first = np.unique(evidence.certain, return_index=True)[1]
    return [table.groups[first[code]] for code in evidence.certain]


def group_column(table: ImageTable) -> str | None:
    """The column of a table of labels that states the groups, unless data.split.group does."""
    labels = table.source.labels
    column = labels.columns["group"] if labels and table.plan.group == "auto" else None
    return column if isinstance(column, str) else None


def _remedy(table: ImageTable, divided: bool) -> str:
    """What keeps images of one group on one side; `divided` says whether the data divides them, not imgbench."""
    labels = table.source.labels
    if labels and divided:
        return OF_LABELS.format(table=labels.name)
    if labels and (column := group_column(table)):
        return GROUPED.format(table=labels.name, group=column)
    return LEFT if divided else KEPT


def _kept(kind: str, facts: tuple[Any, ...], make: Callable[[], str], read: Callable[[str], T]) -> T:
    """What was made of the same facts before, or else is made and put into the cache."""
    key = hashlib.blake2b(repr(facts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    place = cache_dir() / "audits" / f"{kind}-{key}.json"
    try:
        return read(place.read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError, TypeError, KeyError):
        text = make()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text, errors="surrogateescape")
    except OSError as error:
        log.warning("The audit cannot be kept in %s (%s): it will be made again.", place.parent, error.strerror)
    return read(text)


def _inspect(table: ImageTable, finders: Sequence[Finder]) -> Audit:
    start = time.perf_counter()
    evidence = Evidence(table)
    pairs, family, codes, names = evidence.pairs, evidence.family, evidence.codes, evidence.groups
    leaking, proven = (
        {split: rows for split in ("val", "test") if len(rows := _leaking(table, among, split))}
        for among in (codes, evidence.certain)
    )
    asked = shown(finders, len(finders), "Judging shortcuts and labels")
    findings = [
        *decisions(table),
        *file_findings(table, evidence.headers, evidence.thumbnails),
        *class_findings(table),
        *duplicate_findings(table, pairs),
        *family_findings(table, family),
        *leak_findings(table, leaking, proven),
        *(finding for finder in asked for finding in finder(table, names)),
    ]
    findings.sort(key=lambda finding: ORDER[finding.severity])
    doubtful = any(finding.severity != "note" for finding in findings)
    members: dict[int, list[str]] = {}
    sizes = np.bincount(codes)
    for row in np.flatnonzero(sizes[codes] > 1):
        members.setdefault(int(codes[row]), []).append(table.paths[row])
    used = table.splits != NO_SPLIT
    counts = np.bincount(table.labels[used], minlength=len(table.class_names)).tolist()
    tested = "test" in proven or (table.plan.selects_on_test and "val" in proven)
    return Audit(
        root=str(table.root),
        hash=table.hash,
        verdict="leaks" if tested else "suspect" if doubtful else "clean",
        images=int(used.sum()),
        classes=dict(zip(table.class_names, counts, strict=True)),
        splits={split: len(table.rows(split)) for split in SPLITS},
        leaking={split: len(rows) for split, rows in leaking.items()},
        proven={split: len(rows) for split, rows in proven.items()},
        findings=findings,
        pairs=[_described(table, pair) for pair in pairs],
        groups=sorted(members.values(), key=len, reverse=True),
        relatives={table.paths[row]: names[row] for row in np.flatnonzero(sizes[codes] > 1)},
        proposal=family
        and {
            "group": family.expression,
            "support": family.support,
            "evidence": family.evidence,
            "groups": family.number,
            "images": family.images,
            "moves": family.moves(table),
        },
        seconds=round(time.perf_counter() - start, 2),
    )


def related(table: ImageTable, pairs: Sequence[Pair], known: list[list[str]]) -> np.ndarray:
    """(N,) the same number for images that copies, or one of the ways to name groups that are known, connect."""
    links = [(pair.first, pair.second) for pair in pairs if pair.copies]
    for groups in known:
        first: dict[str, int] = {}
        links += [(first.setdefault(name, row), row) for row, name in enumerate(groups) if row not in table.errors]
    return connected(links, len(table.paths))


def stated_groups(table: ImageTable) -> list[list[str]]:
    """The names of groups that the user states, and the patients that DICOM files do."""
    # Groups that were found are called after an image.
    own = [table.groups] if table.plan.group is not None and not set(table.groups) <= {*table.paths, ""} else []
    return own + ([names] if (names := subjects(table)[1]) else [])


def _leaking(table: ImageTable, codes: np.ndarray, split: str) -> np.ndarray:
    rows = table.rows(split)
    return rows[np.isin(codes[rows], codes[table.rows("train")])]


def _described(table: ImageTable, pair: Pair) -> dict[str, Any]:
    rows = (pair.first, pair.second)
    splits = [SPLITS[table.splits[row]] if table.splits[row] != NO_SPLIT else "" for row in rows]
    return {
        "paths": [table.paths[row] for row in rows],
        "kind": pair.kind,
        "similarity": round(pair.similarity, 3),
        "classes": [table.class_names[table.labels[row]] for row in rows],
        "splits": splits,
    }


def decisions(table: ImageTable) -> Iterator[Finding]:
    """What people have decided of the images, which is not asked again."""
    if table.decided is not None:
        yield Finding("corrections", "note", table.decided.sentence, int(table.decided.looked_at.sum()))


def duplicate_findings(table: ImageTable, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """The same pixels, and what looks alike, within a class, across classes and across splits; then likely scenes."""
    for kind, what, labels in (
        ("exact", "with the same pixels", ": no network can be right on both"),
        ("near", "that look alike", ""),
    ):
        own = [pair for pair in pairs if pair.kind == kind]
        across_labels = [pair for pair in own if table.labels[pair.first] != table.labels[pair.second]]
        across_splits = [
            pair for pair in own if len({table.splits[pair.first], table.splits[pair.second], NO_SPLIT}) == 3
        ]
        if across_labels:
            yield Finding(
                f"{kind}_across_labels",
                "warning",
                f"{counted(len(across_labels), 'pair')} of images {what}{_range(across_labels)} in different "
                f"classes{labels}.",
                len(across_labels),
                first_few([_named(table, pair) for pair in across_labels]),
                "Look at each pair, and delete or move one image of it."
                if kind == "exact"
                else "Look at each pair. If it is one picture, delete or move one image of it.",
            )
        if across_splits:
            yield Finding(
                f"{kind}_across_splits",
                "warning",
                f"{counted(len(across_splits), 'pair')} of images {what}{_range(across_splits)} in different splits.",
                len(across_splits),
                first_few([_named(table, pair) for pair in across_splits]),
                _remedy(table, bool(table.folder_splits)),
            )
        if own:
            joined = f" {JOINED}" if table.plan.group == "auto" else ""
            yield Finding(
                f"{kind}_duplicates",
                "note",
                f"{counted(len(own), 'pair')} of images {what}{_range(own)}.",
                len(own),
                first_few([_named(table, pair) for pair in own]),
                f"{HOW_SURE}{joined}" if kind == "near" else None,
            )
    scenes = [pair for pair in pairs if not pair.copies]
    if scenes:
        yield Finding(
            "scenes",
            "note",
            f"{counted(len(scenes), 'pair')} of images may show one thing or one scene twice{_range(scenes)}, or two "
            "things of one kind. They are not taken for copies, and may be in different splits.",
            len(scenes),
            first_few([_named(table, pair) for pair in scenes]),
            "Look at some. If images come in series, state the groups: data.split.group.",
        )


def _range(pairs: Sequence[Pair]) -> str:
    """How far pairs agree, where that is a question."""
    if all(pair.kind == "exact" for pair in pairs):
        return ""
    low, high = (f"{function(pair.similarity for pair in pairs):.2f}" for function in (min, max))
    return f" ({low})" if low == high else f" ({low} to {high})"


def _named(table: ImageTable, pair: Pair) -> str:
    sign = "=" if pair.kind == "exact" else f"~ ({pair.similarity:.2f})"
    return f"{table.paths[pair.first]} {sign} {table.paths[pair.second]}"


def family_findings(table: ImageTable, family: Family | None) -> Iterator[Finding]:
    if family is None:
        return
    moved = family.moves(table)
    remedy = f"data.split.group='{family.expression}'"
    joined = table.plan.group == "auto" and family.support == "pixels" and not table.folder_splits
    if joined:
        remedy = "data.split.group=auto keeps each group on one side."
    elif table.folder_splits:
        remedy = LEFT
    elif moved is None:
        remedy += " would keep them together, but leaves a class without images on one side."
    else:
        remedy += f" keeps each group on one side; {counted(moved)} change sides."
    yield Finding(
        "family",
        "note" if joined else "warning",
        f"By their file names, {counted(family.images)} may belong together in {counted(family.number, 'group')}: "
        f"{family.evidence}.",
        family.number,
        [],
        remedy,
    )


def leak_findings(
    table: ImageTable, leaking: dict[str, np.ndarray], proven: dict[str, np.ndarray]
) -> Iterator[Finding]:
    for split, rows in leaking.items():
        total, certain = len(table.rows(split)), len(proven.get(split, ()))
        of_all = f"of {counted(total, f'{split} image')}"
        likely = f"{len(rows):,} {of_all} ({len(rows) / total:.1%}) have {RELATED}"
        if not certain:
            message = f"{likely}. If these show the same, the {split} accuracy is too good."
        else:
            message = f"{certain:,} {of_all} ({certain / total:.1%}) have {PROVEN}: the {split} accuracy is too good."
            message += f" In all, {likely}." if len(rows) > certain else ""
        yield Finding(
            f"leak_{split}",
            "error" if certain and (split == "test" or table.plan.selects_on_test) else "warning",
            message,
            len(rows),
            first_few([table.paths[row] for row in rows]),
            _remedy(table, split in table.folder_splits),
        )


def shown_pairs(result: Audit, number: int = 24) -> tuple[np.ndarray, list[str]]:
    """Pairs of images (N, 2, 112, 112, 3) uint8 and their titles: those across classes and splits first."""

    def order(pair: dict[str, Any]) -> tuple[bool, bool, bool, float]:
        return (
            pair["kind"] == "scene",
            len(set(pair["classes"])) == 1,
            len({*pair["splits"], ""}) < 3,
            -pair["similarity"],
        )

    chosen = sorted(result.pairs, key=order)[:number]
    images = pictures(result, [path for pair in chosen for path in pair["paths"]])
    titles = []
    for pair in chosen:
        sides = [" ".join(filter(None, side)) for side in zip(pair["splits"], pair["classes"], strict=True)]
        what = "same pixels" if pair["kind"] == "exact" else f"{KINDS[pair['kind']]} ({pair['similarity']:.2f})"
        titles.append(f"{what}: {' / '.join(dict.fromkeys(sides))}")
    return images.reshape(-1, 2, *images.shape[1:]), titles


def pictures(result: Audit, paths: Sequence[str]) -> np.ndarray:
    """(N, 112, 112, 3) uint8 of images of the data set."""
    decode = Preprocessing(112).decode
    root = Path(result.root)
    places = {**photographs(root, paths), **result.elsewhere}
    # Of one that is gone, the error names the file.
    found = [decode((places[path] if path in places else root / path).read_bytes()) for path in paths]
    return np.stack(found) if found else np.zeros((0, 112, 112, 3), np.uint8)


def labels_to_look_at(found: Audit | None, reviews: Iterable[LabelReview] = ()) -> list[Suspect]:
    """First those that a run's own predictions contradict, then what the audit named before, each image once."""
    own = [suspect for review in reviews for suspect in review]
    before = [suspect for finding in (found.findings if found else ()) for suspect in finding.suspects]
    named = {suspect.path for suspect in own}
    return own + [suspect for suspect in before if suspect.path not in named]


def brief(result: Audit) -> str:
    """The verdict in one line, for the start of a training."""
    if result.verdict == "leaks":
        splits = [split for split in ("test", "val") if split in result.leaked]
        counts = [f"{result.leaked[split]:,} of {counted(result.splits[split], f'{split} image')}" for split in splits]
        return f"Audit: leaks. {' and '.join(counts)} have {RELATED if result.proven is None else PROVEN}."
    doubtful = [finding for finding in result.findings if finding.severity != "note"]
    if doubtful:
        more = f" And {counted(len(doubtful) - 1, 'more finding')}." if len(doubtful) > 1 else ""
        return f"Audit: suspect. {doubtful[0].message}{more}"
    return "Audit: clean. No file is damaged. No image was found that looks like a copy of one in another split."


def summary(result: Audit) -> str:
    """What the command prints: the findings, and the verdict as the last line."""
    marks = {"error": "ERROR  ", "warning": "WARNING", "note": "note   "}
    splits = ", ".join(f"{number:,} {split}" for split, number in result.splits.items() if number)
    classes = counted(len(result.classes), "class", "classes")
    lines = [f"{result.root}: {counted(result.images)} in {classes} ({splits})"]
    for finding in result.shown:
        lines.append(f"\n{marks[finding.severity]} {finding.message}")
        lines += [f"          {example}" for example in finding.examples[:SHOWN]]
        if len(finding.examples) > SHOWN:
            lines.append("          ...")
        if finding.remedy:
            lines.append(f"        > {finding.remedy}")
    doubtful = sum(finding.severity != "note" for finding in result.findings)
    verdict = brief(result) if not doubtful else f"Audit: {result.verdict}. {counted(doubtful, 'finding')} to look at."
    return "\n".join([*lines, f"\n{verdict}"])


def read_audit(path: Path) -> Audit:
    """Of an `audit.json`."""
    return Audit.from_json(path.read_text("utf-8", "surrogateescape"))
