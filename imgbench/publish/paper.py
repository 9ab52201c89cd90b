"""What a paper needs of a run: methods and results as Markdown and LaTeX, figures, what is to be cited, checklists."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.figure_style import COLUMN, PAGE
from imgbench.evaluation.metrics import confusion_matrix
from imgbench.evaluation.paper_figures import charts_of_paper, confusion_of_paper, intervals_of_paper, stem_of
from imgbench.files import write_atomically
from imgbench.number import Number, group_codes, mean_of_runs, share
from imgbench.publish import checklists
from imgbench.publish.card import markdown
from imgbench.publish.paper_facts import (
    CITE,
    ENDCITE,
    INFO,
    Fact,
    Record,
    architecture,
    facts_of,
    listed,
    percent,
    plain,
)
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, learning_curve_chart, reliability_chart, unsure_chart
from imgbench.report.learning_curve import read_learning_curve
from imgbench.run import PREDICTIONS, Run

log = logging.getLogger(__name__)

BIBLIOGRAPHY = Path(__file__).parent / "templates" / "citations.bib"
DOCUMENT = Path(__file__).parent / "templates" / "paper.tex"
FIGURES = "figures"
NONE = "\N{EN DASH}"  # a number that is not there
ROWS = 30  # of a table; a longer one may break over pages
DRAWN = 40  # classes whose recalls are drawn
# Heading -> the facts that stand under it, in their order.
METHODS = {
    "Data": ("images", "source", "labels", "groups", "left_out", "corrections"),
    "Division": ("division", "disjoint", "inspection", "difference_of_parts"),
    "Preprocessing and augmentation": ("preprocessing", "augmentation"),
    "Network and training": ("network", "weights", "training", "loss", "imbalance", "duration", "budget", "seed"),
    "Choice of the model": ("choice", "selection_on_test"),
    "Evaluation": ("measures", "interval"),
    "Software and hardware": ("software", "code", "hardware", "reproduction"),
}


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


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
    width: int  # millimetres


Block = Heading | Paragraph | Table | Picture


@dataclass(frozen=True)
class Repeated:
    """The runs of a sweep over seeds, in the order of these."""

    records: Sequence[Record]

    @property
    def seeds(self) -> list[int]:
        return [int(record.config["seed"]) for record in self.records]


def write_paper(path: str | Path, folder: Path) -> list[Path]:
    """Writes the files into a new or empty folder, and returns them.

    Args:
        path: a run, or the folder of a sweep over seeds.

    Raises:
        UserError: the run is not finished, the sweep is of more than seeds, or the folder holds files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "holds files already" if folder.is_dir() else "is a file"
        raise UserError(
            f"--paper {folder} {what}, and nothing of what an author wrote is overwritten. Name a new folder."
        )
    repeated = _repeated(Path(path))
    record = repeated.records[0] if repeated else Record(Run.open(path))
    facts = facts_of(record)
    if repeated:
        facts |= _facts_of_seeds(repeated)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    texts = {"methods": methods(facts), "results": results(record, facts, repeated, folder / FIGURES)}
    written = {}
    for name, blocks in texts.items():
        written[f"{name}.md"] = "\n".join(map(_markdown_block, blocks))
        written[f"{name}.tex"] = "\n".join(map(_latex_block, blocks))
    latex = "".join(written[f"{name}.tex"] for name in texts)
    title = _title(record)
    written["CITATION.bib"] = bibliography(
        record, [key for name in ("methods.tex", "results.tex") for key in _cited(written[name])]
    )
    written["paper.tex"] = document(title, latex)
    for name in checklists.NAMES:
        written[f"checklists/{name}.md"] = checklists.as_markdown(name, facts, title)
        written[f"checklists/{name}.csv"] = checklists.as_csv(name, facts)
    for name, text in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, text)
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _title(record: Record) -> str:
    return plain(f"{record.config.get('model_name', 'a network')} on {record.config.get('data_name', 'images')}")


# --- a sweep over seeds


def _repeated(folder: Path) -> Repeated | None:
    """The runs of a sweep; None where the folder is none.

    Raises:
        UserError: its runs differ by more than their seeds, are of other images, or are not finished.
    """
    if not (folder / "multirun.yaml").is_file() or (folder / "config.yaml").is_file():
        return None
    records = [Record(Run.open(file.parent)) for file in sorted(folder.glob("*/run.json"))]
    if not records:
        raise UserError(f"{folder} holds no run of the sweep that it is of.")
    records.sort(key=lambda record: int(record.config["seed"]))
    beside = ("seed", "ckpt_path", "logger", "median_stopping")
    settings = [{name: value for name, value in record.run.stored_config.items() if name not in beside}
                for record in records]  # fmt: skip
    tested = [[record.predictions.paths, record.predictions.targets.tolist()] for record in records]
    if any(one != settings[0] for one in settings) or any(one != tested[0] for one in tested):
        raise UserError(
            f"{folder} holds runs that differ by more than their seeds, so that they have no methods in common. Name "
            f"one of them, such as {records[0].run.shown}; python -m imgbench.compare {folder} compares them."
        )
    return Repeated(records)


def _facts_of_seeds(repeated: Repeated) -> dict[str, Fact]:
    shares = [_accuracy(record).value for record in repeated.records]
    seeds = listed([str(seed) for seed in repeated.seeds])
    found = {"seed": Fact(f"The training was repeated with the seeds {seeds}, on the same parts.", INFO)}
    mean, low, high = mean_of_runs(shares)
    if len(shares) > 1:
        deviation = float(np.std(shares, ddof=1))
        text = (
            f"Over the {len(shares)} seeds, the accuracy on the test images has the mean {percent(mean)} and the "
            f"standard deviation {100 * deviation:.1f} points."
        )
        if deviation:
            text += (
                " The 95 % interval of the mean (Student's, for other seeds on the same test images) is "
                f"{100 * max(low, 0.0):.1f} to {100 * min(high, 1.0):.1f} %."
            )
        text += f" What follows is of the run with the seed {repeated.seeds[0]}, the lowest."
        found["seeds"] = Fact(text, PREDICTIONS)
    return found


def _accuracy(record: Record) -> Number:
    if record.tested is None:
        raise UserError(f"{record.run.shown} has no accuracy of test images.")
    return record.tested


# --- the texts


def methods(facts: Mapping[str, Fact]) -> list[Block]:
    """Headings, and under each what was recorded."""
    blocks: list[Block] = []
    for heading, names in METHODS.items():
        if said := [facts[name].text for name in names if name in facts]:
            blocks += [Heading(heading), Paragraph(" ".join(said))]
    return blocks


def results(record: Record, facts: Mapping[str, Fact], repeated: Repeated | None, figures: Path) -> list[Block]:
    """What was measured, with tables; draws the figures."""
    blocks: list[Block] = []

    def part(heading: str, names: Sequence[str], *further: Block) -> None:
        said = [facts[name].text for name in names if name in facts]
        if said or further:
            blocks.extend([Heading(heading), *([Paragraph(" ".join(said))] if said else []), *further])

    texts = Texts("en")
    if repeated:
        part("Seeds", ["seeds"], _table_of_seeds(repeated))
    part("Accuracy", ["accuracy", "selection_on_test", "further_measures", "baselines"])
    if record.run.folds:
        part("Folds", ["folds"], *_of_folds(record, figures))
    if record.tested is not None:
        part("Classes", ["classes", "failures"], *_of_classes(record, figures))
        chart = reliability_chart(record.predictions, texts)
        counts = chart.counts and (*chart.counts[:2], "images")
        chart = replace(chart, x_label="confidence, %", y_label="accuracy, %", counts=counts)
        charts_of_paper([chart], figures, "reliability")
        caption = "Accuracy against confidence in 15 bins, with 95 % intervals, above the number of test images."
        part("Calibration", ["calibration"], Picture("reliability", caption, COLUMN))
        names = {"x_label": "answers left out, %", "y_label": "errors among the others, %"}
        charts_of_paper([replace(unsure_chart(record.predictions, texts), **names)], figures, "unsure")
        caption = "The share of wrong answers among the test images that are answered, if the least sure are left out."
        part("Answers left open", ["unsure", "novelty"], Picture("unsure", caption, COLUMN))
    if len(record.epochs) > 1:
        charts = curve_charts(record.epochs, record.info.get("best_epoch"), texts)
        charts_of_paper(charts, figures, "curves")
        caption = "Accuracy, loss and learning rate by epoch."
        part("Training", [], Picture("curves", caption, PAGE))
    if "learning_curve" in facts and record.tested is not None:
        curve, _ = read_learning_curve(record.run, record.predictions, record.counts["train"], record.tested)
        charts_of_paper([learning_curve_chart(curve, texts)], figures, "learning-curve")
        caption = "Accuracy on the test images, with 95 % intervals, by the number of training images."
        part("Number of training images", ["learning_curve"], Picture("learning-curve", caption, COLUMN))
    part("Smaller models", ["small_models"])
    return blocks


def _cell(number: Number) -> str:
    """Per cent with its interval."""
    if not number.n:
        return NONE
    return f"{100 * number.value:.1f} ({100 * number.low:.1f} to {100 * number.high:.1f})"


def _of_classes(record: Record, figures: Path) -> list[Block]:
    metrics, names = record.metrics, record.classes
    wanted = [name for name in names if f"test/recall/{name}" in metrics]
    blocks: list[Block] = []
    if wanted:
        learnt = {name: sum(row["class"] == name and row["split"] == "train" for row in record.rows) for name in wanted}
        rows = []
        for name in wanted:
            recall, precision, f1 = (metrics.get(f"test/{kind}/{name}") for kind in ("recall", "precision", "f1"))
            numbers = [_cell(one) if one else NONE for one in (recall, precision, f1)]
            rows.append([plain(name), f"{learnt[name]:,}", f"{recall.n if recall else 0:,}", *numbers])
        of_kept = " (of the network that is kept)" if record.run.folds else ""
        caption = (
            f"Classes: images to train on{of_kept} and tested, and recall, precision and F1 in per cent with 95 % "
            "intervals."
        )
        header = ["class", "trained on", "tested", "recall, %", "precision, %", "F1, %"]
        blocks.append(Table("classes", caption, header, rows))
        if len(wanted) <= DRAWN:
            intervals_of_paper(
                wanted, [metrics[f"test/recall/{name}"] for name in wanted], "recall, %", figures, "classes"
            )
            blocks.append(Picture("classes", "Recall of each class, with 95 % intervals.", COLUMN))
    confusion_of_paper(confusion_matrix(record.predictions), names, figures)
    caption = (
        "Confusion matrix of the test images: blue is right, orange is wrong; the deeper the colour, the larger the "
        "share of the true class."
    )
    return [*blocks, Picture("confusion", caption, COLUMN if len(names) <= 8 else PAGE)]


def _of_folds(record: Record, figures: Path) -> list[Block]:
    numbers = []
    for one in record.fold_predictions:
        right = one.predicted == one.targets
        numbers.append(share(right, np.ones_like(right), group_codes(one.groups)))
    names = [f"fold {i + 1}" for i in range(len(numbers))]
    rows = [
        [name, f"{number.n:,}", f"{number.groups:,}", _cell(number)]
        for name, number in zip(names, numbers, strict=True)
    ]
    total = record.metrics.get("test/acc")
    if total:
        rows.append(["all", f"{total.n:,}", f"{total.groups:,}", _cell(total)])
    intervals_of_paper(names, numbers, "accuracy, %", figures, "folds")
    caption = (
        "Accuracy of each fold on the images that its network had not learnt from, with 95 % intervals; in the last "
        "line that of all images, whose interval is widened for networks that have learnt from mostly the same images."
    )
    return [Table("folds", caption, ["fold", "images", "groups", "accuracy, %"], rows)]


def _table_of_seeds(repeated: Repeated) -> Table:
    rows = [[str(seed), _cell(_accuracy(record)), _cell(record.metrics["test/macro_f1"])
             if "test/macro_f1" in record.metrics else NONE]
            for seed, record in zip(repeated.seeds, repeated.records, strict=True)]  # fmt: skip
    shares = [_accuracy(record).value for record in repeated.records]
    if len(shares) > 1:
        rows.append(
            ["mean ± standard deviation", f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1):.1f}", ""]
        )
    caption = (
        "Each seed: accuracy and macro F1 on the same test images, with 95 % intervals; the seeds are in their order."
    )
    return Table("seeds", caption, ["seed", "accuracy, %", "macro F1, %"], rows)


# --- Markdown


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}\n"
    if isinstance(block, Paragraph):
        return f"{_markdown_text(block.text)}\n"
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


SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "“": "``", "”": "''", NONE: "--", "—": "---", "±": r"$\pm$",
    "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "-": r"-", "[": r"{[}", "]": r"{]}",
}  # fmt: skip


def latex(text: str) -> str:
    """A text as it is, whatever signs of LaTeX are in it; citations are commands."""
    parts = re.split(f"{CITE}(.*?){ENDCITE}", text)
    escaped = ("".join(SIGNS.get(sign, sign) for sign in part) for part in parts)
    done = "".join(f"~\\cite{{{part}}}" if i % 2 else part for i, part in enumerate(escaped))
    return re.sub(r"(?<=\d) \\%", r"~\\%", done)


def _latex_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"\\subsection{{{latex(block.text)}}}\n"
    if isinstance(block, Paragraph):
        return f"{latex(block.text)}\n"
    if isinstance(block, Picture):
        file = stem_of(Path(FIGURES), block.name, block.width).as_posix()
        return (
            f"\\begin{{figure}}[htbp]\n\\centering\n\\includegraphics[width={block.width}mm]{{{file}}}\n"
            f"\\caption{{{latex(block.caption)}}}\n\\label{{fig:{block.name}}}\n\\end{{figure}}\n"
        )
    columns = "l" + "r" * (len(block.header) - 1)
    header, rows = _latex_row(block.header), [_latex_row(row) for row in block.rows]
    caption = f"\\caption{{{latex(block.caption)}}}\\label{{tab:{block.name}}}"
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


def _cited(text: str) -> list[str]:
    return re.findall(r"\\cite\{(.*?)\}", text)


def document(title: str, text: str) -> str:
    """`paper.tex`: compiles as it stands, with pdfLaTeX, and where other characters are wanted, XeLaTeX or LuaLaTeX."""
    shown = latex(title)
    foreign = sorted({letter for letter in shown + text if ord(letter) > 127})
    known = "\n".join(f"  \\ensurecharacter{{{letter}}}{{{ord(letter):04X}}}" for letter in foreign)
    return DOCUMENT.read_text("utf-8").replace("TITLE", shown).replace("CHARACTERS", known or "  % none")


# --- what is cited


def bibliography(record: Record, keys: Sequence[str]) -> str:
    """The entries of these keys, in their order, and what is not known."""
    entries = {found[1]: found[0] for found in re.finditer(r"^@\w+\{(\w+),\n.*?^\}\n", BIBLIOGRAPHY.read_text("utf-8"),
               re.MULTILINE | re.DOTALL)}  # fmt: skip
    commit = record.info.get("git_commit")
    note = f"  note = {{Git commit {plain(commit)}}}\n" if commit else ""
    entries["imgbench"] = re.sub(
        r",\n  note = \{NOTE\}\n", lambda _: f",\n{note}" if note else "\n", entries["imgbench"]
    )
    lines = ["% What this run used, as far as imgbench knows it. The data set is for the author to cite."]
    name = record.model.get("name")
    if name and architecture(str(name)) is None:
        lines.append(f"% The paper that describes the network {plain(name)} is not known to imgbench: add it.")
    wanted = dict.fromkeys(["imgbench", *keys])
    return "\n".join([*lines, "", *(entries[key] for key in wanted)])
