"""How far a longer step has come, on standard error where that is a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress_bar(text: str) -> Progress:
    """A bar beside the text, gone at its end."""
    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def shown(steps: Iterable[T], number: int, text: str) -> Iterator[T]:
    """The steps as they are, with a bar."""
    with progress_bar(text) as progress:
        yield from progress.track(steps, total=number)
