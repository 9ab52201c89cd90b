"""What a paper needs of a run: methods and results as Markdown and LaTeX, figures, what is to be cited, checklists."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.figure_style import COLUMN, PAGE
from imgbench.evaluation.metrics import confusion_matrix
from imgbench.evaluation.paper_figures import charts_of_paper, confusion_of_paper, intervals_of_paper
from imgbench.evaluation.plots import Chart
from imgbench.files import write_atomically
from imgbench.number import Number, group_codes, mean_of_runs, share
from imgbench.publish import checklists
from imgbench.publish.paper_facts import facts_of
from imgbench.publish.paper_text import (
    FIGURES,
    NONE,
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    as_latex,
    as_markdown,
    cited,
    document,
    label_of,
)
from imgbench.publish.recorded import INFO, Fact, Record, listed, percent, plain
from imgbench.publish.training_facts import architecture
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, learning_curve_chart, reliability_chart, unsure_chart
from imgbench.report.learning_curve import read_learning_curve
from imgbench.run import PREDICTIONS, Run

BIBLIOGRAPHY = Path(__file__).parent / "templates" / "citations.bib"
FEW = 10  # classes whose confusion matrix is read well at a column's width
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
    texts, pictures = contents(path)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.draw(folder / FIGURES)
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, text)
    return sorted(file for file in folder.rglob("*") if file.is_file())


def contents(path: str | Path) -> tuple[dict[str, str], list[Picture]]:
    """The texts by the names of their files, and the figures.

    Raises:
        UserError: as of `write_paper`, of the run or the sweep.
    """
    repeated = _repeated(Path(path))
    record = repeated.records[0] if repeated else Record(Run.open(path))
    facts = facts_of(record) | (_facts_of_seeds(repeated) if repeated else {})
    parts = {"methods": methods(facts), "results": results(record, facts, repeated)}
    texts = {f"{name}.md": as_markdown(blocks) for name, blocks in parts.items()}
    sources = {f"{name}.tex": as_latex(blocks) for name, blocks in parts.items()}
    source, title = "".join(sources.values()), _title(record)
    texts |= sources
    texts["paper.tex"] = document(title, source)
    texts["CITATION.bib"] = bibliography(record, cited(source))
    for name in checklists.NAMES:
        texts[f"checklists/{name}.md"] = checklists.as_markdown(name, facts, title)
        texts[f"checklists/{name}.csv"] = checklists.as_csv(name, facts)
    return texts, [block for blocks in parts.values() for block in blocks if isinstance(block, Picture)]


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


def results(record: Record, facts: Mapping[str, Fact], repeated: Repeated | None) -> list[Block]:
    """What was measured, with tables and figures."""
    blocks: list[Block] = []

    def part(heading: str, names: Sequence[str], *further: Block) -> None:
        said = [facts[name].text for name in names if name in facts]
        labels = [label_of(block) for block in further if isinstance(block, Table | Picture)]
        if said or labels:
            blocks.extend([Heading(heading), Paragraph(" ".join(said), labels), *further])

    texts = Texts("en")
    if repeated:
        part("Seeds", ["seeds"], _table_of_seeds(repeated))
    part("Accuracy", ["accuracy", "selection_on_test", "further_measures", "baselines"])
    if record.run.folds:
        part("Folds", ["folds"], *_of_folds(record))
    if record.tested is not None:
        part("Classes", ["classes", "failures"], *_of_classes(record))
        part("Subgroups", ["subgroups"], *_of_subgroups(record))
        chart = reliability_chart(record.predictions, texts)
        counts = chart.counts and (*chart.counts[:2], "images")
        charts = [replace(chart, x_label="confidence, %", y_label="accuracy, %", counts=counts)]
        caption = "Accuracy against confidence in 15 bins, with 95 % intervals, above the number of test images."
        part("Calibration", ["calibration"], _charts("reliability", caption, COLUMN, charts))
        chart = unsure_chart(record.predictions, texts)
        charts = [replace(chart, x_label="answers left out, %", y_label="errors among the others, %")]
        caption = "The share of wrong answers among the test images that are answered, if the least sure are left out."
        part("Answers left open", ["unsure", "novelty"], _charts("unsure", caption, COLUMN, charts))
    if len(record.epochs) > 1:
        charts = curve_charts(record.epochs, record.info.get("best_epoch"), texts)
        part("Training", ["epochs"], _charts("curves", "Accuracy, loss and learning rate by epoch.", PAGE, charts))
    if "learning_curve" in facts and record.tested is not None:
        curve, _ = read_learning_curve(record.run, record.predictions, record.counts["train"], record.tested)
        caption = "Accuracy on the test images, with 95 % intervals, by the number of training images."
        picture = _charts("learning-curve", caption, COLUMN, [learning_curve_chart(curve, texts)])
        part("Number of training images", ["learning_curve"], picture)
    part("Smaller models", ["small_models"])
    return blocks


def _charts(name: str, caption: str, width: int, charts: Sequence[Chart]) -> Picture:
    return Picture(name, caption, width, lambda folder: charts_of_paper(charts, folder, name))


def _cell(number: Number) -> str:
    """Per cent with its interval."""
    if not number.n:
        return NONE
    return f"{100 * number.value:.1f} ({100 * number.low:.1f} to {100 * number.high:.1f})"


def _of_classes(record: Record) -> list[Block]:
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
            recalls, name = [metrics[f"test/recall/{one}"] for one in wanted], "classes"
            caption = "Recall of each class, with 95 % intervals."
            draw = partial(intervals_of_paper, wanted, recalls, "recall, %", name=name)
            blocks.append(Picture(name, caption, COLUMN, draw))
    caption = (
        "Confusion matrix of the test images: blue is right, orange is wrong; the deeper the colour, the larger the "
        "share of the true class."
    )
    width = COLUMN if len(names) <= FEW else PAGE
    draw = partial(confusion_of_paper, confusion_matrix(record.predictions), names)
    return [*blocks, Picture("confusion", caption, width, draw)]


def _of_subgroups(record: Record) -> list[Block]:
    if not record.subgroups:
        return []
    rows = [
        [f"{plain(one.column)}: {plain(name)}", f"{number.n:,}", f"{number.groups:,}", _cell(number), f"{one.p:.2g}"]
        for one in record.subgroups
        for name, number in one.parts.items()
    ]
    caption = (
        "Parts of the test images, by further columns of the table of labels: accuracy with 95 % intervals, and p that "
        "the parts by a column differ by chance alone, corrected for the number of columns."
    )
    return [Table("subgroups", caption, ["part", "tested", "groups", "accuracy, %", "p"], rows)]


def _of_folds(record: Record) -> list[Block]:
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
    caption = (
        "Accuracy of each fold on the images that its network had not learnt from, with 95 % intervals; in the last "
        "line that of all images, whose interval is widened for networks that have learnt from mostly the same images."
    )
    draw = partial(intervals_of_paper, names, numbers, "accuracy, %", name="folds")
    return [
        Table("folds", caption, ["fold", "images", "groups", "accuracy, %"], rows),
        Picture("folds", "Accuracy of each fold, with 95 % intervals.", COLUMN, draw),
    ]


def _table_of_seeds(repeated: Repeated) -> Table:
    rows = [[str(seed), _cell(_accuracy(record)), _cell(record.metrics["test/macro_f1"])
             if "test/macro_f1" in record.metrics else NONE]
            for seed, record in zip(repeated.seeds, repeated.records, strict=True)]  # fmt: skip
    if len(rows) > 1:
        accuracies = [_accuracy(record) for record in repeated.records]
        scores = [record.metrics.get("test/macro_f1") for record in repeated.records]
        rows.append(["mean ± standard deviation", _mean_and_deviation(accuracies), _mean_and_deviation(scores)])
    caption = (
        "Each seed: accuracy and macro F1 on the same test images, with 95 % intervals; the seeds are in their order."
    )
    return Table("seeds", caption, ["seed", "accuracy, %", "macro F1, %"], rows)


def _mean_and_deviation(numbers: Sequence[Number | None]) -> str:
    """Per cent; nothing where a run lacks the number."""
    values = [100 * number.value for number in numbers if number is not None and number.n]
    if len(values) < len(numbers):
        return NONE
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


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
    lines = ["% What this run used, as far as imgbench knows it."]
    if "digits" not in keys:
        lines.append("% The data set is for the author to cite.")
    name = record.model.get("name")
    if name and architecture(str(name)) is None:
        lines.append(f"% The paper that describes the network {plain(name)} is not known to imgbench: add it.")
    wanted = dict.fromkeys(["imgbench", *keys])
    return "\n".join([*lines, "", *(entries[key] for key in wanted)])
