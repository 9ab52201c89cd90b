"""What a trained run is worth: its evaluation, printed and on its page."""

from imgbench.cells import visible
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.labels import further_columns
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe, describe_accuracy
from imgbench.evaluation.plots import draw_charts
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.subgroups import Subgroups, subgroups, to_json
from imgbench.files import write_atomically
from imgbench.inference.keeping import keep_for_acceptance, training_rows
from imgbench.inference.neighbours import features_of
from imgbench.inference.novelty import has_features
from imgbench.inference.onnx_file import tell_unsure
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Predictor
from imgbench.inspection.audit import RELATED, Audit, labels_to_look_at
from imgbench.inspection.labels import looked_at, suspects_of_predictions
from imgbench.inspection.record import audit_of, related_to_training
from imgbench.models.weights import described_weights
from imgbench.number import Number, group_codes
from imgbench.report.catalogue import Texts
from imgbench.report.charts import curve_charts, read_epochs
from imgbench.report.content import EvaluatedRun, write_report
from imgbench.report.results import BEFORE_CORRECTIONS, SELECTED_ON_TEST, falls_behind, write_results
from imgbench.report.tested import (
    UNRELATED,
    before_corrections,
    describe_folds,
    describe_unrelated,
    predictions_of,
    unrelated,
    with_unrelated,
)
from imgbench.run import SUBGROUPS, Run
from imgbench.training.reading import read_checkpoint


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
        best_epoch = read_checkpoint(run.best)["epoch"] + 1
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
        validation = unrelated(results["val"], related)
        distances = keep_for_acceptance(run.path, model, validation, data, training)
        if isinstance(model, OnnxModel):
            tell_unsure(run)
    parts = _subgroups(results["test"], data.table)
    if parts:
        write_atomically(run.path / SUBGROUPS, to_json(parts), errors="replace")
    else:
        (run.path / SUBGROUPS).unlink(missing_ok=True)
    evaluated = EvaluatedRun(
        run, data, model, results, metrics, selected_on_test, found, reviews, validation, distances, training, parts
    )
    if announce:
        _announce(evaluated)
    return evaluated


def _subgroups(predictions: Predictions, table: ImageTable) -> list[Subgroups]:
    """Of the other columns of a table of labels, and of why people were asked; none where it is not there any more."""
    try:
        columns = further_columns(table)
    except (UserError, OSError):
        columns = {}
    if table.decided is not None and table.decided.by_chance.any():
        columns["asked"] = ["by chance" if chance else "as worth a label" for chance in table.decided.by_chance]
    place = {path: row for row, path in enumerate(table.paths)}
    rows = [place[path] for path in predictions.paths]
    own = {name: [cells[row] for row in rows] for name, cells in columns.items()}
    right, codes = predictions.predicted == predictions.targets, group_codes(predictions.groups)
    return subgroups(right, codes, own, predictions.networks)


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
        number = len(results["test"].paths)
        print(visible(f"Note           the network takes none of the {number} test images for {silent}"))
    if UNRELATED in results:
        print(f"Independent    {describe_unrelated(metrics)}")
    elif found and found.leaking.get("test"):
        print(f"Note           every test image has {RELATED}: the accuracy may be too good")
    if found and (shortcuts := describe_shortcuts(found, metrics)):
        print(f"Probes         {shortcuts}")
    for one in evaluated.subgroups:
        if one.differ:
            print(visible(f"Subgroups      {one.sentence}"))
    if suspects := labels_to_look_at(found, evaluated.reviews):
        first = visible(suspects[0].sentence)
        print(f"Labels         {len(suspects)} may be wrong, shown in report.html; the first: {first}")
    weights, warnings = described_weights(evaluated.model.provenance)
    if weights:
        print(f"Weights        {weights}")
    for warning in warnings:
        print(f"Note           {warning}")


def describe_shortcuts(found: Audit, metrics: dict[str, Number]) -> str | None:
    """The accuracies of the audit's probes; None where none is better than the largest class."""
    probes = [f"{name} {100 * number.value:.1f} %" for name, number in found.shortcuts.items()]
    if not probes:
        return None
    return f"{', '.join(probes)} (cross-validated); the network {100 * metrics['test/acc'].value:.1f} %"
