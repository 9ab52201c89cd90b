"""What a model is worth on its own split, or on images from elsewhere, as a table."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from imgbench.data.corrections import decisions_of
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.read import NAMED
from imgbench.errors import UserError
from imgbench.evaluation.calibration import OperatingPoint, operating_point
from imgbench.evaluation.metrics import describe, describe_accuracy, unmeasured_classes
from imgbench.evaluation.predictions import Predictions
from imgbench.files import write_atomically
from imgbench.inference.acceptance import is_kept
from imgbench.inference.keeping import keep_for_acceptance, training_rows
from imgbench.inference.labelled import columns_of, images_of_folder, images_of_run, notes_on_seen
from imgbench.inference.neighbours import features_of
from imgbench.inference.novelty import has_features
from imgbench.inference.onnx_file import tell_unsure
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Model, Predictor
from imgbench.inspection.record import audit_of, related_to_training
from imgbench.number import Number, read_metrics
from imgbench.report.results import BEFORE_CORRECTIONS, SELECTED_ON_TEST, measure, write_results
from imgbench.report.tested import (
    UNRELATED,
    before_corrections,
    describe_folds,
    describe_unrelated,
    joined_folds,
    unrelated,
    with_unrelated,
)
from imgbench.run import Run

ABOUT = "evaluation.json"
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
    """Measures a run directory, a checkpoint or an exported file on a split of its own, or of another folder.

    Args:
        sensitivity: of two classes, for which a threshold is chosen on the validation images, for either of them.
        allow_seen: go on where images of the other folder were trained on.

    Raises:
        UserError: no model or no images, a class that the model does not know, images that it was trained on, a
            sensitivity that cannot be had, or `output` holds something else.
    """
    of = {"model": str(path.resolve()), "split": split, "data": str(folder.resolve()) if folder else None}
    about = json.dumps(of, indent=1, ensure_ascii=False) + "\n"
    if output is not None:
        _require_free(output, about)
    model = Predictor.load(path).model
    selected_on_test = folder is None and bool(model.provenance.get("selected_on_test"))
    if folder is not None:
        data, notes = images_of_folder(folder, split, model, columns_of(path))
        notes += notes_on_seen(path, data.table, allow_seen)
    else:
        split = "test" if selected_on_test and split == "val" else split  # which is all that it was selected on
        run = Run.open(path)
        if run.folds and split == "test":
            return _of_folds(path, run, output, about, sensitivity)
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
            notes.append(_keep_missing(run, model, unrelated(results["val"], related), data))
        results = with_unrelated(results, related)
    title = f"{path} on the {split} images in {table.root}"
    points: list[OperatingPoint] = []
    if sensitivity is not None:
        points, missing = _operating_points(path, model, results[split], sensitivity, selected_on_test)
        notes += missing
    temperature = _temperature(path)
    before = before_corrections(None, model, data, results[split]) if split == "test" else {}
    metrics = {**measure(results, temperature), **before}
    if output is not None:
        write_atomically(output / ABOUT, about, errors="surrogateescape")
        write_results(output, title, results, selected_on_test, temperature, before)
    return Evaluation(split, title, model.class_names, metrics, left_out, notes, points)


def _require_free(folder: Path, about: str) -> None:
    """The same evaluation is written again over itself, and nothing else overwritten.

    Raises:
        UserError: something else is there.
    """
    file = folder / ABOUT
    found = file.read_text("utf-8", "surrogateescape") if file.is_file() else None
    if found == about:
        return
    taken = [name for name in (ABOUT, "metrics.json", "predictions.csv") if (folder / name).exists()]
    if taken:
        raise UserError(
            f"--output {folder} holds another evaluation, or something else: {taken[0]}. It is not overwritten. "
            "Name another directory."
        )


def _of_folds(path: Path, run: Run, output: Path | None, about: str, sensitivity: float | None) -> Evaluation:
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
    metrics = measure(results, temperature)
    if output is not None:
        write_atomically(output / ABOUT, about, errors="surrogateescape")
        write_results(output, title, results, False, temperature)
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
