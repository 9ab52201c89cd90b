"""What a disk may hold after the power went, of what a command did: only what it had brought to disk is sure.

Of a file that is what its last `fsync` found, and of a folder the names at its own last `fsync`. Everything later may
or may not have happened, in any order, as POSIX has it; ext4, XFS and Btrfs promise a little more. Only that a new
folder is there is taken for granted.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Which names of those that were not brought to disk are there, and what is found beyond the content that was.
OUTCOMES = (("none", "nothing"), ("all", "nothing"), ("all", "zeros"), ("some", "a part"))


@dataclass
class _Node:
    """A file or a folder, whatever it is called."""

    folder: bool
    content: Path | None = None  # what was brought to disk
    size: int = 0  # of what was written


Change = tuple[int, str, int | None]  # a folder, a name in it, and the node that it is of from then on; None: removed


@dataclass
class Disk:
    """The folder `root`, as a log of what was done there tells, which begins with what lay in `start`."""

    root: Path
    start: Path
    nodes: list[_Node] = field(default_factory=list)
    now: dict[int, dict[str, int]] = field(default_factory=dict)
    sure: dict[int, dict[str, int]] = field(default_factory=dict)
    unsure: list[list[Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._read(self.start)

    def _read(self, place: Path) -> int:
        number = len(self.nodes)
        if place.is_dir():
            self.nodes.append(_Node(True))
            self.now[number] = {entry.name: self._read(entry) for entry in sorted(place.iterdir())}
            self.sure[number] = dict(self.now[number])
        else:
            self.nodes.append(_Node(False, place, place.stat().st_size))
        return number

    def _find(self, path: str) -> tuple[int, str]:
        """The number of a path's folder, and its name there."""
        *folders, name = Path(path).relative_to(self.root).parts
        place = 0
        for folder in folders:
            place = self.now[place][folder]
        return place, name

    def do(self, what: str, path: str, more: str) -> None:
        """One line of the log."""
        if what == "syncdir" and Path(path) == self.root:
            self._settle(0)
            return
        try:
            place, name = self._find(path)
            number = self.now[place].get(name)
        except KeyError:  # of a file that is removed, but still open
            return
        if what in ("create", "mkdir"):
            number = len(self.nodes)
            self.nodes.append(_Node(what == "mkdir"))
            self._change([(place, name, number)])
            if what == "mkdir":
                self.now[number], self.sure[number] = {}, {}
                self._apply(self.sure, self.unsure.pop())
        elif number is None:
            return
        elif what == "rename":
            self._change([(*self._find(more), number), (place, name, None)])
        elif what == "link":
            self._change([(*self._find(more), number)])
        elif what == "remove":
            self._change([(place, name, None)])
        elif what == "size":
            self.nodes[number].size = int(more)
        elif what == "sync":
            self.nodes[number] = _Node(False, Path(more), Path(more).stat().st_size)
        else:
            self._settle(number)

    def _change(self, changes: list[Change]) -> None:
        self._apply(self.now, changes)
        self.unsure.append(changes)

    def _settle(self, folder: int) -> None:
        """What was done in a folder is on disk."""
        for changes in self.unsure:
            if any(place == folder for place, _, _ in changes):
                self._apply(self.sure, changes)
        self.unsure = [one for one in self.unsure if all(place != folder for place, _, _ in one)]

    @staticmethod
    def _apply(names: dict[int, dict[str, int]], changes: Sequence[Change]) -> None:
        for place, name, number in changes:
            names[place].pop(name, None)
            if number is not None:
                names[place][name] = number

    def write(self, target: Path, which: str, beyond: str, seed: int) -> None:
        """Makes a folder of what may be there if the power goes now: one of OUTCOMES."""
        chance = random.Random(seed)
        names = {place: dict(own) for place, own in self.sure.items()}
        for changes in self.unsure:
            if which == "all" or (which == "some" and chance.random() < 0.5):
                self._apply(names, changes)
        self._write(target, 0, names, beyond)

    def _write(self, target: Path, number: int, names: dict[int, dict[str, int]], beyond: str) -> None:
        node = self.nodes[number]
        if node.folder:
            target.mkdir()
            for name, child in names[number].items():
                self._write(target / name, child, names, beyond)
            return
        data = node.content.read_bytes()[: node.size] if node.content else b""
        missing = node.size - len(data)
        target.write_bytes(data + bytes({"nothing": 0, "zeros": missing, "a part": missing // 2}[beyond]))


def states(root: Path, start: Path, log: Path, target: Path, after: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Makes `target` what may be left if the power goes after so many lines of the log, in each of OUTCOMES.

    Yields:
        The number of lines and the outcome; `target` is to be removed before the next.
    """
    disk = Disk(root, start)
    lines = log.read_text(errors="surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        disk.do(*line.split("\t"))
        if number in after:
            for which, beyond in OUTCOMES:
                disk.write(target, which, beyond, number)
                yield number, f"{which} of the names, {beyond} beyond"
