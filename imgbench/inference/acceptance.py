"""Which predictions of a run can be relied upon: what it keeps of its validation images, and what is made of that."""

import math
import shlex
from pathlib import Path

import numpy as np

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import (
    UNLIKE,
    Selection,
    checked,
    fewest_images,
    least_error,
    novelty_limit,
    one_of_each_group,
    select,
)
from imgbench.files import replacing, write_atomically
from imgbench.inference.neighbours import features_of
from imgbench.inference.novelty import FEATURES, Novelty, damaged, distribution_of, has_features, read_arrays, renewing
from imgbench.inference.onnx_file import weights_hash
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Model
from imgbench.inference.torch_model import TorchModel
from imgbench.run import ACCEPTANCE_FILES, PREDICTIONS, Run
from imgbench.training.checkpoint import load_classifier

VALIDATION, TEST = ACCEPTANCE_FILES[0], PREDICTIONS
REMARK = "# weights "  # the first line of the former: the hash of what it was made of
MOST_TRAINING_IMAGES = 2000  # more of them hardly change a distribution of a few hundred features


def is_kept(run: Run, model: Model) -> bool:
    """Whether the run has all that `Acceptance.open` reads, made of these weights as far as it says."""
    return _is_there(run, model) and _weights_measured(run) in (None, _weights_of(model))


def _is_there(run: Run, model: Model) -> bool:
    return all((run.path / name).is_file() for name in (VALIDATION, *([FEATURES] if has_features(model) else [])))


def _weights_of(model: Model) -> str | None:
    """The hash of a model's weights; an ONNX file of an earlier imgbench does not say it."""
    if isinstance(model, OnnxModel):
        return model.metadata.get("weights")
    return weights_hash(model.classifier) if isinstance(model, TorchModel) else None


def _weights_measured(run: Run) -> str | None:
    """The hash of the weights that `validation.csv` was made of; that of an earlier imgbench does not say it."""
    with (run.path / VALIDATION).open(encoding="utf-8", errors="surrogateescape") as file:
        remark = file.readline()
    return remark.removeprefix(REMARK).strip() if remark.startswith(REMARK) else None


def keep_for_acceptance(
    folder: Path, model: Model, validation: Predictions, val: ImageFolderDataModule, training: np.ndarray | None
) -> np.ndarray:
    """Writes `validation.csv` and, of a network that has features, `features.npz`.

    Args:
        validation: the predictions for those validation images of `val` that are independent of the training images.
        training: (N, D) features of training images; None where the model has none.

    Returns:
        (number of validation images,) their distances from the training images, 0 without features.
    """
    weights = _weights_of(model) or ""
    write_atomically(folder / VALIDATION, validation.to_csv(weights and f"weights {weights}"), errors="surrogateescape")
    if training is None or not has_features(model):
        return np.zeros(len(validation.paths))
    distribution = FeatureDistribution.of(training)
    independent = np.isin([val.table.paths[row] for row in val.rows("val")], validation.paths)
    distances = distribution.distances(features_of(model, val, val.rows("val"))[independent]).astype(np.float32)
    limit = novelty_limit(distances[one_of_each_group(validation.groups)])
    with replacing(folder / FEATURES, "wb") as unfinished:
        np.savez(unfinished, **vars(distribution), distances=distances, limit=limit, weights=np.array(weights))
    return distances


def training_rows(data: ImageFolderDataModule) -> np.ndarray:
    """The rows of the training images whose features are compared with: at most `MOST_TRAINING_IMAGES` of them."""
    rows = data.rows("train")
    if len(rows) <= MOST_TRAINING_IMAGES:
        return rows
    return np.sort(np.random.default_rng(data.seed).permutation(rows)[:MOST_TRAINING_IMAGES])


class Acceptance(Novelty):
    """Accepts no more than what can be promised to be seldom wrong."""

    def __init__(self, model: Model, selection: Selection, distribution: FeatureDistribution | None) -> None:
        super().__init__(model, selection.limit, distribution)
        self.selection = selection

    @classmethod
    def open(cls, path: str | Path, model: Model, max_error: float) -> "Acceptance":
        """Chosen by what lies in the run that `model` was loaded from.

        Raises:
            UserError: the run has no independent validation images, has not kept what they showed, or they are too few
                or too often wrong to promise `max_error`.
        """
        option = f"--max-error {max_error:g}"
        if model.provenance.get("selected_on_test"):
            raise UserError(
                f"{option} takes validation images that are not those of the test, but this model was selected on its "
                "own test images, so that its errors on them promise nothing.\n"
                "Train it with validation images of its own: data.split.val=0.15"
            )
        run = Run.open(path)
        file = Path(path)
        if file.is_file() and file.resolve() not in (run.best.resolve(), (run.path / "model.onnx").resolve()):
            raise UserError(f"{option} is known of the epoch kept only, not of {file}. Name the run: {run.shown}")
        if not _is_there(run, model):
            raise UserError(
                f"{option} takes what the run knows of its validation images, but {run.shown} has not kept it.\n"
                f"{renewing(run)}"
            )
        own, measured = _weights_of(model), _weights_measured(run)
        if measured is None and run.best.is_file() and own is not None:  # an earlier imgbench measured the best alone
            measured = weights_hash(load_classifier(run.best))
        if measured not in (None, own):
            raise UserError(
                f"{option} is known of what was measured only, but {file} was made of other weights than "
                f"{run.path / VALIDATION}.\nAn ONNX file is exported anew by: python -m imgbench.export "
                f"{shlex.quote(str(run.shown))}\n{renewing(run)}"
            )
        validation = _read_predictions(run, VALIDATION, model)
        if not validation.paths:
            raise UserError(
                f"{option} cannot be promised for {run.shown}: every validation image looks like a training image "
                "or belongs to its group.\n"
                "Divide the images again: data.split.group=auto keeps images that look alike, and groups, on one side."
            )
        distribution, distances = None, np.zeros(len(validation.paths))
        if has_features(model):
            distribution, distances = _read_features(run, len(validation.paths), _weights_measured(run))
        selection = select(validation, distances, max_error)
        if (run.path / TEST).is_file():
            selection = checked(selection, _read_predictions(run, TEST, model))
        if selection.threshold is None:
            raise UserError(f"{option} cannot be promised for {run.shown}: {_hindrance(selection)}")
        return cls(model, selection, distribution)

    def doubt(self, row: np.ndarray) -> str | None:
        assert self.selection.threshold is not None
        return super().doubt(row) or (None if row[:-1].max() > self.selection.threshold else "not probable enough")

    def promise(self, accepted: int, images: int) -> str:
        """What is known of the accepted ones of so many images, and what share of further images will be."""
        coverage = self.selection.coverage
        kind = "like those it was trained on"
        if coverage.groups < coverage.n:
            kind += ", but of new groups"
        blind = "" if self.distribution else "; pictures unlike them are not recognised, which takes a checkpoint"
        return (
            f"expected of photographs {kind}: {describe(coverage)} accepted, as of the validation images{blind}\n"
            f"accepted {accepted} of {images}; at most {100 * self.selection.max_error:g} % of the accepted are wrong, "
            f"with 95 % confidence, for photographs {kind}"
        )


def _hindrance(selection: Selection) -> str:
    """Why there is no threshold, and what would help."""
    if selection.refuted:
        errors, accepted = selection.refuted
        return (
            f"of the {accepted} independent test images that it would accept, {errors} are predicted wrongly "
            f"({100 * errors / accepted:.0f} %), more than chance explains: its test images are unlike its validation "
            "images.\nAsk for a larger --max-error, or take validation images that are like the photographs to come."
        )
    images, needed = selection.images, fewest_images(selection.max_error)
    if images >= needed:
        return (
            f"of the {selection.surest} validation images that it is surest of, {selection.errors} are predicted "
            "wrongly, which is too many.\nAsk for a larger --max-error, or train a better model."
        )
    least = math.ceil(1000 * least_error(images)) / 1000  # rounded up, so that it can be asked for
    beyond = math.ceil(needed / (1 - UNLIKE)) + 1
    return (
        f"even without an error, {images} independent validation images promise at most {100 * least:g} % (about 3 in "
        f"{max(images, 1)}); it takes {needed}.\nAsk for --max-error {least:g} or more, or train with {beyond} "
        f"independent validation images or more: data.split.val={beyond}"
    )


def _read_predictions(run: Run, name: str, model: Model) -> Predictions:
    path = run.path / name
    try:
        found = Predictions.read_csv(path)
        if found.class_names != model.class_names:
            raise ValueError(f"its classes are {found.class_names}")
    except (ValueError, IndexError, StopIteration, OSError) as error:
        raise damaged(path, error) from error
    return found


def _read_features(run: Run, images: int, weights: str | None) -> tuple[FeatureDistribution, np.ndarray]:
    path = run.path / FEATURES
    kept = read_arrays(path)
    known, distances = str(kept.get("weights", "")), kept.get("distances", np.zeros(0))
    if weights is not None and known not in ("", weights):  # those of an earlier imgbench say nothing
        raise damaged(path, f"it was made of other weights than {VALIDATION}")
    if distances.shape != (images,):
        raise damaged(path, "its arrays do not fit each other")
    return distribution_of(kept, path), distances
