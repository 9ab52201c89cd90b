"""What to say of a folder that cannot be used as it is: what was expected, what is there, and which folder would do."""

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgbench.data.walk import has_image_ending, is_hidden, natural_sort, visible_folders

if TYPE_CHECKING:
    from imgbench.data.table import ImageTable

LAYOUTS = """Expected one of
  {root}/<class>/*.jpg
  {root}/{{train,val,test}}/<class>/*.jpg      (val and test may be missing; Training, valid, test_images too)
  {root}/**/*.jpg and a table of labels beside them: data.labels=labels.csv"""
SPLIT_WORDS = {
    "train": "train", "training": "train", "trainset": "train", "trainingset": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "valset": "val", "validset": "val", "validationset": "val",
    "dev": "val", "devset": "val", "publictest": "val",
    "test": "test", "testing": "test", "testset": "test", "testingset": "test", "tst": "test", "privatetest": "test",
    "训练": "train", "验证": "val", "测试": "test",
}  # fmt: skip
# What stands beside such a word in the name of a folder or in a table, and says nothing.
FILLING = {"images", "image", "imgs", "img", "photos", "pictures", "pics", "set", "split", "data", "dataset", "folder",
           "seg", "集", "图片", "图像", "数据"}  # fmt: skip
IN_A_TABLE = "If a table says the classes, put it beside them, or name it: data.labels=labels.csv"
LEVELS, BREADTH = 3, 50  # how far below a folder is looked for one that would do, and at how many in each level


BACKSLASHES = (
    "The file names have a backslash in them, as an archive of Windows leaves them that was unpacked without its "
    "folders. Unpack it anew with unzip or 7z x, which make folders of them."
)


def split_of(name: str) -> str | None:
    """The split that a folder, or an entry of a table, is called after; None of another name, or one with numbers."""
    words = re.findall(r"[a-z]+|集|图片|图像|数据|训练|验证|测试|.", re.sub(r"[\s_.\-]+", "-", name.strip().casefold()))
    telling = [word for word in words if word not in FILLING and word != "-"]
    return SPLIT_WORDS.get(telling[0]) if len(telling) == 1 else None


def inner_split(folder: Path) -> Path:
    """The folder below one of a split that is all that there is in it and means the same, as in `train/train`."""
    below = _subfolders(folder)
    nested = len(below) == 1 and split_of(below[0].name) == split_of(folder.name) and not _holds_images(folder)
    return inner_split(below[0]) if nested else folder


def setting(option: str, path: Path) -> str:
    """How a user writes it: `data.root=photos`, `--data photos`, or the path alone where it needs no option."""
    if option.startswith("-") or not option:
        return f"{option} {shlex.quote(str(path))}".lstrip()
    return shlex.quote(f"{option}={path}")


def describe_tree(root: Path, limit: int = 12) -> str:
    """What a user would want to see of a folder that has the wrong shape."""
    lines = []
    for entry in [root / name for name in natural_sort(os.listdir(root))[: limit + 1]]:  # noqa: PTH208
        inside = f"  ({sum(1 for _ in entry.iterdir())} entries)" if entry.is_dir() else ""
        lines.append(f"  {entry.name}{'/' if entry.is_dir() else ''}{inside}")
    if len(lines) > limit:
        lines[limit] = "  ..."
    return "\n".join(lines) or "  (nothing)"


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in visible_folders(folder)]
    except PermissionError:
        return []


def _holds_images(folder: Path) -> bool:
    try:
        return any(has_image_ending(name) and not is_hidden(name) for name in os.listdir(folder))  # noqa: PTH208
    except PermissionError:
        return False


def would_do(folder: Path) -> bool:
    """Whether a folder has at least two folders of images, or a `train` that has them."""
    below = _subfolders(folder)
    if train := next((path for path in below if split_of(path.name) == "train"), None):
        return would_do(train)
    return sum(map(_holds_images, below[:BREADTH])) >= 2


def folder_that_would_do(root: Path) -> Path | None:
    """The nearest folder below `root` that could be used instead: unpacking often leaves `photos/photos/<class>`."""
    level = [root]
    for _ in range(LEVELS):
        level = [path for folder in level for path in _subfolders(folder) if not path.is_symlink()][:BREADTH]
        if found := next((folder for folder in level if would_do(folder)), None):
            return found
    return None


def shards_in(folder: Path) -> Path | None:
    """`photos-{000000..000999}.tar`, if tars of such names lie in a folder."""
    names = natural_sort(path.name for path in folder.glob("*-[0-9]*.tar"))
    if not names:
        return None
    start, _, number = names[-1].removesuffix(".tar").rpartition("-")
    return folder / (f"{start}-{{{'0' * len(number)}..{number}}}.tar" if len(names) > 1 else names[0])


def advice(root: Path, option: str, class_names: list[str]) -> str:
    """What probably mends a root with too few classes, in a sentence or two."""
    if shards := shards_in(root):
        return f"The folder holds shards. Name them: {setting(option, shards)}"
    if below := folder_that_would_do(root):
        return f"The class folders lie in {below}. Name that: {setting(option, below)}"
    above = Path(os.path.normpath(root / ".."))
    loose = _holds_images(root)
    if any("\\" in name for name in os.listdir(root)):  # noqa: PTH208
        return BACKSLASHES
    train = next((folder for folder in _subfolders(root) if split_of(folder.name) == "train"), None)
    if train and _holds_images(train) and not _subfolders(train):
        return (
            f"{train} was taken for the training images, of which each class has a folder. If it is a class itself, "
            f"give it another name, for example trains; else sort its images into folders."
        )
    if loose and not class_names and would_do(above):
        return f"{root} looks like the folder of one class. Name the one above: {setting(option, above)}"
    if len(class_names) == 1:
        return (
            f"A classifier tells classes apart, and {class_names[0]!r} is the only one: put images of something else "
            f"into a second folder beside it, for example other. {IN_A_TABLE}"
        )
    if loose:
        return f"The images lie in {root} itself: sort them into a folder for each class. {IN_A_TABLE}"
    return (
        f"Point {option} at the folder that holds the class folders, for example {setting(option, Path('/my/photos'))}"
    )


def layout_notes(table: "ImageTable", depths: Mapping[int, int], min_classes: int) -> Iterator[str]:
    """What was taken for what where a folder could be read in another way, in a sentence or two each.

    `depths` says of each split how many folders lie above the files of a class.
    """
    below: dict[str, Counter[str]] = {}  # class -> its sub-folders, and how many images lie in each
    for path, label, split in zip(table.paths, table.labels.tolist(), table.given.tolist(), strict=True):
        depth = depths[split]
        if path.count("/") > depth:
            below.setdefault(table.class_names[label], Counter())[path.split("/")[depth]] += 1
    split_names = sorted({sub for subs in below.values() for sub in subs if split_of(sub)})
    shared = set.intersection(*map(set, below.values())) if len(below) == len(table.class_names) else set()
    if split_names:
        yield (
            f"Class folders hold folders called {listed(split_names)}: their images are put together, and divided "
            f"anew. To keep that division, turn it round: {table.root}/{split_names[0]}/{next(iter(below))}."
        )
    elif len(below) > 1 and len(shared) > 1 and min_classes > 1:
        yield (
            f"Every class folder holds the folders {listed(sorted(shared))}: if these are the classes, and "
            f"{listed(table.class_names)} are not, put the images of one name together."
        )
    elif below:
        number, name = sum(map(Counter.total, below.values())), next(iter(below))
        yield (
            f"{number:,} images lie in sub-folders of their class, such as {name}/{next(iter(below[name]))}: they "
            f"count as {name!r}."
        )
    if number := sum("\\" in path for path in table.paths):
        yield f"{number:,} of {len(table.paths):,} images: {BACKSLASHES}"
    forms: dict[str, list[str]] = {}
    for name in table.class_names:
        forms.setdefault(one_form(name), []).append(name)
    for name, same in forms.items():
        if len(same) > 1:
            yield (
                f"{len(same)} class folders are all called {name!r}, and differ only in how accents are encoded "
                "(Unicode NFC and NFD): they are taken for different classes. If they are one, move the images into "
                "one folder."
            )


def one_form(name: str) -> str:
    """The same for names that look alike, in whichever way Unicode encodes their accents."""
    return unicodedata.normalize("NFC", name)


def listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
