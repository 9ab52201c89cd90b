"""What may stand in a LaTeX file that imgbench writes: names of runs, classes and files are anybody's."""

import re
import textwrap
from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # in LaTeX's first encoding, the code of this letter is another letter
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # which the end of a line before it, `\\`, would take for its option
    "]": "{]}",
    "*": "{*}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "“": "``",
    "”": "''",
    "–": r"\textendash{}",  # noqa: RUF001
    "—": r"\textemdash{}",
    "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}",  # noqa: RUF001
    "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
HEAD = 14  # letters in a line of a column's name
# Chinese names need fonts that LaTeX does not take by itself.
HEADER = "% Needs \\usepackage{booktabs}; with Chinese names \\usepackage{ctex} too, and XeLaTeX or LuaLaTeX.\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it; what cannot be printed is a space, and half a character a question mark."""
    whole = text.encode("utf-8", "replace").decode()
    done = "".join(SPECIAL.get(letter, letter if letter.isprintable() else " ") for letter in whole)
    return re.sub("-(?=-)", "-{}", done)  # two of them, as of an option, would become a dash


def table(columns: Sequence[str], rows: Sequence[Sequence[Sequence[str]]], caption: str, label: str) -> str:
    """A table for the package booktabs, with a caption above it. Its first column is text, the others numbers.

    Args:
        columns: their names, which are broken into lines.
        rows: of cells, each of one line or more, which stand below each other.
    """
    names = [textwrap.wrap(column, HEAD) or [""] for column in columns]
    height = max(map(len, names))
    names = [[""] * (height - len(lines)) + lines for lines in names]
    head = [" & ".join(escaped(lines[i]) for lines in names) + r" \\" for i in range(height)]
    lines: list[str] = []
    for row in rows:
        lines += [r"\addlinespace"] if lines and len(row[0]) > 1 else []
        for i in range(max(map(len, row))):
            line = " & ".join(
                (_number if column else escaped)(cell[i]) if i < len(cell) else "" for column, cell in enumerate(row)
            )
            lines.append(line + (r" \\" if i + 1 == max(map(len, row)) else r" \\*"))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"\toprule",
            *head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _number(cell: str) -> str:
    """A hyphen before a number becomes a minus."""
    return escaped(re.sub(r"(?<!\S)-(?=[\d.])", "\N{MINUS SIGN}", cell))
