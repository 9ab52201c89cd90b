"""What a trained run is worth: its evaluation, printed and on its page, and that of its model on other images."""

import shlex
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from imgbench.data.corrections import decisions_of
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.labels import further_columns
from imgbench.data.read import NAMED
from imgbench.data.split import TEST
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.evaluation.calibration import OperatingPoint, operating_point
from imgbench.evaluation.metrics import describe, describe_accuracy, unmeasured_classes
from imgbench.evaluation.plots import draw_charts
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.subgroups import Subgroups, subgroups
from imgbench.inference.acceptance import is_kept
from imgbench.inference.keeping import keep_for_acceptance, training_rows
from imgbench.inference.labelled import columns_of, images_of_folder, images_of_run, notes_on_seen
from imgbench.inference.neighbours import features_of
from imgbench.inference.novelty import has_features
from imgbench.inference.onnx_file import tell_unsure
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Model, Predictor
from imgbench.inspection.audit import RELATED, Audit, labels_to_look_at
from imgbench.inspection.findings import counted
from imgbench.inspection.labels import looked_at, suspects_of_predictions
from imgbench.inspection.record import audit_of, related_to_training
from imgbench.models.weights import described_weights
from imgbench.number import Number, group_codes, read_metrics, share
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, read_epochs
from imgbench.report.content import EvaluatedRun, write_report
from imgbench.report.results import BEFORE_CORRECTIONS, SELECTED_ON_TEST, falls_behind, measure, write_results
from imgbench.run import FOLDS, PREDICTIONS, Run
from imgbench.trust import damage_named


def conclude(run: Run, data: ImageFolderDataModule, announce: bool = True) -> None:
    """Evaluates the run's model on its images, draws, prints and reports; nothing where no epoch has ended.

    It can be done again: for a run that was killed after its last epoch.
    """
    if evaluated := evaluate_run(run, data, announce):
        write_report(evaluated)


def evaluate_run(run: Run, data: ImageFolderDataModule, announce: bool = True) -> EvaluatedRun | None:
    """As `conclude`, but for the page, which `write_report` makes of the result; None where no epoch has ended."""
    config = run.config
    title = f"{config['model_name']} on {config['data_name']}"
    best_epoch = None
    if run.best.exists():
        best_epoch = torch.load(run.best, mmap=True, weights_only=True)["epoch"] + 1
        run.note(best_epoch=best_epoch)
    if epochs := read_epochs(run):
        draw_charts(curve_charts(epochs, best_epoch, Texts("en")), run.path / "curves.png", title)
    if run.model is None:
        return None
    model = Predictor.load(run.model).model
    selected_on_test = data.plan.selects_on_test
    splits = ("test",) if selected_on_test else ("test", "val")
    results = {split: predictions_of(run, model, data, split) for split in splits}
    judged = splits[:1] if run.folds else splits  # by cross-validation, all images are among the first
    seen = looked_at(data.table)
    reviews = [suspects_of_predictions(results[split]).without(seen) for split in judged]
    found = audit_of(run)
    related = related_to_training(run, found)
    before = before_corrections(run, model, data, results["test"])
    if not run.folds:  # whose networks, but for the one that is kept, have learnt from no image of the same group
        results = with_unrelated(results, related)
    metrics = write_results(run.path, title, results, selected_on_test, before=before)
    training = features_of(model, data, training_rows(data)) if has_features(model) else None
    validation, distances = None, None
    if not selected_on_test:
        validation = _unrelated(results["val"], related)
        distances = keep_for_acceptance(run.path, model, validation, data, training)
        if isinstance(model, OnnxModel):
            tell_unsure(run)
    parts = _subgroups(results["test"], data.table)
    evaluated = EvaluatedRun(
        run, data, model, results, metrics, selected_on_test, found, reviews, validation, distances, training, parts
    )
    if announce:
        _announce(evaluated)
    return evaluated


def _subgroups(predictions: Predictions, table: ImageTable) -> list[Subgroups]:
    """Of the other columns of a table of labels; none where it is not there any more."""
    try:
        columns = further_columns(table)
    except (UserError, OSError):
        return []
    place = {path: row for row, path in enumerate(table.paths)}
    rows = [place[path] for path in predictions.paths]
    own = {name: [cells[row] for row in rows] for name, cells in columns.items()}
    right, codes = predictions.predicted == predictions.targets, group_codes(predictions.groups)
    return subgroups(right, codes, own, predictions.networks)


def predictions_of(run: Run, model: Model, data: ImageFolderDataModule, split: str) -> Predictions:
    """What the run's model says of the images of a split; of a run that cross-validates, `joined_folds` of test images.

    Raises:
        UserError: as of `joined_folds`.
    """
    return joined_folds(run) if split == "test" and run.folds else predict_split(model, data, split)


def joined_folds(run: Run) -> Predictions:
    """What the networks of a run's cross-validation say, each of the images that it did not learn from.

    Raises:
        UserError: predictions of a fold are missing or damaged.
    """
    parts = []
    for fold in range(run.folds or 0):
        file = run.path / FOLDS / str(fold) / PREDICTIONS
        with damage_named(file):
            parts.append(Predictions.read_csv(file))
    return Predictions.joined(parts)


def describe_folds(run: Run, n: int) -> str | None:
    """What a reader must know of an accuracy by cross-validation; None where it is none."""
    if not run.folds:
        return None
    return (
        f"cross-validated: each of the {n:,} images was tested by one of {run.folds} networks, which learnt from "
        "neither it nor its group; the network that is kept learnt from more images"
    )


def before_corrections(
    run: Run | None, model: Model, data: ImageFolderDataModule, tested: Predictions
) -> dict[str, Number]:
    """The accuracy on all test images with the labels as they were; nothing where no decision is on a test image.

    Of a run that cross-validates, those that were left out have no answer.

    Args:
        run: None: of images from elsewhere.
        tested: what is said of the test images.
    """
    table, decided = data.table, data.table.decided
    if decided is None:
        return {}
    row_of = {path: row for row, path in enumerate(table.paths)}
    if any(path not in row_of for path in tested.paths):
        return {}
    rows = [row_of[path] for path in tested.paths]
    if not (run is not None and run.folds) and (decided.left_out & (decided.splits == TEST)).any():
        before = replace(table, labels=decided.labels, splits=decided.splits, decided=None)
        predictions = predict_split(model, ImageFolderDataModule.of_table(before, data.preprocessing), "test")
    elif np.array_equal(decided.labels[rows], table.labels[rows]):
        return {}
    else:
        predictions = replace(tested, targets=decided.labels[rows].astype(np.int64))
    right = predictions.predicted == predictions.targets
    number = share(right, np.ones_like(right), group_codes(predictions.groups))
    return {BEFORE_CORRECTIONS: number.of_networks(predictions.networks)}


def _announce(evaluated: EvaluatedRun) -> None:
    run, results, metrics, found = evaluated.run, evaluated.results, evaluated.metrics, evaluated.audit
    print(f"\nRun directory  {run.shown}\nTest accuracy  {describe_accuracy(metrics, 'test')}")
    if BEFORE_CORRECTIONS in metrics:
        print(f"Corrections    of test labels; with the labels before them {describe(metrics[BEFORE_CORRECTIONS])}")
    if evaluated.selected_on_test:
        print(f"Note           {SELECTED_ON_TEST}")
    if note := describe_folds(run, len(results["test"].paths)):
        print(f"Note           {note}")
    if falls := falls_behind(metrics, run.folds):
        val, test = metrics["val/acc"], metrics["test/acc"]
        points = f"{100 * falls.value:.1f} points ({100 * falls.low:.1f} to {100 * falls.high:.1f})"
        print(
            f"Note           {points} below the {100 * val.value:.1f} % of {val.n} validation images, more than by "
            f"chance: the {test.n} test images may come from elsewhere"
        )
    if silent := ", ".join(results["test"].never_predicted):
        print(f"Note           the network takes none of the {len(results['test'].paths)} test images for {silent}")
    if UNRELATED in results:
        print(f"Independent    {describe_unrelated(metrics)}")
    elif found and found.leaking.get("test"):
        print(f"Note           every test image has {RELATED}: the accuracy may be too good")
    if found and (shortcuts := describe_shortcuts(found, metrics)):
        print(f"Probes         {shortcuts}")
    for one in evaluated.subgroups:
        if one.differ:
            print(f"Subgroups      {one.sentence}")
    if suspects := labels_to_look_at(found, evaluated.reviews):
        print(f"Labels         {len(suspects)} may be wrong, shown in report.html; the first: {suspects[0].sentence}")
    weights, warnings = described_weights(evaluated.model.provenance)
    if weights:
        print(f"Weights        {weights}")
    for warning in warnings:
        print(f"Note           {warning}")
    place = shlex.quote(str(run.shown))
    print(f"Next           python -m imgbench.evaluate {place}")
    print(f"               python -m imgbench.predict {place} IMAGE...")


UNRELATED = "test_unrelated"  # the test images that are independent of the training images


def with_unrelated(results: dict[str, Predictions], related: Set[str]) -> dict[str, Predictions]:
    """The results; where test images are related to training images, also those on the others alone."""
    if "test" not in results:
        return results
    others = _unrelated(results["test"], related)
    return results | ({UNRELATED: others} if 0 < len(others.paths) < len(results["test"].paths) else {})


def _unrelated(predictions: Predictions, related: Set[str]) -> Predictions:
    return predictions.subset(np.array([path not in related for path in predictions.paths], bool))


def describe_unrelated(metrics: dict[str, Number]) -> str:
    """The accuracy on the test images that are independent of the training images."""
    number = metrics[f"{UNRELATED}/acc"]
    related = metrics["test/acc"].n - number.n
    return f"{describe(number)}, without {counted(related)} with {RELATED}"


def describe_shortcuts(found: Audit, metrics: dict[str, Number]) -> str | None:
    """The accuracies of the audit's probes; None where none is better than the largest class."""
    probes = [f"{name} {100 * number.value:.1f} %" for name, number in found.shortcuts.items()]
    if not probes:
        return None
    return f"{', '.join(probes)} (cross-validated); the network {100 * metrics['test/acc'].value:.1f} %"


# Of what is measured, what a terminal shows; metrics.json and the report have all.
LABELS = {
    "balanced_acc": "balanced accuracy",
    "macro_f1": "macro F1",
    "top5_acc": "top-5 accuracy",
    "auroc": "AUROC",
    "ap": "average precision",
    "ece": "calibration error",
    "ece_scaled": "calibration error with the temperature fitted on validation",
}


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a split, and what a reader must know of it."""

    split: str
    title: str  # the model, and its data
    class_names: list[str]
    metrics: dict[str, Number]
    left_out: list[str]
    notes: list[str]
    points: list[OperatingPoint]  # thresholds for a wanted sensitivity

    def table(self) -> str:
        """The numbers of all images, and a line per class, each with its interval."""
        width = max(len(name) for name in [*self.class_names, "macro F1"])
        split = self.split
        more = len(self.left_out) - NAMED
        lines = [f"Left out: {line}" for line in self.left_out[:NAMED]]
        lines += [f"Left out: {more:,} more"] * (more > 0) + [f"Note: {note}." for note in self.notes]
        lines += [
            self.title,
            f"{split} accuracy  {describe_accuracy(self.metrics, split)}",
            *(
                [f"{split} accuracy of unrelated images  {describe_unrelated(self.metrics)}"]
                if f"{UNRELATED}/acc" in self.metrics
                else []
            ),
            *(
                [f"{split} accuracy before corrections  {describe(self.metrics[BEFORE_CORRECTIONS])}"]
                if BEFORE_CORRECTIONS in self.metrics
                else []
            ),
            *(
                f"{split} {label}  {describe(self.metrics[f'{split}/{name}'])}"
                for name, label in LABELS.items()
                if f"{split}/{name}" in self.metrics
            ),
        ]
        for point in self.points:
            lines.append(
                f"\n{point.class_name} from a probability of {point.threshold:.3f} on, chosen on the validation images "
                f"({point.validation_images} of the class in {point.validation_groups} independent groups)\n"
                f"  sensitivity  {describe(point.sensitivity)}\n  specificity  {describe(point.specificity)}\n"
                f"  precision    {describe(point.precision)}"
            )
        for kind in ("precision", "recall"):
            lines.append(f"\n{kind}")
            lines += [
                f"  {name:<{width}}  {describe(self.metrics[f'{self.split}/{kind}/{name}'])}"
                for name in self.class_names
            ]
        if missing := unmeasured_classes(self.metrics, self.split):
            names = ", ".join(missing)
            lines.append(f"\nNot measured, because there are no images: {names}. Macro F1 is of the other classes.")
        return "\n".join(lines)


def evaluate(
    path: Path,
    split: str,
    folder: Path | None = None,
    output: Path | None = None,
    sensitivity: float | None = None,
    allow_seen: bool = False,
) -> Evaluation:
    """Measures a run directory, a checkpoint or an ONNX file on a split of its own, or of another folder.

    Args:
        sensitivity: of two classes, for which a threshold is chosen on the validation images, for either of them.
        allow_seen: go on where images of the other folder were trained on.

    Raises:
        UserError: no model or no images, a class that the model does not know, images that it was trained on, or a
            sensitivity that cannot be had.
    """
    model = Predictor.load(path).model
    selected_on_test = folder is None and bool(model.provenance.get("selected_on_test"))
    if folder is not None:
        data, notes = images_of_folder(folder, split, model, columns_of(path))
        notes += notes_on_seen(path, data.table, allow_seen)
    else:
        split = "test" if selected_on_test and split == "val" else split  # which is all that it was selected on
        run = Run.open(path)
        if run.folds and split == "test":
            return _of_folds(path, run, output, sensitivity)
        data, notes = images_of_run(run, split, model)
    if selected_on_test:
        notes.append(SELECTED_ON_TEST)
    table = data.table
    left_out = [f"{table.root / path} ({reason})" for path, reason in table.left_out]
    if not len(data.rows(split)):
        raise UserError(f"None of the {len(table.paths)} images in {table.root} can be decoded.")
    results = {split: predict_split(model, data, split)}
    if folder is None:
        run = Run.open(path)
        related = related_to_training(run, audit_of(run))
        if split == "val" and not path.is_file() and not is_kept(run, model):
            # What a run of an earlier imgbench lacks for `predict --max-error`.
            notes.append(_keep_missing(run, model, _unrelated(results["val"], related), data))
        results = with_unrelated(results, related)
    title = f"{path} on the {split} images in {table.root}"
    points: list[OperatingPoint] = []
    if sensitivity is not None:
        points, missing = _operating_points(path, model, results[split], sensitivity, selected_on_test)
        notes += missing
    temperature = _temperature(path)
    before = before_corrections(None, model, data, results[split]) if split == "test" else {}
    if output is None:
        metrics = {**measure(results, temperature), **before}
    else:
        metrics = write_results(output, title, results, selected_on_test, temperature, before)
    return Evaluation(split, title, model.class_names, metrics, left_out, notes, points)


def _of_folds(path: Path, run: Run, output: Path | None, sensitivity: float | None) -> Evaluation:
    """What a run's cross-validation has found; it needs no image.

    Raises:
        UserError: as of `joined_folds`, or a sensitivity is wanted.
    """
    if sensitivity is not None:
        raise UserError(
            f"--sensitivity {sensitivity:g} is of one network and the images that it was tested on, but {path} was "
            "cross-validated. Name other photographs: --data DIR"
        )
    config = run.config["data"]
    decisions = decisions_of(config["root"], config.get("corrections"))
    hashes, predictions = {row["path"]: row["hash"] for row in run.split_rows()}, joined_folds(run)
    names = predictions.class_names
    targets, kept = decisions.relabelled(hashes, predictions.paths, predictions.targets, names)
    predictions = replace(predictions, targets=targets).subset(kept)
    results, temperature = {"test": predictions}, _temperature(path)
    title = f"{path} by cross-validation in {run.folds} folds"
    if output is None:
        metrics = measure(results, temperature)
    else:
        metrics = write_results(output, title, results, False, temperature)
    note = str(describe_folds(run, len(predictions.paths)))
    return Evaluation("test", title, predictions.class_names, metrics, [], [note], [])


def _keep_missing(run: Run, model: Model, validation: Predictions, data: ImageFolderDataModule) -> str:
    """Writes what `predict --max-error` needs; returns a note on that."""
    try:
        train, _ = images_of_run(run, "train", model)
        training = features_of(model, train, training_rows(train)) if has_features(model) else None
        keep_for_acceptance(run.path, model, validation, data, training)
        if isinstance(model, OnnxModel):
            tell_unsure(run)
    except (UserError, OSError) as error:
        return f"nothing could be kept for predict --max-error: {error}"
    return f"kept in {run.shown} for predict --max-error"


def _temperature(path: Path) -> float | None:
    """What was fitted on the validation images of the run that a model lies in; None where it lies alone."""
    try:
        file = Run.open(path).path / "metrics.json"
    except UserError:
        return None
    if not file.is_file():
        return None
    fitted = read_metrics(file).get("val/temperature")
    return None if fitted is None else fitted.value


def _operating_points(
    path: Path, model: Model, predictions: Predictions, sensitivity: float, selected_on_test: bool
) -> tuple[list[OperatingPoint], list[str]]:
    """For each of two classes; and notes on those that have too few validation images.

    Raises:
        UserError: there are not two classes, or no validation images, or the sensitivity is no share.
    """
    option = f"--sensitivity {sensitivity:g}"
    if not 0 < sensitivity < 1:
        raise UserError(f"{option}, but it is the share of a class that is to be found: between 0 and 1.")
    if len(model.class_names) != 2:
        raise UserError(f"{option} is for two classes, but there are {len(model.class_names)}: {model.class_names}")
    if selected_on_test:
        raise UserError(f"{option} needs validation images, but {SELECTED_ON_TEST}.")
    data, _ = images_of_run(Run.open(path), "val", model)
    validation = predict_split(model, data, "val")
    points, notes = [], []
    for i, name in enumerate(model.class_names):
        point = operating_point(validation, predictions, i, sensitivity)
        if point is not None:
            points.append(point)
            continue
        n = int((validation.targets == i).sum())
        most = int(100 * n / (n + 1)) / 100  # rounded down, so that it can be asked for
        notes.append(f"{option} of {name} takes more than its {n} validation images, with which {most} is the most")
    return points, notes
