"""Files that somebody made to do harm: each ends in an error that a user can read, and makes nothing else happen.

Every mutation is drawn from a generator that is seeded with its number, and knows the format: a value of another type
or without measure, a missing entry, a name of a module, a path that leads elsewhere, an address, a formula, an alias.
They are read in a process of its own, which is watched and limited, and spoilt by that.
"""

import itertools
import logging
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from imgbench.benchmark.development.faults import PRELOADED, STARTER
from imgbench.benchmark.development.hostile.home import prepare_home
from imgbench.benchmark.development.hostile.readers import KINDS
from imgbench.benchmark.development.hostile.values import SECRET, Bait
from imgbench.benchmark.development.hostile.watch import Watch
from imgbench.errors import DecodeError, UserError

log = logging.getLogger(__name__)

MOST_MEMORY = 2 << 30  # bytes of address space, beyond what the process had before
LONGEST = 60  # seconds of one file


class _TooLong(BaseException):
    pass


def _too_long(*_: object) -> None:
    raise _TooLong


def try_files(home: Path, kind: str, numbers: Iterable[int], answer: Callable[[tuple[int, str, str]], object]) -> None:
    """Tries mutated files of a kind, in this process, which is spoilt by it; answers (number, outcome, why).

    Args:
        home: a folder of `prepare_home`, which only this process uses.
        numbers: of the mutations; the first is asked for once all is prepared.
    """
    import signal

    import torch

    warnings.simplefilter("ignore")  # as commands do
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(home / "modules"))
    os.chdir(home)
    os.environ |= {"IMGBENCH_CACHE": str(home / "cache"), "IMGBENCH_SECRET": SECRET, "TMPDIR": str(home / "temporary")}
    tempfile.tempdir = None
    bait, which = Bait(home.parent / "outside"), KINDS[kind]
    place = next(home.glob(which.place))
    whole = place.read_bytes()
    source = (home / which.made_of).read_bytes() if which.made_of else whole
    watch = Watch(home)
    sys.addaudithook(watch)
    watch.begin(reading=True)
    for reader in which.readers:  # so that what is imported for good files is imported, and each reader reads
        reader(home)
    usual = set(watch.end())  # such as a library that is looked for
    place.write_bytes(whole)
    signal.signal(signal.SIGALRM, _too_long)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    kept = {
        path: path.read_bytes() for path in [*(home / "run").rglob("*"), *(home / "sweep").rglob("*")] if path.is_file()
    }
    for i in numbers:
        rng = random.Random(f"{kind} {i}")
        reader = which.readers[i % len(which.readers)]
        data = which.mutate(source if which.binary else source.decode("utf-8-sig"), bait, rng)
        place.write_bytes(data)
        outside = sorted(path.name for path in bait.outside.iterdir())
        signal.alarm(LONGEST)
        watch.begin(reading=kind in ("config.yaml", "multirun.yaml"))
        why = ""
        try:
            found = reader(home)
            outcome = "read" if SECRET not in repr(found) else "the secret is looked up"
        except (UserError, DecodeError) as error:
            outcome, why = "named", str(error)
            if not str(error).strip():
                outcome = "an error that says nothing"
            elif SECRET in str(error):
                outcome = "the secret is told"
        except _TooLong:
            outcome, why = "too long", traceback.format_exc()[-1500:]
        except BaseException as error:
            outcome, why = f"{type(error).__name__}", traceback.format_exc()[-2500:]
        finally:
            done = [one for one in watch.end() if one not in usual]
            signal.alarm(0)
        if done:
            outcome, why = "does something", "; ".join(done)
        if sorted(path.name for path in bait.outside.iterdir()) != outside:
            outcome, why = "makes a file outside", str(outside)
        for path, content in kept.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)
        place.write_bytes(whole)
        answer((i, f"{outcome}, {reader.__name__}" if outcome not in GOOD else outcome, why))


GOOD = ("read", "named")


def _try_all(connection: Connection, home: Path, kind: str, first: int, seconds: float) -> None:
    with Path(os.devnull).open("w") as nowhere:  # what libraries in C++ write, and notes of commands
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)

    def numbers() -> Iterator[int]:
        end = time.monotonic() + seconds
        yield from itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(first))

    try:
        try_files(home, kind, numbers(), connection.send)
        connection.send(None)
    except BaseException:
        connection.send((-1, "the harness", traceback.format_exc()[-3000:]))


def measure_hostile(seconds: float, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, dict[str, float]]:
    """For each kind of file: the share of mutated ones that were read or named, and made nothing else happen.

    Args:
        seconds: for each kind.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        prepare_home(base / "home")
        STARTER.set_forkserver_preload(PRELOADED)
        return {kind: _measured(base, kind, seconds) for kind in kinds}


def _measured(base: Path, kind: str, seconds: float) -> dict[str, float]:
    counts, tried, used, is_done = Counter[str](), 0, 0.0, False
    while not is_done and used < seconds:  # more than once where a file has ended the process
        receiving, sending = STARTER.Pipe(duplex=False)
        process = STARTER.Process(target=_try_all, args=(sending, base / "home", kind, tried, seconds - used))
        process.start()
        sending.close()
        begun = time.monotonic()
        try:
            while (found := receiving.recv()) is not None:
                i, outcome, why = found
                if i < 0:
                    raise UserError(f"{kind} could not be tried:\n{why}")
                counts[outcome] += 1
                tried += 1
                if outcome not in GOOD:
                    log.warning("%s %d: %s\n%s", kind, i, outcome, why)
            is_done = True
        except EOFError:
            log.warning("%s %d has ended the process.", kind, tried)
            counts["ended the process"] += 1
            tried += 1
        process.join()
        used += time.monotonic() - begun
    good = counts["read"], counts["named"]
    others = tried - sum(good)
    return {"value": sum(good) / max(tried, 1), "files": tried, "read": good[0], "named": good[1], "others": others}
