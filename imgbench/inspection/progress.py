"""How far the longer steps of an audit have come."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(steps: Iterable[T], number: int, text: str) -> Iterable[T]:
    """The steps as they are, with a bar beside the text where standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return steps
    return track(steps, text, number, console=console, transient=True)
