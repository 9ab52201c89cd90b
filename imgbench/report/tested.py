"""Which test images the numbers are of: those of cross-validation, unrelated ones, and those before corrections."""

from collections.abc import Set
from dataclasses import replace

import numpy as np

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import TEST
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.predictions import Predictions
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Model
from imgbench.inspection.audit import RELATED
from imgbench.language import counted
from imgbench.number import Number, group_codes, share
from imgbench.report.results import BEFORE_CORRECTIONS
from imgbench.run import FOLDS, PREDICTIONS, Run
from imgbench.trust import damage_named

UNRELATED = "test_unrelated"  # the test images that are independent of the training images


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


def with_unrelated(results: dict[str, Predictions], related: Set[str]) -> dict[str, Predictions]:
    """The results; where test images are related to training images, also those on the others alone."""
    if "test" not in results:
        return results
    others = unrelated(results["test"], related)
    return results | ({UNRELATED: others} if 0 < len(others.paths) < len(results["test"].paths) else {})


def unrelated(predictions: Predictions, related: Set[str]) -> Predictions:
    """Those of images that are not among the paths `related`."""
    return predictions.subset(np.array([path not in related for path in predictions.paths], bool))


def describe_unrelated(metrics: dict[str, Number]) -> str:
    """The accuracy on the test images that are independent of the training images."""
    number = metrics[f"{UNRELATED}/acc"]
    related = metrics["test/acc"].n - number.n
    return f"{describe(number)}, without {counted(related)} with {RELATED}"
