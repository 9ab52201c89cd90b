"""The photographs that words of a command line name, found while they are used: there may be millions."""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgbench.data.walk import images_below
from imgbench.errors import UserError


class Collection:
    """All images that the words name: files as they are, all images below folders, and patterns.

    Each iteration goes through the folders anew, in an order that does not depend on the disk, and keeps the names of
    one folder at a time.

    Raises:
        UserError: a word names nothing.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.unreadable: dict[str, str] = {}  # folders and files that could not be looked into, and why
        self._sources: list[Callable[[], Iterator[Path]]] = []
        self.folders: list[Path] = []
        for word in words:
            self._add(word)

    def _add(self, word: str) -> None:
        path = Path(word)
        if path.is_dir():
            self.folders.append(path)
            self._sources.append(lambda: images_below(path, self._note))
        elif path.exists():  # before patterns are tried: a name such as "1 [2].jpg" is one too
            self._sources.append(lambda: iter([path]))
        elif matches := sorted(glob.glob(word, recursive=True)):  # noqa: PTH207 Path.glob takes no absolute pattern
            self._sources.append(lambda: (Path(match) for match in matches if Path(match).is_file()))
        else:
            raise UserError(f"{word} does not exist, and matches nothing as a pattern.")

    def _note(self, error: OSError) -> None:
        self.unreadable[str(error.filename)] = error.strerror or str(error)

    def __iter__(self) -> Iterator[Path]:
        for source in self._sources:
            yield from source()

    def count(self) -> int:
        """How many there are.

        Raises:
            UserError: a folder that was named has no images, and nothing in it was unreadable.
        """
        for folder in self.folders:
            if next(images_below(folder, self._note), None) is None and not self.unreadable:
                raise UserError(f"{folder} is a folder without images.")
        number = sum(1 for _ in self)
        if not number and self.unreadable:
            raise UserError(f"There is no image that can be reached: {self.describe_unreadable()}")
        return number

    def describe_unreadable(self, most: int = 10) -> str:
        """The first of what could not be looked into, a line for each."""
        named = [f"{path}: {reason}" for path, reason in self.unreadable.items()]
        more = [f"... and {len(named) - most} more"] if len(named) > most else []
        return "\n  ".join(["", *named[:most], *more])
