"""What may stand in a cell of a table that imgbench writes.

Spreadsheets take a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break for a formula, which may start a
program (https://owasp.org/www-community/attacks/CSV_Injection). The names of files and classes are anybody's. So every
text goes through `guarded`, which puts an apostrophe before such a beginning, and before one that has apostrophes
already: `unguarded` then gives back exactly what was written. Names such as `-1/a.jpg` are still found on the disk.
Numbers are written as they are. Cells of `.xlsx` are of the type text instead, where nothing is a formula.
"""

import re

FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # noqa: RUF001 some locales type these
GUARDED = re.compile(f"'{FORMULA.pattern}")


def guarded(cell: object) -> object:
    """A cell as it is written into CSV."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def unguarded(text: str) -> str:
    """What was given to `guarded`."""
    return text[1:] if GUARDED.match(text) else text
