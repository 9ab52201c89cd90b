"""Which column of a table names the files, which the class, the group, the split and the date.

What a column holds decides; its name, in English or Chinese, is a hint where several hold what would do.
"""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgbench.data.layout import listed, split_of
from imgbench.data.spreadsheet import Spreadsheet
from imgbench.data.walk import has_image_ending
from imgbench.errors import UserError

AUTO = "auto"
ROLES = ("file", "class", "group", "split", "date")
Columns = dict[str, list[str]]  # name -> its cells, one of each row
Chosen = Mapping[str, object]  # role -> the name of a column, AUTO, or None where there is none; of classes also a list

BLANK = {"", "nan", "na", "n/a", "null", "#n/a"}
# Names of columns, as `_plain` writes them; of those in Chinese a part of the name suffices.
CLASS = {"class", "label", "category", "target", "diagnosis", "dx", "disease", "finding", "species", "breed", "y"}
CLASS_ZH = ("类别", "标签", "分类", "诊断", "病名", "病害", "品种", "物种", "类型")
GROUP = {"patient", "subject", "person", "participant", "individual", "plant", "animal", "case", "lesion", "specimen",
         "group", "slide", "study", "series", "session", "scene", "sequence", "video", "object"}  # fmt: skip
GROUP_ZH = ("患者", "病人", "病例", "受试者", "个体", "植株", "样本", "分组", "姓名")
FILE = {"file", "filename", "image", "img", "photo", "path", "picture", "filepath", "imagepath"}
FILE_ZH = ("文件", "图片", "图像", "照片")
NUMBERED = {"id", "no", "nr", "number", "index", "idx", "uid", "name", "code"}  # and so no class, but for a class's
NUMBERED_ZH = ("编号", "序号", "号码")
CIRCUMSTANCES = {"age", "sex", "gender", "site", "device", "camera", "view", "source", "origin", "hospital", "location",
                 "country", "city", "width", "height", "year", "month", "time", "license", "note", "notes", "quality",
                 "modality", "side", "eye", "weather", "light", "operator", "annotator", "folder"}  # fmt: skip
CIRCUMSTANCES_ZH = ("年龄", "性别", "地点", "医院", "设备", "相机", "备注", "年份", "来源", "侧")
DATE = re.compile(
    r"((19|20)\d\d([-/.])\d{1,2}\3\d{1,2}|(19|20)\d\d年\d{1,2}月\d{1,2}日|\d{1,2}([-/.])\d{1,2}\5((19|20)\d\d|\d\d)|"
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01]))([ T]?\d{1,2}[:：时]\d{2}.*)?"  # noqa: RUF001
)
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")
BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
MOST_CODES = 20  # numbers of more values are measured or counted, and no classes, unless the name says so
ENOUGH = 0.5  # share of the images, or of the names where these are fewer, that a column of files has to match


@dataclass(frozen=True)
class Labels:
    """A table of labels, and which of its columns were taken for what."""

    path: Path
    columns: dict[str, str | list[str] | None]  # role -> column; of classes in a column each, all of these

    @property
    def name(self) -> str:
        return self.path.name


def is_blank(cell: str) -> bool:
    return cell.casefold() in BLANK


def comparable(text: str) -> str:
    """The same for names of files that differ in letter case, in slashes, or in how accents are encoded."""
    return unicodedata.normalize("NFC", text.strip().replace("\\", "/")).casefold()


@dataclass
class FileNames:
    """Finds the image that a text means: with or without folders and ending, in any letter case.

    Args:
        root: where the images lie, as folders from the top.
        paths: of the images, relative to it.
    """

    root: str
    paths: Sequence[str]
    by_name: dict[str, list[int]] = field(default_factory=dict)
    by_stem: dict[str, list[int]] = field(default_factory=dict)
    by_number: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row, path in enumerate(self.paths):
            name = comparable(path).rpartition("/")[2]
            stem = _stem(name)
            self.by_name.setdefault(name, []).append(row)
            self.by_stem.setdefault(stem, []).append(row)
            if digits := re.search(r"(\d+)\D*$", stem):
                self.by_number.setdefault(digits[1].lstrip("0"), []).append(row)

    def find(self, text: str, by_number: bool = False) -> list[int]:
        """The images that a text may mean; several where it does not say in which folder."""
        name = comparable(text).rstrip("/").rpartition("/")[2]
        if by_number:
            return self.by_number.get(name.lstrip("0"), []) if name.isdecimal() else []
        rows = self.by_name.get(name) or self.by_stem.get(name)
        rows = rows or (self.by_stem.get(_stem(name)) if has_image_ending(name) else None) or []
        if len(rows) < 2:
            return rows
        alike = [self.agreement(text, row) for row in rows]
        return [row for row, number in zip(rows, alike, strict=True) if number == max(alike)]

    def agreement(self, text: str, row: int) -> int:
        """How many folders above the file a text and the path of an image have in common."""
        own = f"{comparable(self.root)}/{comparable(self.paths[row])}".split("/")[-2::-1]
        given = comparable(text).rstrip("/").split("/")[-2::-1]
        pairs = zip(own, given, strict=False)
        return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(own), len(given)))


def _stem(name: str) -> str:
    stem, dot, _ = name.rpartition(".")
    return stem if dot and has_image_ending(name) else name


def _hint(name: str, words: Container[str], parts: Iterable[str]) -> int:
    """2 where the name of a column is one of the words, 1 where it has one among others, else 0."""
    if any(part in name for part in parts):
        return 2
    tokens = [token.casefold() for token in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    known = [token in words or token.removesuffix("s") in words for token in tokens]
    telling = [is_known for token, is_known in zip(tokens, known, strict=True) if is_known or token not in NUMBERED]
    return 0 if not any(known) else 2 if all(telling) else 1


def matches(columns: Columns, files: FileNames, by_number: bool) -> list[str]:
    """The columns that name images, those that name most of them first.

    A column of few numbers, such as ages, may be found in names too: the values of one that names files are nearly as
    many as its rows, or as the files.
    """
    found: list[tuple[int, int, int, str]] = []
    for name, cells in columns.items():
        texts = {cell for cell in cells if cell}
        meant = (files.find(text, by_number) for text in texts)
        images = len({rows[0] for rows in meant if rows and not (by_number and len(rows) > 1)})
        all_images = images >= ENOUGH * len(files.paths)
        each_row = len(texts) > 0.9 * len(cells)
        fits = (all_images and each_row) if by_number else (all_images or each_row)
        if fits and images and images >= ENOUGH * min(len(files.paths), len(texts)):
            endings = sum(map(has_image_ending, texts)) > len(texts) / 2
            found.append((images, endings, _hint(name, FILE, FILE_ZH), name))
    return [name for *_, name in sorted(found, key=lambda one: one[:3], reverse=True)]


def file_column(table: Spreadsheet, files: FileNames) -> tuple[str, bool] | None:
    """The column that names most of the images, and whether by their number alone; None where none does.

    Raises:
        UserError: two name as many images, and not the same ones.
    """
    for by_number in (False, True):
        names = matches(table.columns, files, by_number)
        if not names:
            continue
        first, *others = names
        for other in others:
            pairs = {(a, b) for a, b in zip(table.columns[first], table.columns[other], strict=True) if a and b}
            images = [[files.find(text, by_number) for text in texts] for texts in zip(*pairs, strict=True)]
            equal = [_strength(table, files, name, by_number) for name in (first, other)]
            if equal[0] == equal[1] and images[0] != images[1]:
                raise several(table, "file", [first, other], "name the files")
        return first, by_number
    return None


def _strength(table: Spreadsheet, files: FileNames, name: str, by_number: bool) -> tuple[int, bool, int]:
    texts = {cell for cell in table.columns[name] if cell}
    images = {tuple(files.find(text, by_number)) for text in texts} - {()}
    return len(images), any(map(has_image_ending, texts)), _hint(name, FILE, FILE_ZH)


def several(table: Spreadsheet, role: str, names: Sequence[str], what: str) -> UserError:
    options = " or ".join(shlex.quote(f"data.columns.{role}={name}") for name in names[:2])
    return UserError(
        f"{table.path}: the columns {listed([*map(repr, names)], 8)} could all {what}. Name the right one: {options}"
    )


def find_columns(table: Spreadsheet, file: str, chosen: Chosen) -> dict[str, str | list[str] | None]:
    """Role -> column, where `file` is known; what is chosen is taken as it is.

    Raises:
        UserError: no column could be the class, or several could.
    """
    columns = {name: cells for name, cells in table.columns.items() if name != file}
    named = {role: chosen.get(role, AUTO) for role in ROLES[1:]}
    taken = {
        name for value in named.values() if value != AUTO for name in (value if isinstance(value, list) else [value])
    }

    def open_ones() -> Columns:
        return {name: cells for name, cells in columns.items() if name not in taken}

    found: dict[str, Any] = dict(named)
    for role, find in (("split", _split_column), ("date", _date_column)):
        if named[role] == AUTO:
            found[role] = find(open_ones())
            taken.add(found[role])
    if named["class"] == AUTO:
        found["class"] = _class_columns(table, open_ones())
    taken |= {*found["class"]} if isinstance(found["class"], list) else {found["class"]}
    if named["group"] == AUTO:
        found["group"] = _group_column(open_ones())
    return {"file": file, **found}


def _filled(cells: Iterable[str]) -> Counter[str]:
    return Counter(cell for cell in cells if not is_blank(cell))


def splits_of(cells: Iterable[str], name: str = "") -> dict[str, str] | None:
    """What the entries of a column mean as splits; None unless all of them mean one."""
    values = _filled(cells)
    if {value.casefold() for value in values} <= BINARY.keys() and re.search("train|训练", name, re.IGNORECASE):
        return {value: "train" if BINARY[value.casefold()] else "test" for value in values}
    meant = {value: split for value in values if (split := split_of(value))}
    return meant if meant.keys() == values.keys() else None


def _split_column(columns: Columns) -> str | None:
    for name, cells in columns.items():
        values = set((splits_of(cells, name) or {}).values())
        if "train" in values and len(values) > 1:
            return name
    return None


def _is_date(cells: Iterable[str]) -> bool:
    values = _filled(cells)
    return sum(number for value, number in values.items() if DATE.fullmatch(value)) > 0.9 * max(1, values.total())


def _date_column(columns: Columns) -> str | None:
    return next((name for name, cells in columns.items() if _is_date(cells)), None)


def _may_be_class(name: str, cells: Sequence[str]) -> bool:
    values, hint = _filled(cells), _hint(name, CLASS, CLASS_ZH)
    number, rows = len(values), values.total()
    if number < 2 or number == rows or (number > rows / 2 and hint < 2) or _is_date(cells):
        return False
    if all(NUMBER.fullmatch(value) for value in values):
        few = number <= MOST_CODES and 5 * number <= rows
        return few or (hint > 0 and all(value.isdecimal() for value in values))
    return hint > 0 or sum(map(len, values)) < 60 * number  # longer ones are remarks


def _class_columns(table: Spreadsheet, columns: Columns) -> str | list[str]:
    able = [name for name, cells in columns.items() if _may_be_class(name, cells)]
    hints = {name: _hint(name, CLASS, CLASS_ZH) for name in able}
    if named := _without_synonyms(columns, [name for name in able if hints[name] == 2]):
        return _one(table, named)
    if one_hot := _one_hot(columns):
        return one_hot
    if named := _without_synonyms(columns, [name for name in able if hints[name]]):
        return _one(table, named)
    numbered = [name for name in able if _hint(name, NUMBERED, NUMBERED_ZH) or _is_group(name, columns[name])]
    rest = _without_synonyms(columns, [name for name in able if name not in numbered])
    telling = [name for name in rest if not _hint(name, CIRCUMSTANCES, CIRCUMSTANCES_ZH)]
    if rest:
        return _one(table, telling if len(telling) == 1 else rest)
    raise UserError(
        f"{table.path}: no column could be the class of the images. Its columns are {listed([*table.columns], 12)}. "
        "Name it: data.columns.class=COLUMN"
    )


def _one(table: Spreadsheet, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise several(table, "class", names, "be the class")
    return names[0]


def _without_synonyms(columns: Columns, names: Sequence[str]) -> list[str]:
    """Of columns that say the same in other words, as numbers and names of classes do, the one with words."""
    kept: list[str] = []
    for name in sorted(names, key=lambda name: all(map(NUMBER.fullmatch, _filled(columns[name])))):
        if not any(_same_meaning(columns[name], columns[other]) for other in kept):
            kept.append(name)
    return sorted(kept, key=[*columns].index)


def _same_meaning(first: Sequence[str], second: Sequence[str]) -> bool:
    pairs = {(a, b) for a, b in zip(first, second, strict=True) if not (is_blank(a) and is_blank(b))}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _one_hot(columns: Columns) -> list[str] | None:
    """Neighbouring columns of 0 and 1 of which each row has one 1, or none: a column for each class."""
    run: list[str] = []
    for name, cells in [*columns.items(), ("", [""])]:
        values = _filled(cells)
        if values and {value.casefold() for value in values} <= BINARY.keys():
            run.append(name)
            continue
        if len(run) > 1 and all(len(ones) < 2 for ones in one_hot_names(columns, run)):
            used = [name for name in run if any(BINARY.get(cell.casefold()) for cell in columns[name])]
            if len(used) > 1 and sum(1 for ones in one_hot_names(columns, used) if ones) > 0.9 * len(columns[used[0]]):
                return used
        run = []
    return None


def one_hot_names(columns: Columns, names: Sequence[str]) -> Iterator[list[str]]:
    """For each row the names of the columns that have a 1."""
    for cells in zip(*(columns[name] for name in names), strict=True):
        yield [name for name, cell in zip(names, cells, strict=True) if BINARY.get(cell.casefold())]


def _is_group(name: str, cells: Sequence[str]) -> bool:
    values = _filled(cells)
    many = len(values) >= min(10, values.total() / 4)
    return bool(_hint(name, GROUP, GROUP_ZH)) and many and 2 <= len(values) < values.total()


def _group_column(columns: Columns) -> str | None:
    """Of several, such as patients and their examinations, the one with the fewest groups."""
    able = [name for name, cells in columns.items() if _is_group(name, cells) and not _is_date(cells)]
    return min(able, key=lambda name: len(_filled(columns[name])), default=None)
