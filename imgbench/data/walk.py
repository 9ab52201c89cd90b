"""Goes through folders of images: each real folder once, in an order that does not depend on the disk."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from enum import StrEnum
from pathlib import Path

from imgbench.decode import HEAD, IMAGE_ENDINGS, UNREAD, image_format, unread_kind


class LeftOut(StrEnum):
    """Why something below the root of a data set has no row in a split; the values stand in `left_out.csv`."""

    HIDDEN = "hidden file"
    OTHER = "other file"
    RAW = "raw photograph"  # these as in decode.UNREAD
    JPEG_XL = "JPEG XL image"
    VIDEO = "video"
    NUMPY = "NumPy array"
    PHOTOSHOP = "Photoshop image"
    VOLUME = "volume"
    DOCUMENT = "document"
    FOREIGN = "image of another format"
    EMPTY = "empty file"
    BROKEN = "broken link"
    VISITED = "folder visited under another name"
    BESIDE = "folder beside the splits"
    UNLABELLED = "unlabelled image"
    CONTRADICTED = "image with different labels"
    UNLISTED = "image that the table of labels does not name"
    MISSING = "missing file of the table of labels"
    DAMAGED = "damaged image"
    DECIDED = "image left out by a decision"
    RELATED_NEW = "newly labelled photograph like a val or test image"
    RELATED_VAL = "val image that looks like a training image or is of its group"
    RELATED_TEST = "test image that looks like a training image or is of its group"

    def counted(self, number: int) -> str:
        """For example `1 empty file` or `3 hidden files`."""
        plural = re.sub("(file|folder|image|link|photograph|video|array|volume|document)", r"\1s", self, count=1)
        return f"{number} {self if number == 1 else plural}"

    @property
    def remedy(self) -> str | None:
        """What makes images of them that can be read."""
        return UNREAD[self].remedy if self in UNREAD else None


Stamp = tuple[int, int, int, int]
# Whether the system numbers files and notes every change: a file of the same stamp then has the same content. Windows
# tells neither for the entries of a folder, and calls the time of creation that of change.
STAMPS_PROVE_CONTENT = os.name == "posix"


def stamp_of(status: os.stat_result) -> Stamp:
    """Size in bytes, modification time in ns, inode and change time in ns of a file.

    Size and modification time alone stay as they are where files are renamed into each other.
    """
    if not STAMPS_PROVE_CONTENT:
        return status.st_size, status.st_mtime_ns, 0, 0
    inode = status.st_ino & 0x7FFF_FFFF_FFFF_FFFF  # network file systems use all 64 bits, columns 63
    return status.st_size, status.st_mtime_ns, inode, status.st_ctime_ns


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


def has_image_ending(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122 a Path per file costs memory and time


def no_image(entry: "os.DirEntry[str]") -> LeftOut | None:
    """Why a file is left out; None of an image."""
    # A usual ending is believed here, since opening a million files takes minutes; a wrong one shows in decoding.
    if has_image_ending(entry.name):
        return None
    if kind := unread_kind(entry.name):  # before the content, since raw photographs pass for TIFF
        return LeftOut(kind)
    with open(entry.path, "rb") as file:  # noqa: PTH123
        head = file.read(HEAD)
    if image_format(head):
        return None
    return LeftOut(unread_kind(entry.name, head) or LeftOut.OTHER)


# What systems keep beside photographs: macOS in zip files, Windows, Linux, and the storages of Synology and QNAP, among
# it thumbnails and what was thrown away.
SYSTEM = {
    "__macosx", "$recycle.bin", "recycler", "system volume information", "thumbs.db", "desktop.ini", "lost+found",
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def kind_of(entry: "os.DirEntry[str]") -> str:
    """`folder` or `file`, also behind a link, else `broken link`."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "broken link"
    except OSError:
        if not entry.is_symlink():
            raise
        return "broken link"  # it leads to itself


def visible_folders(folder: Path) -> list[str]:
    """The names of the visible sub-folders of `folder`, numbers in numeric order."""
    return natural_sort(entry.name for entry in folder.iterdir() if not is_hidden(entry.name) and entry.is_dir())


def images_in(folder: Path) -> Iterator[str]:
    """The paths of the images that lie in `folder` itself, in the order of the disk."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_hidden(entry.name) and kind_of(entry) == "file" and entry.stat().st_size and not no_image(entry):
                yield entry.path


class Walk:
    """Finds the images below folders of `root`, and keeps in `left_out` what it passes over: reason -> paths.

    Symbolic links are followed, but no folder is visited twice: one back to a folder above would never end, and one to
    a folder that has a place of its own would put the same images into two classes.

    Args:
        onerror: as of `os.walk`, called with the error of each folder or file that cannot be read, which is then passed
            over; None raises it.
    """

    def __init__(self, root: Path, onerror: Callable[[OSError], None] | None = None) -> None:
        self.root = str(root)
        self._onerror = onerror
        self.left_out: dict[LeftOut, list[str]] = {}
        self._prefix = len(os.path.join(self.root, ""))  # noqa: PTH118
        self._places: set[str] = set()  # real paths of the folders that are visited in any case
        self._above: set[str] = set()  # real paths of `root`, and of the folders above it and above the places
        self._visited: set[str] = set()
        self._add_above(os.path.realpath(root))

    def _add_above(self, real: str) -> None:
        while real not in self._above:
            self._above.add(real)
            real = os.path.dirname(real)  # noqa: PTH120

    def relative(self, path: str) -> str:
        """Below `root`, with forward slashes."""
        return path[self._prefix :].replace(os.sep, "/")

    def leave_out(self, path: str, reason: LeftOut) -> None:
        self.left_out.setdefault(reason, []).append(self.relative(path))

    def without_second_names(self, folder: Path, names: list[str]) -> list[str]:
        """Those of the sub-folders `names` that are not links to one of the others or to a folder above."""
        self._add_above(os.path.realpath(folder))
        kept: dict[str, str] = {}
        for name in sorted(names, key=lambda name: (folder / name).is_symlink()):  # real folders keep their names
            real = os.path.realpath(folder / name)
            if real in kept or real in self._above:
                self.leave_out(str(folder / name), LeftOut.VISITED)
            else:
                kept[real] = name
        own_names = set(kept.values())
        return [name for name in names if name in own_names]

    def add_places(self, folders: Iterable[Path]) -> None:
        """Announces folders that will be visited, so that links to them are not followed before."""
        for folder in folders:
            real = os.path.realpath(folder)
            self._places.add(real)
            self._add_above(os.path.dirname(real))  # noqa: PTH120

    def images(self, folder: str) -> Iterator[tuple[str, Stamp]]:
        """Yields path and stamp of every image below a folder, which should be one of the places."""
        real = os.path.realpath(folder)
        if real in self._visited:
            self.leave_out(folder, LeftOut.VISITED)
        else:
            yield from self._images(folder, real)

    def _images(self, folder: str, real: str) -> Iterator[tuple[str, Stamp]]:
        self._visited.add(real)
        subfolders: dict[str, bool] = {}  # name -> whether it is a link
        images: dict[str, Stamp] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        self._look_at(entry, subfolders, images)
                    except OSError as error:
                        self._pass_over(error)
        except OSError as error:
            self._pass_over(error)
        for name in natural_sort(images):
            yield os.path.join(folder, name), images.pop(name)  # noqa: PTH118
        for name in natural_sort(subfolders):
            path = os.path.join(folder, name)  # noqa: PTH118
            inside = os.path.realpath(path) if subfolders[name] else os.path.join(real, name)  # noqa: PTH118
            if inside in self._visited or self._is_visited_elsewhere(inside, subfolders[name]):
                self.leave_out(path, LeftOut.VISITED)
            else:
                yield from self._images(path, inside)

    def _look_at(self, entry: "os.DirEntry[str]", subfolders: dict[str, bool], images: dict[str, Stamp]) -> None:
        if is_hidden(entry.name):
            self.leave_out(entry.path, LeftOut.HIDDEN)
        elif (kind := kind_of(entry)) == "folder":
            subfolders[entry.name] = entry.is_symlink()
        elif kind == "broken link":
            self.leave_out(entry.path, LeftOut.BROKEN)
        else:
            stat = entry.stat()
            if stat.st_size == 0:
                self.leave_out(entry.path, LeftOut.EMPTY)
            elif reason := no_image(entry):
                self.leave_out(entry.path, reason)
            else:
                images[entry.name] = stamp_of(stat)

    def _pass_over(self, error: OSError) -> None:
        if self._onerror is None:
            raise error
        self._onerror(error)

    def _is_visited_elsewhere(self, real: str, is_link: bool) -> bool:
        if real in self._places or real in self._above:
            return True
        parents = map(str, Path(real).parents) if is_link else ()
        return any(parent in self._places for parent in parents)


def describe_left_out(left_out: Mapping[LeftOut, Sized]) -> str:
    """For example `1 empty file, 3 hidden files`; `nothing` if nothing was."""
    return ", ".join(reason.counted(len(paths)) for reason, paths in sorted(left_out.items())) or "nothing"


def remedies(left_out: Mapping[LeftOut, Sized]) -> Iterator[str]:
    """A sentence for each kind of file that is left out and could be made into images."""
    for reason, paths in sorted(left_out.items()):
        if remedy := reason.remedy:
            yield f"{reason.counted(len(paths))} left out, which imgbench does not read. {remedy}."


def images_below(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """All images of a folder and its sub-folders, whatever their class; `onerror` is that of `Walk`."""
    return (Path(path) for path, _ in Walk(folder, onerror).images(str(folder)))
