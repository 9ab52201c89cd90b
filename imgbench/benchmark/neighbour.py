"""What imgbench does in a minute's time, on an idle machine and beside programs that keep cores busy."""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from imgbench.benchmark.epoch import train_epochs
from imgbench.benchmark.rounds import Timing, alternate, serve
from imgbench.experiment.build import build_classifier, build_data, with_facts
from imgbench.experiment.compose import with_model
from imgbench.training import fast

BUSY = (0, 1, 2)  # programs beside it


def measure_neighbours(config: dict[str, Any], rounds: int) -> dict[str, dict[str, Timing]]:
    """Seconds, idle and beside others, of an epoch of the configured network, of one that fine-tunes, and more.

    That is an audit, and the features of a frozen network, which are made anew each time.
    """
    works = {"an epoch": _epoch, "fine-tuning": _fine_tuning, "an audit": _audit, "features": _features}
    return {
        name: alternate(
            {f"{name}, {f'beside {busy} busy' if busy else 'idle'}": partial(work, busy=busy) for busy in BUSY},
            {"config": config},
            rounds,
        )
        for name, work in works.items()
    }


def _spin() -> None:
    while True:
        pass


@contextmanager
def beside(busy: int) -> Iterator[None]:
    """So many processes compute without an end meanwhile."""
    processes = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(busy)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _epoch(connection: Connection, config: dict[str, Any], busy: int) -> None:
    train_epochs(connection, config, partial(beside, busy))


def _fine_tuning(connection: Connection, config: dict[str, Any], busy: int) -> None:
    own = with_model(DictConfig({**config, "data": {**config["data"], "image_size": None}}), "finetuned")
    train_epochs(connection, own, partial(beside, busy))


def _audit(connection: Connection, config: dict[str, Any], busy: int) -> None:
    from imgbench.audit import audit

    _serve_cold(connection, busy, lambda: audit(OmegaConf.create(config)))


def _features(connection: Connection, config: dict[str, Any], busy: int) -> None:
    from imgbench.inference.cached_features import image_features

    composed = with_model(DictConfig({**config, "data": {**config["data"], "image_size": None}}), "pretrained")
    settings, _ = fast.apply(fast.FastSettings(**config["fast"]), "cpu")

    def work() -> None:
        data = build_data(composed)
        own = with_facts(composed, data)
        classifier = build_classifier(own, data.class_names, data.preprocessing, settings, class_weights=None)
        image_features(classifier, data, data.rows("train"))

    _serve_cold(connection, busy, work)


def _serve_cold(connection: Connection, busy: int, work: Callable[[], object]) -> None:
    """Each time without anything in the cache."""

    def timed() -> float:
        with tempfile.TemporaryDirectory() as cache, beside(busy), contextlib.redirect_stdout(None):
            os.environ["IMGBENCH_CACHE"] = cache  # of this process, which measures nothing else
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

    serve(connection, timed)
