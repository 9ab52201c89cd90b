"""What may stand in a cell of a table that imgbench writes, in Markdown and on a terminal.

Spreadsheets take a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break for a formula, which may start a
program (https://owasp.org/www-community/attacks/CSV_Injection). The names of files and classes are anybody's. So every
text goes through `guarded`, which puts an apostrophe before such a beginning, and before one that has apostrophes
already: `unguarded` then gives back exactly what was written. Names such as `-1/a.jpg` are still found on the disk.
Numbers are written as they are. Cells of `.xlsx` are of the type text instead, where nothing is a formula.

A terminal obeys control characters, which can hide lines, rename its window or fill the clipboard, and shows a text
backwards behind marks of direction. So `visible` writes them out, as `\\x1b`. Markdown takes signs for links and HTML.
"""

import re
from html import escape

FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # noqa: RUF001 some locales type these
GUARDED = re.compile(f"'{FORMULA.pattern}")


def guarded(cell: object) -> object:
    """A cell as it is written into CSV."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def unguarded(text: str) -> str:
    """What was given to `guarded`."""
    return text[1:] if GUARDED.match(text) else text


# Of control, of direction, and halves of characters, but for the end of a line and a tab.
HIDDEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def visible(text: object) -> str:
    """A text as a terminal may get it."""
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def markdown(text: object) -> str:
    """A text as it is in Markdown, in one line, whatever signs of Markdown or HTML are in it."""
    plain = visible(" ".join(str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace").split()))
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", escape(plain, quote=False))
