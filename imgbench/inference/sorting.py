"""Puts photographs into a folder for each class, as links, as copies or for good."""

import errno
import filecmp
import os
import re
import shutil
from pathlib import Path
from typing import Literal

from imgbench.errors import UserError
from imgbench.files import keep_names

How = Literal["link", "copy", "move"]
UNSURE = "unsure"
OUTDATED = "outdated"  # for copies of photographs that have changed since: nothing that may be the user's is deleted
UNFINISHED = ".imgbench-unfinished"  # a copy on its way; the next copy into the folder writes over it
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # which Windows keeps for itself


def folder_names(class_names: list[str]) -> dict[str, str]:
    """A folder's name for each class, and for `unsure`, that every file system takes and keeps apart."""
    names: dict[str, str] = {}
    taken = {UNSURE, OUTDATED}
    for class_name in class_names:
        plain = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", class_name).strip(" .")
        plain = plain.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore") or "_"
        plain = f"_{plain}" if RESERVED.fullmatch(plain) or plain.startswith(".") else plain
        name, number = plain, 2
        while name.casefold() in taken:  # some file systems take `Cat` and `cat` for the same
            name, number = f"{plain}_{number}", number + 1
        taken.add(name.casefold())
        names[class_name] = name
    return names


class Sorter:
    """Chooses a place for each photograph, and puts it there.

    `place` may be repeated with the same choice, whenever it was interrupted before.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, class_names: list[str], how: How) -> None:
        self.folder, self.how = folder, how
        self.names = folder_names(class_names)
        self.outdated = 0  # copies that were moved to the folder for them
        self._numbers: dict[str, int] = {}  # how often a name was taken already
        self._chosen: set[str] = set()  # places that are given away, but still empty

    def choose(self, photograph: str, class_name: str, unsure: bool) -> str:
        """A free place, relative to the folder."""
        return self._free(f"{UNSURE if unsure else self.names[class_name]}/{Path(photograph).name}")

    def choose_anew(self, photograph: str, earlier: str, class_name: str | None, unsure: bool) -> str:
        """The place of a photograph that was put at `earlier` and may have changed since; none without a class.

        What was put there is taken out of the folder of the class, unless it is still right: a link is removed, and a
        copy moved to the folder `outdated`.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = None if class_name is None else UNSURE if unsure else self.names[class_name]
        source, target = Path(photograph), self.folder / earlier
        if earlier and os.path.lexists(target):
            linked = target.is_symlink() and target.resolve() == source.resolve()
            current = linked if self.how == "link" else _is_same(source, target)
            if current and earlier.partition("/")[0] == folder:
                return earlier
            try:
                if linked:
                    target.unlink()
                elif self.how == "copy" and not target.is_symlink():
                    aside = self.folder / self._free(f"{OUTDATED}/{earlier}")
                    aside.parent.mkdir(parents=True, exist_ok=True)
                    target.rename(aside)
                    self.outdated += 1
            except OSError as error:
                raise UserError(
                    f"--sort-into {self.folder}: {target} is outdated and cannot be removed: {error.strerror}."
                ) from error
        return "" if class_name is None else self.choose(photograph, class_name, unsure)

    def is_replaced(self, photograph: str, place: str) -> bool:
        """Whether another photograph lies where one was that has been moved to `place`."""
        source, target = Path(photograph), self.folder / place
        return os.path.lexists(source) and os.path.lexists(target) and not _is_moved(source, target)

    def _free(self, place: str) -> str:
        stem, ending = os.path.splitext(place)  # noqa: PTH122 a Path would lose what is no UTF-8
        first = place
        while place in self._chosen or os.path.lexists(self.folder / place):
            number = self._numbers.get(first, 1) + 1
            self._numbers[first] = number
            place = f"{stem}_{number}{ending}"
        self._chosen.add(place)
        return place

    def place(self, photograph: str, place: str) -> str | None:
        """Puts the photograph where it was chosen to be; returns why it was left where it is, if so.

        Raises:
            UserError: there is no room, no right to write, or links are not possible there.
        """
        source, target = Path(photograph), self.folder / place
        self._chosen.discard(place)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(source):
                return None if os.path.lexists(target) else "it is no longer there"
            return self._put(source, target)
        except (FileNotFoundError, IsADirectoryError) as error:
            return error.strerror
        except OSError as error:
            hint = "Make room, then repeat the same command: it goes on from there."
            if self.how == "link" and target.parent.is_dir():
                hint = "Where links cannot be made, as on USB sticks or without Windows' developer mode: --copy"
            raise UserError(
                f"--sort-into {self.folder}: {photograph} could not be put there: {error.strerror}. What was sorted "
                f"before stays, and this photograph is where it was.\n{hint}"
            ) from error

    def _put(self, source: Path, target: Path) -> str | None:
        there = os.path.lexists(target)
        if self.how == "link":
            if not there:
                target.symlink_to(source.resolve())
        elif self.how == "copy":
            if not there:
                _copy(source, target)
                keep_names(target.parent)
        elif not there:
            _move(source, target)
        elif not _is_moved(source, target):
            return f"{target} is another picture"
        else:
            keep_names(target.parent)
            source.unlink()  # the last step of a move that was interrupted before it
        return None


def _is_same(source: Path, copy: Path) -> bool:
    try:
        return filecmp.cmp(source, copy, shallow=False)
    except OSError:
        return False


def _is_moved(source: Path, target: Path) -> bool:
    """Whether both are the same photograph in two places, so that one may go."""
    if source.name == target.name and source.parent.samefile(target.parent):
        return False
    if source.is_symlink() or target.is_symlink():
        return source.is_symlink() and target.is_symlink() and source.resolve() == target.resolve()
    return filecmp.cmp(source, target, shallow=False)


def _move(source: Path, target: Path) -> None:
    """There is a whole file at the one place or the other at any moment, and none is ever written over."""
    if source.is_symlink():
        target.symlink_to(source.resolve())  # a relative link would lead elsewhere from there
    else:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one that has no links
            _copy(source, target)
    keep_names(target.parent)  # or the photograph may be in neither place when the power goes
    source.unlink()


def _copy(source: Path, target: Path) -> None:
    """The target appears when it is whole."""
    unfinished = target.parent / UNFINISHED
    try:
        shutil.copy2(source, unfinished)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        unfinished.replace(target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
