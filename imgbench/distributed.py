"""Work on many images, divided among the processes of a Ray cluster.

By tasks of Ray, and not by a dataset of Ray Data: that wants all its inputs before it begins, and a hundred million
photographs are named while their folders are read.
"""

import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from imgbench.errors import UserError
from imgbench.files import CORES, cores

T = TypeVar("T")
R = TypeVar("R")

Launcher = Literal["ray"]
UNIT = 1024  # images of a task, whole batches of those that are computed together; seconds of work
AHEAD = 3  # tasks of each process that are begun, or done before an earlier one is
CONNECTING = 10  # seconds
EXTRA = 'pip install "imgbench[ray]"'
SHARED = "All machines have to see the run and the photographs under the same paths."


def in_units(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of `UNIT` items, the last one shorter."""
    rest = iter(items)
    while unit := list(islice(rest, UNIT)):
        yield unit


class Cluster:
    """The processes of a Ray cluster, each with one core, or with one GPU where the cluster has some."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def map(self, work: Callable[[T], R], units: Iterable[T]) -> Iterator[R]:
        """What `work` makes of each unit, in their order; a unit whose process has died is computed again by another.

        Only so many units are taken as are being computed or wait for an earlier one.

        Raises:
            UserError: as `work` raised it; or a process has no imgbench or another one, or not the same disk, or died
                again and again.
        """
        ray, place = self._ray, str(Path.cwd())
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_done)
        rest, begun = iter(units), deque()
        while True:
            ahead = AHEAD * max(1, gpus or int(resources.get("CPU", 1)))
            begun += [task.remote(work, unit, place, _version()) for unit in islice(rest, ahead - len(begun))]
            if not begun:
                return
            yield self._result(begun.popleft())

    def _result(self, task: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            lacking = re.findall(r"No module named '.*'", str(error))
            if not lacking:
                raise
            host = ", ".join(re.findall(r"ip=([^,)]+)", str(error))[:1])
            raise UserError(
                f"launcher=ray: a machine of the cluster, {host}, cannot compute this: {lacking[-1]}.\nInstall "
                f'there what is installed here: pip install "imgbench[ray]=={_version()}"'
            ) from None
        except errors.RayError as error:
            died = isinstance(error, errors.WorkerCrashedError | errors.OutOfMemoryError)
            what = "a process died, and so did those that computed the same images again" if died else str(error)
            raise UserError(
                f"launcher=ray: {what.splitlines()[0]}.\nWhat was done before is kept, and the same command goes on. "
                "It takes a cluster that runs, and enough memory for each process."
            ) from error


def _version() -> str:
    try:
        return version("imgbench")
    except PackageNotFoundError:  # the sources alone
        return "0"


def _done(work: Callable[[T], R], unit: T, place: str, wanted: str) -> R:
    """In a process of the cluster, and in the directory of the command, so that names of files mean the same there."""
    os.environ[CORES] = "1"
    host = socket.gethostname()
    if _version() != wanted:
        raise UserError(
            f"launcher=ray: {host} has imgbench {_version()}, and the command is of {wanted}. Install one on all "
            f'machines: pip install "imgbench[ray]=={wanted}"'
        )
    try:
        os.chdir(place)
    except OSError as error:
        raise UserError(f"launcher=ray: {host} has no {place} ({error.strerror}). {SHARED}") from None
    return work(unit)


@contextmanager
def launched(launcher: Launcher | None) -> Iterator[Cluster | None]:
    """The cluster that RAY_ADDRESS names or that runs on this machine, else one that is started here, and ended; None
    without a launcher.

    Raises:
        UserError: Ray is not installed, or there is nothing at the address, or no cluster could be started.
    """
    if launcher is None:
        yield None
        return
    if launcher != "ray":
        raise UserError(f"launcher={launcher}, but the images of one command are divided by launcher=ray only.")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(f"launcher=ray: Ray is not installed. Mend it with: {EXTRA}") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    try:
        yield Cluster(ray)
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    silent = {"log_to_driver": False, "logging_level": "fatal", "configure_logging": False}
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECTING).close()
        ray.init("auto", **silent)
        return
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and Exception itself
        if address:
            raise UserError(
                f"launcher=ray: RAY_ADDRESS={address}, but no Ray cluster answers there ({_first_line(error)}).\nStart "
                "one (ray start --head), or unset RAY_ADDRESS: then one is started on this machine."
            ) from error
        if not isinstance(error, ConnectionError):
            raise
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's makers are told nothing
    try:
        ray.init("local", num_cpus=cores(), include_dashboard=False, **silent)
    except Exception as error:
        raise UserError(
            f"launcher=ray: Ray cannot be started on this machine ({_first_line(error)}).\nIt allows itself half a "
            "minute, which a busy machine may need longer than: repeat the command, or leave launcher=ray out, which "
            "computes the same in one process."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
