"""What to do next with a finished run: a line for each finding, with the command that acts on it."""

import shlex
from collections.abc import Iterator, Sequence

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.shards import Folder
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import Selection
from imgbench.inspection.audit import Audit, group_column
from imgbench.inspection.findings import PROBE, Finding
from imgbench.inspection.labels import Suspect
from imgbench.number import Number
from imgbench.report.catalogue import Texts
from imgbench.report.page import Advice, percent, promised, weakest_class
from imgbench.report.study_file import read_study
from imgbench.run import LEARNING_CURVE, Run

WIDE = 0.1  # an interval of the accuracy from which on more test images are worth a word
FEW = 2000  # training images, below which a network that knows ImageNet is worth a try
PHOTOGRAPH = 64  # pixels, below which images are unlike those of ImageNet
GOOD = 0.99  # accuracy, from which on more photographs or another network are not worth a word
DIVIDED = ("leak_", "exact_across_splits", "near_across_splits")  # kinds of findings that another division mends


def advice(
    run: Run,
    data: ImageFolderDataModule,
    test: Predictions,
    metrics: dict[str, Number],
    found: Audit | None,
    suspects: Sequence[Suspect],
    selections: Sequence[Selection],
    t: Texts,
) -> list[Advice]:
    """The most important first: what makes the numbers untrue, then what would make them better, then what to do with
    the model."""
    lines: list[Advice] = []
    for finding in found.findings if found else ():
        kept = finding.kind == "aspect" and data.preprocessing.resize != "stretch"  # the proportions are
        if finding.severity != "note" and not finding.kind.startswith(PROBE) and not kept:
            lines.append(_of_finding(run, data, finding, found, t))
    lines += _of_shortcuts(run, found, metrics["test/acc"], t) if found else ()
    lines += _of_labels(run, data, suspects, t)
    lines += _of_numbers(run, data, test, metrics, selections, t)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(lines, key=lambda one: order[one.severity])


def again(run: Run, *words: str) -> str:
    """The command that trains as the run was trained, but for these `key=value` words."""
    return shlex.join(
        ["python", "-m", "imgbench.train", "--config-dir", str(run.shown), "--config-name", "config", *words]
    )


def command(name: str, run: Run, *words: str) -> str:
    """A command that reads the run."""
    return shlex.join(["python", "-m", f"imgbench.{name}", str(run.shown), *words])


def _of_finding(run: Run, data: ImageFolderDataModule, finding: Finding, found: Audit | None, t: Texts) -> Advice:
    kind, line = finding.kind, again(run).replace("imgbench.train", "imgbench.audit")
    if kind.startswith(DIVIDED):
        grouped = "data.columns.group=null" if group_column(data.table) else "data.split.group=auto"
        line = again(run, "data.split.leaks=drop" if data.table.folder_splits else grouped)
    elif kind == "family" and found and found.proposal and not data.table.folder_splits:
        line = again(run, f"data.split.group={found.proposal['group']}")
    elif kind == "imbalance":
        line = again(run, "objective.class_weights=balanced")
    elif kind == "aspect":
        line = again(run, "data.resize=pad")
    key = f"found_{kind}"
    text = t(key, message=finding.message, n=finding.count) if t.has(key) else finding.message
    return Advice(text, line, finding.severity, finding.examples)


def _of_shortcuts(run: Run, found: Audit, accuracy: Number, t: Texts) -> Iterator[Advice]:
    """What is told without the subject, where that is much, or about as much as the network tells."""
    warned = {finding.kind for finding in found.findings if finding.severity != "note"}
    for name, number in found.shortcuts.items():
        if f"{PROBE}{name}" in warned or number.value >= accuracy.low:
            value, own = percent(number.value), percent(accuracy.value)
            text = t("shortcut", cue=cue(name, t), value=value, accuracy=own)
            yield Advice(text, f"{command('evaluate', run)} --data OTHER_PHOTOGRAPHS", "warning")


def cue(name: str, t: Texts) -> str:
    """What a probe of the audit looks at."""
    key = f"cue_{name.replace(' ', '_')}"
    return t(key) if t.has(key) else name


def _of_labels(run: Run, data: ImageFolderDataModule, suspects: Sequence[Suspect], t: Texts) -> Iterator[Advice]:
    if suspects:
        first = suspects[0]
        text = t("advise_labels", n=len(suspects), path=first.path, label=first.label, likelier=first.likelier)
        in_files = isinstance(data.table.source, Folder)  # of shards, no command reads a single image
        yield Advice(text, command("predict", run, str(data.table.root / first.path)) if in_files else "", "warning")


def _of_numbers(
    run: Run,
    data: ImageFolderDataModule,
    test: Predictions,
    metrics: dict[str, Number],
    selections: Sequence[Selection],
    t: Texts,
) -> Iterator[Advice]:
    config, accuracy = run.config, metrics["test/acc"]
    images = len(data.rows("train"))
    compared = {one["name"] for one in run.info.get("compared", ()) if one["accuracy"]}  # by a comparison of networks
    from_scratch = not config["model"].get("pretrained") and not config.get("init_from")
    if weakest := weakest_class(test):
        label, share = weakest
        name, counts = test.class_names[label], data.class_counts()
        yield Advice(
            t(
                "advise_class",
                name=name,
                hits=share.hits,
                n=share.n,
                train=int(counts[label]),
                folder=_folder_of(data, label),
            ),
            again(run),
        )
    untried = from_scratch and "pretrained" not in compared
    if untried and images < FEW and data.preprocessing.image_size >= PHOTOGRAPH and accuracy.value < GOOD:
        yield Advice(t("advise_pretrained", n=images), again(run, "model=pretrained"))
    width = accuracy.high - accuracy.low
    if width > WIDE and not data.table.folder_splits and not config["data"]["split"].get("folds"):
        text = t("advise_test", n=accuracy.n, width=f"{100 * width:.0f}")
        yield Advice(text, again(run, "data.split.folds=5"))
    if kept := promised(selections):
        text = t("advise_unsure", error=percent(kept.max_error, 0), share=percent(kept.coverage.value, 0))
        yield Advice(text, f"{command('predict', run)} PHOTOGRAPHS --max-error {kept.max_error:g}")
    if run.folds:  # no image is left to test a smaller model or a part of the images on
        return
    if not run.info.get("compressed_from") and read_study(run) is None:  # which has made it smaller already
        if config["model"]["_target_"].endswith("pooled_features"):
            yield Advice(t("advise_distill"), command("compress", run, "distill", "model=compact"))
        else:
            yield Advice(t("advise_compress"), command("compress", run, "prune", "--target", "drop<=1pt"))
    if not (run.path / LEARNING_CURVE).is_file() and accuracy.value < GOOD:
        yield Advice(t("advise_curve"), again(run, "report.learning_curve=true"))


def _folder_of(data: ImageFolderDataModule, label: int) -> str:
    """Where the training images of a class lie."""
    table = data.table
    rows = data.rows("train")
    first = table.paths[rows[table.labels[rows] == label][0]] if (table.labels[rows] == label).any() else ""
    return str((table.root / first).parent) if first else str(table.root / table.class_names[label])
