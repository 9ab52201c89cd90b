"""The parts of a text, and how Markdown and LaTeX write them; every sign of a text from outside is only a sign."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbench.evaluation.paper_figures import stem_of
from imgbench.latex import escaped
from imgbench.publish.card import markdown
from imgbench.publish.recorded import CITE, ENDCITE, listed

DOCUMENT = Path(__file__).parent / "templates" / "paper.tex"
FIGURES = "figures"  # the folder beside the texts
NONE = "\N{EN DASH}"  # a number that is not there
LONGEST, WRAPPED = 26, 42  # letters of a name that stands in one line, and millimetres of one that is wrapped
ROWS = 30  # of a table; a longer one may break over pages


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    """A text, and the tables and figures that belong to it, by their labels."""

    text: str
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """The first column holds names, the others numbers."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    name: str
    caption: str
    width: int  # millimetres, in the text; files of both widths are drawn
    draw: Callable[[Path], None]  # into a folder


Block = Heading | Paragraph | Table | Picture


def label_of(block: Table | Picture) -> str:
    """By which LaTeX refers to it."""
    return f"{'tab' if isinstance(block, Table) else 'fig'}:{block.name}"


# --- Markdown


def as_markdown(blocks: Sequence[Block]) -> str:
    return "\n".join(map(_markdown_block, blocks))


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}\n"
    if isinstance(block, Paragraph):
        return f"{_markdown_text(block.text)}\n" if block.text else ""
    if isinstance(block, Picture):
        return f"![{block.caption}]({stem_of(Path(FIGURES), block.name, block.width).as_posix()}.svg)\n"
    lines = [block.caption, "", _row(block.header), "|" + "---|" + "---:|" * (len(block.header) - 1)]
    return "\n".join([*lines, *map(_row, block.rows)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"


def _markdown_text(text: str) -> str:
    """With citations as pandoc reads them: [@key]."""
    parts = re.split(f"{CITE}(.*?){ENDCITE}", text)
    return "".join(f" [@{part}]" if i % 2 else _escaped_markdown(part) for i, part in enumerate(parts))


def _escaped_markdown(part: str) -> str:
    start, end = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{start}{markdown(part)}{end}" if part.strip() else part


# --- LaTeX


def latex(text: str) -> str:
    """A text as it is, whatever signs of LaTeX are in it; citations are commands."""
    parts = re.split(f"{CITE}(.*?){ENDCITE}", text)
    done = "".join(f"~\\cite{{{part}}}" if i % 2 else escaped(part) for i, part in enumerate(parts))
    return re.sub(r"(?<=\d) \\%", r"~\\%", done)


def as_latex(blocks: Sequence[Block]) -> str:
    """For a document that loads graphicx, booktabs and longtable."""
    return "\n".join(map(_latex_block, blocks))


def _latex_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"\\subsection{{{latex(block.text)}}}\n"
    if isinstance(block, Paragraph):
        kinds = {"tab": "Table", "fig": "Figure"}
        see = listed([f"{kinds[label[:3]]}~\\ref{{{label}}}" for label in block.labels])
        return f"{latex(block.text)}{f' See {see}.' if see else ''}\n".lstrip(" ")
    if isinstance(block, Picture):
        file = stem_of(Path(FIGURES), block.name, block.width).as_posix()
        return (
            f"\\begin{{figure}}[htbp]\n\\centering\n\\includegraphics[width={block.width}mm]{{{file}}}\n"
            f"\\caption{{{latex(block.caption)}}}\n\\label{{{label_of(block)}}}\n\\end{{figure}}\n"
        )
    longest = max((len(row[0]) for row in block.rows), default=0)
    first = f"p{{{WRAPPED}mm}}" if longest > LONGEST else "l"
    columns = first + "r" * (len(block.header) - 1)
    header, rows = _latex_row(block.header), [_latex_row(row) for row in block.rows]
    caption = f"\\caption{{{latex(block.caption)}}}\\label{{{label_of(block)}}}"
    if len(rows) > ROWS:
        return "\n".join([
            f"{{\\small\n\\begin{{longtable}}{{{columns}}}", f"{caption}\\\\", "\\toprule", header, "\\midrule",
            "\\endhead", "\\bottomrule", "\\endfoot", *rows, "\\end{longtable}\n}\n",
        ])  # fmt: skip
    return "\n".join([
        "\\begin{table}[htbp]", "\\centering", caption, f"\\small\n\\begin{{tabular}}{{{columns}}}", "\\toprule",
        header, "\\midrule", *rows, "\\bottomrule", "\\end{tabular}", "\\end{table}\n",
    ])  # fmt: skip


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex(cell) for cell in cells) + r" \\"


def cited(text: str) -> list[str]:
    return re.findall(r"\\cite\{(.*?)\}", text)


def document(title: str, text: str) -> str:
    """`paper.tex`: compiles as it stands, with pdfLaTeX, and where other characters are wanted, XeLaTeX or LuaLaTeX."""
    shown = latex(title)
    foreign = sorted({letter for letter in shown + text if ord(letter) > 127})
    known = "\n".join(f"  \\ensurecharacter{{{letter}}}{{{ord(letter):04X}}}" for letter in foreign)
    return DOCUMENT.read_text("utf-8").replace("TITLE", shown).replace("CHARACTERS", known or "  % none")
