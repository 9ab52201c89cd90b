"""Tables for a terminal of 80 columns, and for a log file."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from imgbench.cells import visible


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, notes: Sequence[str] = ()
) -> None:
    """The first column is text, the others are numbers; a cell that is too wide continues in the next line.

    Args:
        notes: printed below the table.
    """
    table = Table(
        title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(visible, row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(width=200, markup=False, highlight=False)  # a log file has no width of its own
    console.print(table)
    console.print(visible("\n".join(["", *notes])))
