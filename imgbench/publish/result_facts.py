"""What a run has recorded of how it was measured and of its results, as sentences for a paper and a checklist."""

import math

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.metrics import confusion_matrix, describe
from imgbench.inference.novelty import FEATURES, novelty_limit_of, read_arrays
from imgbench.inspection.audit import RELATED
from imgbench.inspection.record import FILE as AUDIT
from imgbench.language import counted
from imgbench.number import CROSS_VALIDATED, Number
from imgbench.publish.recorded import METRICS, Fact, Record, cite, listed, percent, plain
from imgbench.report.learning_curve import read_learning_curve
from imgbench.report.study_file import read_study
from imgbench.run import ACCEPTANCE_FILES, FOLDS, LEARNING_CURVE, PREDICTIONS, SUBGROUPS

# The names of `metrics.json`, in the order in which a paper gives them.
MEASURED = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy (mean recall of the classes)",
    "macro_f1": "macro F1 (mean F1 of the classes)",
    "top5_acc": "top-5 accuracy",
    "auroc": "AUROC (each class against the rest, mean of the classes)",
    "ap": "average precision (each class against the rest, mean of the classes)",
    "ece": "expected calibration error",
    "brier": "Brier score",
}
ITSELF = "teacher"  # how a study calls the network that smaller ones are made of


def measures(record: Record) -> Fact | None:
    names = [words for name, words in MEASURED.items() if f"test/{name}" in record.metrics]
    if not names:
        return None
    text = f"On the test images were measured: {listed(names)}"
    text += ", and recall, precision, specificity and F1 of each class" if _by_class(record) else ""
    cited = (
        f" The calibration error has 15 bins of equal width{cite('calibration')}."
        if "test/ece" in record.metrics
        else ""
    )
    return Fact(f"{text}.{cited}", METRICS)


def _by_class(record: Record) -> bool:
    return any(name.startswith("test/recall/") for name in record.metrics)


def interval(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    text = f"Each number has a 95 % interval. That of a proportion of independent images is Wilson's{cite('wilson')}."
    grouped = record.tested.groups < record.tested.n
    others = "Means over classes or images" + (", and proportions of images in groups," if grouped else "")
    text += (
        f" {others} have Wilson's interval for the number of independent images that would have the variance "
        f"observed{cite('korn')}."
    )
    if "test/ece" in record.metrics:
        text += " That of the calibration error takes into account what chance alone makes of it."
    if record.run.folds:
        text += (
            f" All are {CROSS_VALIDATED:g} times as wide as those of independent answers, since the networks of a "
            "cross-validation have learnt from mostly the same images."
        )
    return Fact(text, METRICS)


def baselines(record: Record) -> Fact | None:
    parts, file = [], METRICS
    if majority := record.metrics.get("test/majority"):
        parts.append(
            f"Always answering “{plain(majority.of_class)}” is right in {percent(majority.value)} of the test images."
        )
    if record.audit and record.audit.shortcuts:
        file = f"{METRICS}, {AUDIT}"
        probes = [f"{plain(name)} {percent(number.value)}" for name, number in record.audit.shortcuts.items()]
        parts.append(f"Probes that see only one cue reach, cross-validated: {', '.join(probes)}.")
    return Fact(" ".join(parts), file) if parts else None


def accuracy(record: Record) -> Fact:
    if record.tested is None:
        return Fact("No accuracy of test images was recorded.", METRICS, met=False)
    start = "By cross-validation, the accuracy" if record.run.folds else "The accuracy on the test images"
    text = f"{start} is {describe(record.tested)}."
    if unrelated := record.metrics.get("test_unrelated/acc"):
        text += f" Without images that have {RELATED}, it is {describe(unrelated)}."
    return Fact(text, METRICS)


def further_measures(record: Record) -> Fact | None:
    names = ("balanced_acc", "macro_f1", "top5_acc", "auroc", "ap")
    parts = [f"{MEASURED[name].partition(' (')[0]} {describe(number)}" for name in names
             if (number := record.metrics.get(f"test/{name}"))]  # fmt: skip
    return Fact(f"Further measures: {'; '.join(parts)}.", METRICS) if parts else None


def calibration(record: Record) -> Fact | None:
    error, brier = record.metrics.get("test/ece"), record.metrics.get("test/brier")
    if error is None:
        return None
    text = f"The expected calibration error is {describe(error)}."
    text += f" The Brier score is {describe(brier)}." if brier else ""
    temperature, scaled = record.metrics.get("val/temperature"), record.metrics.get("test/ece_scaled")
    if temperature and scaled and not record.run.folds:  # whose networks would each need a temperature of its own
        text += (
            f" With the logits divided by a temperature of {temperature.value:.2f}, fitted on the validation images, "
            f"the calibration error is {describe(scaled)}."
        )
    return Fact(text, METRICS)


def classes(record: Record) -> Fact | None:
    start = "test/recall/"
    recalls = {name.removeprefix(start): number for name, number in record.metrics.items() if name.startswith(start)}
    tested = {name: number for name, number in recalls.items() if number.n}
    if not tested:
        return None
    ends = []
    for choose, as_much in ((min, "as low"), (max, "as high")):
        value = choose(number.value for number in tested.values())
        names = [name for name, number in tested.items() if number.value == value]
        others = f" ({as_much} in {counted(len(names) - 1, 'other class', 'other classes')})" if len(names) > 1 else ""
        ends.append(f"{describe(tested[names[0]])} of “{plain(names[0])}”{others}")
    if len({number.value for number in tested.values()}) == 1:
        text = f"The recall of each class is {percent(next(iter(tested.values())).value)}."
    else:
        text = f"The recall of the classes goes from {' to '.join(ends)}."
    if untested := len(recalls) - len(tested):
        text += f" {counted(untested, 'class has', 'classes have')} no test image, and count in no mean."
    return Fact(text, METRICS)


def subgroups(record: Record) -> Fact | None:
    """The least and the most accurate part by each column, and whether the parts differ by more than chance."""
    if not record.subgroups:
        return None
    parts = []
    for one in record.subgroups:
        (worst, low), *_, (best, high) = one.parts.items()
        found = "differ by more than chance" if one.differ else "are not told apart from chance"
        parts.append(
            f"by “{plain(one.column)}” it goes from {describe(low)} of “{plain(worst)}” to {describe(high)} of "
            f"“{plain(best)}”, and the parts {found} (p = {one.p:.2g})"
        )
    text = f"The accuracy in parts of the test images, by further columns of the table of labels: {'; '.join(parts)}."
    columns = f", corrected for {len(parts)} columns by Holm's method" if len(parts) > 1 else ""
    return Fact(f"{text} The p values are by permutation of groups of images{columns}.", SUBGROUPS)


def failures(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    confusion = confusion_matrix(record.predictions)
    off = confusion * (1 - np.eye(len(confusion), dtype=int))
    wrong = int(off.sum())
    were = "was" if wrong == 1 else "were"
    text = f"{wrong:,} of {counted(int(confusion.sum()), 'test image')} {were} classified wrongly"
    if not wrong:
        return Fact(f"None of {counted(int(confusion.sum()), 'test image')} was classified wrongly.", PREDICTIONS)
    true, predicted = np.unravel_index(int(off.argmax()), off.shape)
    taken = f"“{plain(record.classes[int(true)])}” taken for “{plain(record.classes[int(predicted)])}”"
    if wrong == 1:
        return Fact(f"{text}: {taken}.", PREDICTIONS)
    return Fact(f"{text}; the most frequent mistake was {taken} ({off.max():,}).", PREDICTIONS)


def unsure(record: Record) -> Fact | None:
    """How much has to be left unsure for a promised error, and where that cannot be promised."""
    if not record.selections:
        return None
    kept = [one for one in record.selections if one.threshold is not None]
    others = [percent(one.max_error, 0) for one in record.selections if one.threshold is None]
    parts = [
        f"{percent(one.max_error, 0)} if it answers {describe(one.coverage)} of the validation images" for one in kept
    ]
    text = ""
    if parts:
        text = (
            "With the least sure answers left out, by thresholds chosen on validation images, the share of wrong "
            f"answers is, with 95 % confidence{cite('ltt')}, at most {'; at most '.join(parts)}. "
        )
    if others:
        text += f"An error of at most {listed(others, 'or')} cannot be promised with the validation images at hand."
    return Fact(text.strip(), f"{ACCEPTANCE_FILES[0]}, {PREDICTIONS}")


def novelty(record: Record) -> Fact | None:
    file = record.run.path / FEATURES
    if not file.is_file() or not math.isfinite(limit := novelty_limit_of(kept := read_arrays(file))):
        return None
    beyond = int((kept["distances"] >= limit).sum())
    number = f"{beyond:,} of {counted(len(kept['distances']), 'validation image')}"
    return Fact(
        f"Images are called unlike the training images from a distance of {limit:.4g} between features on; {number} "
        f"{'lies' if beyond == 1 else 'lie'} as far.",
        FEATURES,
    )


def learning_curve(record: Record) -> Fact | None:
    if record.tested is None:
        return None
    curve, _ = read_learning_curve(record.run, record.predictions, record.counts["train"], record.tested)
    points = [f"{images:,}: {describe(number)}" for images, number in curve]
    if len(points) < 2:
        return None
    return Fact(f"The accuracy by the number of training images: {'; '.join(points)}.", LEARNING_CURVE)


def small_models(record: Record) -> Fact | None:
    found = read_study(record.run) or {}
    small = found.get("small")
    if not small or not small.get("rows"):
        return None
    try:
        parts = [
            f"{'the network itself' if row['name'] == ITSELF else plain(row['name'])} {row['size_mb']:.2f} MB, "
            f"{describe(Number.from_dict(row['accuracy']))}"
            for row in small["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{record.run.path / 'study.json'} is damaged: {error!r}. Restore it from a copy.") from error
    target, name = plain(found.get("target", "")), small.get("name")
    if name == ITSELF:
        taken = " No smaller model met it, and the network itself was taken."
    else:
        taken = f" “{plain(name)}” was taken." if name else " None met it."
    return Fact(f"Files of models, with the target {target}: {'; '.join(parts)}.{taken}", "study.json")


def folds(record: Record) -> Fact | None:
    if not record.run.folds:
        return None
    shares = [float((one.predicted == one.targets).mean()) for one in record.fold_predictions]
    text = (
        f"The accuracy of the {len(shares)} folds has the mean {percent(float(np.mean(shares)))} and the standard "
        f"deviation {100 * float(np.std(shares, ddof=1)):.1f} points"
    )
    return Fact(f"{text}.", f"{FOLDS}/*/{PREDICTIONS}")


def model_file(record: Record) -> Fact | None:
    names = [str(path.relative_to(record.run.path)) for path in (record.run.best, record.run.path / "model.onnx")
             if path.is_file()]  # fmt: skip
    if not names:
        return None
    return Fact(f"The trained model was kept: {listed(names)}.", ", ".join(names))


def output(record: Record) -> Fact:
    return Fact(
        "The network answers with a probability for each class; the class is the most probable one.", PREDICTIONS
    )
