"""The photographs that words of a command line name, found while they are used: there may be millions."""

import glob
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from imgbench.data.shards import Photograph, ShardImage, is_shards, shard_paths
from imgbench.data.walk import Walk, describe_left_out, has_image_ending, images_below, remedies
from imgbench.errors import UserError


class Collection:
    """All images that the words name: files as they are, all images below folders and in shards, and patterns.

    Each iteration goes through the folders anew, in an order that does not depend on the disk, and keeps the names of
    one folder at a time.

    Args:
        may_be_gone: a word may name nothing, and a folder be empty: what was there may have been moved away.

    Raises:
        UserError: a word names nothing, or a shard is missing.
    """

    def __init__(self, words: Sequence[str], may_be_gone: bool = False) -> None:
        self.may_be_gone = may_be_gone
        self.plain = True  # whether all names are ASCII, as far as they were counted
        self.unreadable: dict[str, str] = {}  # folders and files that could not be looked into, and why
        self._sources: list[Callable[[], Iterator[Photograph]]] = []
        self.shards: list[Path] = []
        self.folders: list[Path] = []
        for word in words:
            self._add(word)

    def _add(self, word: str) -> None:
        path = Path(word)
        if path.is_dir():
            self.folders.append(path)
            self._sources.append(lambda: images_below(path, self._note))
        elif path.exists():  # before patterns are tried: a name such as "1 [2].jpg" is one too
            self._add_files([path])
        elif matches := sorted(glob.glob(word, recursive=True)):  # noqa: PTH207 Path.glob takes no absolute pattern
            self._add_files([Path(match) for match in matches if Path(match).is_file()])
        elif is_shards(word):
            self._add_files(shard_paths(word, option=""))
        elif not self.may_be_gone:
            raise UserError(f"{word} does not exist, and matches nothing as a pattern.")

    def _add_files(self, paths: list[Path]) -> None:
        self.shards += filter(is_shards, paths)
        self._sources.append(
            lambda: chain.from_iterable(_images_in(path) if is_shards(path) else [path] for path in paths)
        )

    def _note(self, error: OSError) -> None:
        self.unreadable[str(error.filename)] = error.strerror or str(error)

    def __iter__(self) -> Iterator[Photograph]:
        for source in self._sources:
            yield from source()

    def count(self) -> int:
        """How many there are.

        Raises:
            UserError: a folder that was named has no images, and nothing in it was unreadable; or a shard has none,
                or is cut short.
        """
        for folder in () if self.may_be_gone else self.folders:
            if next(images_below(folder, self._note), None) is None and not self.unreadable:
                walk = Walk(folder, self._note)
                deque(walk.images(str(folder)), maxlen=0)
                mends = "".join(f"\n{sentence}" for sentence in remedies(walk.left_out))
                raise UserError(
                    f"{folder} is a folder without images; left out: {describe_left_out(walk.left_out)}.{mends}"
                )
        for shard in self.shards:
            if next(_images_in(shard), None) is None:
                raise UserError(f"{shard} is a tar without images.")
        number = 0
        for photograph in self:
            number += 1
            self.plain = self.plain and str(photograph).isascii()
        if not number and self.unreadable:
            raise UserError(f"There is no image that can be reached: {self.describe_unreadable()}")
        return number

    def describe_unreadable(self, most: int = 10) -> str:
        """The first of what could not be looked into, a line for each."""
        named = [f"{path}: {reason}" for path, reason in self.unreadable.items()]
        more = [f"... and {len(named) - most} more"] if len(named) > most else []
        return "\n  ".join(["", *named[:most], *more])


def _images_in(shard: Path) -> Iterator[ShardImage]:
    from imgbench.data.shard_index import members  # takes a fifth of a second, for tars alone

    for name, offset, size in members(shard):
        if has_image_ending(name):
            yield ShardImage(shard, name, offset, size)
