"""Keeping how the work on a run goes: alone in its directory, its status and its time in `run.json`."""

import shlex
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from imgbench.errors import UserError
from imgbench.files import NO_PLACE
from imgbench.provenance import command_line, first_process, provenance

# Where this thread is at work, and the names of what it has recorded there.
_recorded: ContextVar[dict[Path, set[str]]] = ContextVar("recorded")


class Recorded(Protocol):
    """What of a run directory is read and written here; `imgbench.run.Run` has it."""

    @property
    def path(self) -> Path: ...
    @property
    def best(self) -> Path: ...
    @property
    def last(self) -> Path: ...
    @property
    def shown(self) -> Path: ...
    @property
    def concluded(self) -> bool: ...
    @property
    def info(self) -> dict[str, Any]: ...
    def write_info(self, content: dict[str, Any]) -> None: ...
    def note(self, **facts: Any) -> None: ...


@contextmanager
def recorded(run: Recorded, facts: dict[str, Any]) -> Iterator[None]:
    """As `Run.recorded`; of several processes that train one model, the first keeps it."""
    place, others = run.path.resolve(), _recorded.get({})
    if not first_process():
        yield
    elif place in others:
        others[place].update(facts)
        run.note(**facts)
        yield
    else:
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        facts = {"status": "running", "command": command_line(), "started": started, **provenance(), **facts}
        before = _recorded.set({**others, place: set(facts)})
        try:
            with _alone(run), _timed(run, facts):
                yield
        finally:
            _recorded.reset(before)


def names_recorded(path: Path) -> Collection[str]:
    """What the work in a directory, if this thread is at work there, has recorded so far."""
    return _recorded.get({}).get(path.resolve(), ())


def is_busy(path: Path) -> bool:
    """Whether another process is at work in a run's directory."""
    from filelock import FileLock, Timeout

    if not _lock_file(path).is_file():
        return False
    try:
        with FileLock(_lock_file(path), blocking=False):
            return False
    except Timeout:
        return True


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.running")


@contextmanager
def _alone(run: Recorded) -> Iterator[None]:
    """Two runs never share a directory; the system lets go of the lock of a process that is killed."""
    from filelock import FileLock, Timeout  # a tenth of a second, which few commands need

    lock = FileLock(_lock_file(run.path))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"Another process is at work in {run.shown}. Wait for its end, or name another directory: "
            "hydra.run.dir=DIR, or --output DIR."
        ) from error
    except OSError:  # beside a directory that can be written to, one that cannot
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _timed(run: Recorded, facts: dict[str, Any]) -> Iterator[None]:
    start = time.monotonic()  # which does not jump, as a clock may
    earlier = run.info if run.concluded and (run.path / "run.json").is_file() else None
    try:
        known = run.info if (run.path / "run.json").exists() else {}
        known = {name: value for name, value in known.items() if name not in ("error", "pruned")}
        run.write_info({**known, **facts})
        if facts.get("trained"):  # a study goes on
            start -= known.get("seconds") or 0
        yield
        run.note(status="finished", seconds=round(time.monotonic() - start, 1))
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = {} if interrupted else {"error": f"{type(error).__name__}: {error}"}
        status = "interrupted" if interrupted else "failed"
        with suppress(OSError):  # of a full disk, which is why it failed
            if earlier and run.concluded:  # nothing was begun: the run that lies here is as good as before
                run.write_info(earlier)
            else:
                run.note(status=status, seconds=round(time.monotonic() - start, 1), **reason)
        if isinstance(error, OSError) and error.errno in NO_PLACE:
            raise UserError(f"{error.filename or run.shown}: {error.strerror}.\n{_kept(run)}") from error
        raise


def _kept(run: Recorded) -> str:
    if not run.last.is_file():
        kept = f"Kept: {run.best}" if run.best.is_file() else "Nothing of the training was finished"
        return f"{kept}. hydra.run.dir=DIR, or --output DIR, puts the run elsewhere."
    work = "study" if (run.path / "study.json").is_file() else "train"
    return (
        f"Kept: {run.last.parent}. Make room, or let the run go on elsewhere: "
        f"python -m imgbench.{work} --resume {shlex.quote(str(run.shown))} hydra.run.dir=DIR"
    )
