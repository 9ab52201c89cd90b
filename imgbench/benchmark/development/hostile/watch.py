"""What is seen of a reader: an audit hook (https://peps.python.org/pep-0578/), which cannot be taken off again."""

import os
import sys
from pathlib import Path
from typing import Any

from imgbench.benchmark.development.hostile.values import CANARY


def absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 without a look at the disk, which would be seen


class Watch:
    """What was done between `begin` and `end` that no file may bring about; a hook cannot be taken off again."""

    def __init__(self, home: Path) -> None:
        self.home, self.outside = str(home), str(home.parent / "outside")
        self.on, self.reading = False, True
        self.found: list[str] = []
        self.known: set[str] = set()

    def begin(self, reading: bool) -> None:
        """Args:
        reading: whether the file may name what is read, as data are by `config.yaml`.
        """
        self.known = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
        self.reading, self.found, self.on = reading, [], True

    def end(self) -> list[str]:
        self.on = False
        return self.found

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import":
            name = str(arguments[0]).partition(".")[0]
            if name not in self.known or CANARY in str(arguments[0]):
                self.found.append(f"imports {arguments[0]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike):
                self._opened(absolute(path), bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._opened(absolute(path), True)
        elif event.startswith(CALLS) or event in CALLS:
            self.found.append(f"{event} {str(arguments)[:200]}")

    def _opened(self, path: str, written: bool) -> None:
        inside = path.startswith((self.home + os.sep, "/dev/null", "/dev/shm", "/proc/self")) or path == self.home
        if written and not inside:
            self.found.append(f"writes {path}")
        elif not self.reading and path.startswith(self.outside):
            self.found.append(f"reads {path}")


# Event -> how many of its arguments are paths that change.
CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.truncate": 1, "os.link": 2,
           "os.chmod": 1, "os.chown": 1, "shutil.rmtree": 1, "shutil.move": 2, "os.symlink": 2}  # fmt: skip
CALLS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.", "socket.connect",
         "socket.getaddrinfo", "socket.bind", "socket.gethostby", "socket.sendto", "urllib.", "ftplib.", "webbrowser.",
         "pickle.find_class", "ctypes.dlopen", "pty.", "smtplib.")  # fmt: skip
