"""What may stand in a LaTeX file that imgbench writes: names of runs, classes and files are anybody's."""

import re
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
# Chinese names need fonts that LaTeX does not take by itself.
HEADER = "% Needs \\usepackage{booktabs}; with Chinese names \\usepackage{ctex} too, and XeLaTeX or LuaLaTeX.\n"


def escaped(text: str) -> str:
    """The text as LaTeX prints it; what cannot be printed is a space, and half a character a question mark."""
    whole = text.encode("utf-8", "replace").decode()
    done = "".join(SPECIAL.get(letter, letter if letter.isprintable() else " ") for letter in whole)
    return re.sub("-(?=-)", "-{}", done)  # two of them, as of an option, would become a dash


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Sequence[str]]], caption: str, label: str, text: int = 1
) -> str:
    """A table for the package booktabs, with a caption above it.

    Args:
        rows: of cells, each of one line or more, which stand below each other.
        text: so many of the first columns are text, the others numbers.
    """
    lines = []
    for row in rows:
        for i in range(max(map(len, row))):
            line = " & ".join(
                (escaped if column < text else _number)(cell[i]) if i < len(cell) else ""
                for column, cell in enumerate(row)
            )
            lines.append(line + (r" \\" if i + 1 == max(map(len, row)) else r" \\*"))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escaped(caption)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * text}{'r' * (len(columns) - text)}}}",
            r"\toprule",
            " & ".join(map(escaped, columns)) + r" \\",
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
