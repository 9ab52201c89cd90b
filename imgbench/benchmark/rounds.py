"""Measures variants by turns, each in a process of its own, so that drift of the machine meets all of them alike."""

import logging
import multiprocessing
import re
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

# Waits for a word on the connection, works, and sends back the seconds of one unit of work; until the word is None.
Variant = Callable[..., None]
PROCESSES: Any = multiprocessing.get_context("spawn")  # process-wide settings of one must not reach another
ENDED_EARLY = "A measured variant ended before its time; its own message stands above."


@dataclass(frozen=True)
class Timing:
    """Seconds of one unit of work in each round, and the most memory that the process held."""

    seconds: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, other: "Timing") -> float:
        """Median over the rounds of this variant's time in terms of the other's."""
        return statistics.median(own / their for own, their in zip(self.seconds, other.seconds, strict=True))


def serve(connection: Connection, work: Callable[[], float]) -> None:
    """The loop of a variant that is a plain function: one call of `work` for each word received."""
    while connection.recv() is not None:
        connection.send(work())


def peak_memory() -> int:
    """Bytes of resident memory that this process has held at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage counts what the parent held as well
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on macOS in bytes


def _with_peak(connection: Connection, variant: Variant, arguments: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")  # as in the commands, of which this process is a part
    logging.disable(logging.INFO)
    variant(connection, **arguments)
    connection.send(peak_memory())


def start(variant: Variant, /, **arguments: Any) -> tuple[BaseProcess, Connection]:
    """`variant(connection, **arguments)` in a new process, and the other end of its connection."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=variant, args=(theirs,), kwargs=arguments)
    process.start()
    theirs.close()
    return process, ours


def alternate(variants: dict[str, Variant], arguments: dict[str, Any], rounds: int) -> dict[str, Timing]:
    """Runs `variant(connection, **arguments)` of each in a new process, and times them by turns.

    The first turn of each warms up, and its time is not counted. Only one variant works at a time.

    Raises:
        RuntimeError: a variant has ended before its time; its own message stands above.
    """
    connections: dict[str, Connection] = {}
    processes = []
    for name, variant in variants.items():
        process, connections[name] = start(_with_peak, variant=variant, arguments=arguments)
        processes.append(process)
    measured: dict[str, list[float]] = {name: [] for name in variants}
    try:
        for turn in range(rounds + 1):
            for name, connection in connections.items():
                connection.send("go")
                seconds = connection.recv()
                if turn > 0:
                    measured[name].append(seconds)
        for connection in connections.values():
            connection.send(None)
        peaks = {name: connection.recv() for name, connection in connections.items()}
        for process in processes:
            process.join(30)
    except (EOFError, OSError) as error:
        raise RuntimeError(ENDED_EARLY) from error
    finally:
        for process in processes:
            process.kill()
    return {name: Timing(seconds, peaks[name]) for name, seconds in measured.items()}
