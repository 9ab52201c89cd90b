"""Files written beside their place and renamed, their hashes, and the cores and the memory that this job may use."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nowhere to write


@contextmanager
def replacing(path: Path, mode: str, **options: Any) -> Iterator[Any]:
    """A file beside `path`, opened for writing, that takes its place at the end: a crash leaves the old or the new one.

    Raises:
        OSError: with `path` as its file name; what was there before is still there.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, mode, **options) as file:
            yield file
        Path(name).chmod(_permissions(path))  # `mkstemp` grants them to the owner alone
        Path(name).replace(path)
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def _permissions(path: Path) -> int:
    """Those of the file that is replaced, or of a new file by the process's umask."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0o077)  # there is no way to read it without setting it
    os.umask(umask)
    return 0o666 & ~umask


def write_atomically(path: Path, text: str | Iterable[str], errors: str = "strict") -> None:
    """Writes a text, or its lines.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path, "w", encoding="utf-8", errors=errors, newline="") as file:
        file.writelines([text] if isinstance(text, str) else text)


def sha256(path: Path) -> str:
    """Of a file's content, read in pieces: a checkpoint may be larger than the memory that is left."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def wait_without_spinning() -> None:
    """Lets OpenMP's threads sleep while they wait for each other, in this process and those that it starts.

    Beside another busy program, threads that spin take tens of times as long. OpenMP reads the setting when PyTorch is
    imported: later it changes nothing here. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cores() -> int:
    """How many this job may use, by its affinity and its control group, whatever the machine has."""
    from joblib import cpu_count  # takes a while, and few commands need it

    return cpu_count()


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch without threads of its own: where steps are small, they wait for each other for longer than they work."""
    import torch  # takes seconds, and few of those who read files need it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_left(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this job can still use, by the machine and its control groups.

    Files that are only cached count as free, as in the machine's own figure.
    """
    left = psutil.virtual_memory().available
    for group in _control_groups(groups):
        with suppress(OSError, ValueError):  # no limit reads `max`
            limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
            facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left = min(left, max(0, limit - used + int(facts["inactive_file"])))
    return left


def memory_limit(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this job may use in all, by the machine and its control groups."""
    limit = psutil.virtual_memory().total
    for group in _control_groups(groups):
        with suppress(OSError, ValueError):
            limit = min(limit, int((group / "memory.max").read_text()))
    return limit


def _control_groups(groups: Path) -> Iterator[Path]:
    """The directory of this process's control group (version 2) and those above it, whose limits hold as well."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return
    place = groups / own
    yield place
    while place != groups:
        place = place.parent
        yield place
