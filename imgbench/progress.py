"""How far a longer step has come, on standard error: a bar where that is a terminal, else a line now and then."""

import gc
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")
log = logging.getLogger(__name__)

# What these log of the images and their audit, and of the device too, is the same for each network that is trained.
IMAGE_FACTS = ("imgbench.data.read", "imgbench.data.corrections", "imgbench.experiment.inspect")
FACTS = (*IMAGE_FACTS, "imgbench.training.fast")
SILENCE, LONGEST = 3.0, 60.0  # seconds until the first line, and at most between two; they double


class Step:
    """What is being done, of how many parts, and how many are done; without `total` it has no parts.

    A bar is gone at the end. It fits a terminal of 80 columns if the text has at most 35 letters.
    """

    def __init__(self, text: str, total: int | None = None, done: int = 0) -> None:
        self.text, self.total, self.done = text, total, done
        self._over = Event()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            parts = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn()) if self.total else (SpinnerColumn(),)
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(text, *parts, console=console, transient=True)
            self._bar.add_task(self.text, total=self.total, completed=self.done)
            self._bar.start()
        else:
            self._lines = Thread(target=self._write_lines, daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bar:
            self._bar.stop()
        else:
            self._lines.join()

    def advance(self, number: int = 1, more: int = 0) -> None:
        """`number` parts are done, and there are `more` than was thought."""
        self.done += number
        if more and self.total is not None:
            self.total += more
        if self._bar:
            self._bar.update(self._bar.task_ids[0], total=self.total, completed=self.done)

    def _write_lines(self) -> None:
        wait = SILENCE
        while not self._over.wait(wait):
            log.info("%s: %s", self.text, f"{self.done:,} of {self.total:,}" if self.total else "...")
            wait = min(2 * wait, LONGEST)


def shown(steps: Iterable[T], number: int, text: str) -> Iterator[T]:
    """The steps as they are, while it is shown how many of them are done."""
    with Step(text, number) as progress:
        for step in steps:
            yield step
            progress.advance()


@contextmanager
def loading() -> Iterator[None]:
    """Says on a terminal that PyTorch is imported inside, which takes seconds, until it is.

    Nothing that is imported is garbage: to look for some meanwhile takes a quarter of the time.
    """
    if "torch" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        with Step("Loading PyTorch") if Console(stderr=True).is_terminal else nullcontext():
            yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def quiet(*modules: str, least: int = logging.WARNING) -> Iterator[None]:
    """Lets libraries, or modules of ours, log inside only what is at least so severe: the rest has been said."""
    loggers = [logging.getLogger(module) for module in modules]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(least)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
