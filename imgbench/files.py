"""Files written beside their place and renamed, their hashes, and the cores and the memory that this job may use."""

import errno
import hashlib
import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CORES = "LOKY_MAX_CPU_COUNT"  # the environment variable that limits the cores of a process, joblib's too
NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nowhere to write


@contextmanager
def replacing(path: Path, mode: str, **options: Any) -> Iterator[Any]:
    """A file beside `path`, opened for writing, that takes its place once it is whole and on disk.

    A crash, of the program or of the machine, leaves the old or the new one.

    Raises:
        OSError: with `path` as its file name; what was there before is still there.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_permissions(path))  # `mkstemp` grants them to the owner alone
        Path(name).replace(path)
        keep_names(path.parent)  # the content is on disk already
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def put_in_place(made: Path, path: Path) -> None:
    """Renames what was made beside `path`, a file or a folder of files, once it is on disk.

    Raises:
        OSError: it cannot be brought there; what was there before is still there.
    """
    folder = made.is_dir()
    for file in (one for one in made.rglob("*") if one.is_file()) if folder else [made]:
        with file.open("rb+") as written:  # Windows brings to disk only what may be written to
            os.fsync(written.fileno())
    if folder:
        keep_names(made)
    made.replace(path)
    keep_names(path.parent)


def keep_names(folder: Path) -> None:
    """Brings to disk which files a folder has: a new name, or a changed one, may be lost with the power until then.

    Not every system and file system can; there it is left to them.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


def copy_atomically(source: str | Path, path: str | Path) -> None:
    """Copies a file's content.

    Raises:
        OSError: as `replacing`.
    """
    with Path(source).open("rb") as old, replacing(Path(path), "wb") as new:
        shutil.copyfileobj(old, new)


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


def cores(groups: Path = CONTROL_GROUPS) -> int:
    """How many this job may use, by its affinity and its control groups, whatever the machine has; at least one."""
    from joblib import cpu_count  # takes a while, and few commands need it

    return min(cpu_count(), core_quota(groups) or sys.maxsize)


def core_quota(groups: Path = CONTROL_GROUPS) -> int | None:
    """Of how many cores the control groups give this job the time, rounded up, or fewer where `CORES` says so; None: of
    all that it may run on.

    Libraries know the affinity of a process, and start a thread for each core of the machine beside a quota.
    """
    quotas = [int(limit)] if (limit := os.environ.get(CORES, "")).isdecimal() else []
    for place in _own_groups(groups, "cpu"):
        with suppress(OSError, ValueError):  # without a limit there is no file, or no number in it
            if (place / "cpu.max").is_file():
                time, period = map(int, (place / "cpu.max").read_text().split())
            else:  # version 1
                time, period = (int((place / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if time > 0:  # in version 1, -1 is no limit
                quotas.append(math.ceil(time / period))
    return min(quotas, default=None)


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


def memory_left(groups: Path = CONTROL_GROUPS) -> int:
    """Bytes that this job can still use, by the machine, its control groups and the limit of this process.

    Files that are only cached count as free, as in the machine's own figure.
    """
    left = psutil.virtual_memory().available
    if (limit := _address_space()) is not None:
        left = min(left, max(0, limit - psutil.Process().memory_info().vms))
    for limit, used, cached in _memory_of_groups(groups):
        left = min(left, max(0, limit - used + cached))
    return left


def memory_limit(groups: Path = CONTROL_GROUPS) -> int:
    """Bytes that this job may use in all, by the machine, its control groups and the limit of this process."""
    limits = [psutil.virtual_memory().total, _address_space(), *(limit for limit, _, _ in _memory_of_groups(groups))]
    return min(limit for limit in limits if limit is not None)


def _address_space() -> int | None:
    """Bytes of `ulimit -v`; None where there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _memory_of_groups(groups: Path) -> Iterator[tuple[int, int, int]]:
    """Limit, bytes in use, and those of them that files are only cached in, of each control group with a limit."""
    for place in _own_groups(groups, "memory"):
        with suppress(OSError, ValueError, KeyError):  # without a limit there is no file, or no number in it
            facts = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            if (place / "memory.max").is_file():
                names, cached = ("memory.max", "memory.current"), facts["inactive_file"]
            else:  # version 1
                names, cached = ("memory.limit_in_bytes", "memory.usage_in_bytes"), facts["total_inactive_file"]
            limit, used = (int((place / name).read_text()) for name in names)
            yield limit, used, int(cached)


def _own_groups(groups: Path, controller: str) -> Iterator[Path]:
    """This process's control group and those above it, whose limits hold as well, in version 2 and in version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = groups
        elif controller in controllers.split(","):
            root = groups / controller
        else:
            continue
        place = root / path.lstrip("/")
        yield place
        while place != root:
            place = place.parent
            yield place
