"""Which predictions of a run can be relied upon: what it keeps of its validation images, and what is made of that."""

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.novelty import FeatureDistribution
from imgbench.evaluation.prediction_sets import PredictionSets
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import (
    ERRORS,
    UNLIKE,
    Selection,
    apart_from,
    checked,
    fewest_images,
    least_error,
    one_of_each_group,
    select,
)
from imgbench.inference.novelty import (
    FEATURES,
    Novelty,
    damaged,
    distribution_of,
    has_features,
    novelty_limit_of,
    read_arrays,
    renewing,
    tells_novelty,
)
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Model
from imgbench.run import ACCEPTANCE_FILES, PREDICTIONS, Run

VALIDATION, TEST = ACCEPTANCE_FILES[0], PREDICTIONS
REMARK = "# weights "  # the first line of the former: the hash of what it was made of


def is_kept(run: Run, model: Model) -> bool:
    """Whether the run has all that `Acceptance.open` reads, made of these weights as far as it says."""
    return _is_there(run, model) and _weights_measured(run) in (None, model.weights)


def _is_there(run: Run, model: Model) -> bool:
    return all((run.path / name).is_file() for name in (VALIDATION, *([FEATURES] if has_features(model) else [])))


def _weights_measured(run: Run) -> str | None:
    """The hash of the weights that `validation.csv` was made of; that of an earlier imgbench does not say it."""
    with (run.path / VALIDATION).open(encoding="utf-8", errors="surrogateescape") as file:
        remark = file.readline()
    return remark.removeprefix(REMARK).strip() if remark.startswith(REMARK) else None


class Acceptance(Novelty):
    """Accepts no more than what can be promised to be seldom wrong."""

    def __init__(self, model: Model, selection: Selection, distribution: FeatureDistribution | None) -> None:
        super().__init__(model, selection.limit, distribution)
        self.selection = selection

    @classmethod
    def open(cls, path: str | Path, model: Model, max_error: float) -> "Acceptance":
        """Chosen by what an ONNX file says itself, or else by what lies in the run that `model` was loaded from.

        Raises:
            UserError: the run has no independent validation images, has not kept what they showed, or they are too few
                or too often wrong to promise `max_error`.
        """
        option = f"--max-error {max_error:g}"
        _require_validation(model, option)
        place, distribution = path, None
        known = _selections_of_file(model) if isinstance(model, OnnxModel) else {}
        selection = known.get(max_error)
        if selection is None:
            run, validation = _kept_validation(path, model, option, known)
            place = run.shown
            if not tells_novelty(model) and has_features(model):
                distribution = distribution_of(read_arrays(run.path / FEATURES), run.path / FEATURES)
            (selection,) = _selections(run, model, validation, [max_error])
        if selection.threshold is None:
            raise UserError(f"{option} cannot be promised for {place}: {_hindrance(selection)}")
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
        tells = self.distribution or tells_novelty(self.model)
        blind = "" if tells else "; pictures unlike them are not recognised, which takes a checkpoint or a new export"
        return (
            f"expected of photographs {kind}: {describe(coverage)} accepted, as of the validation images{blind}\n"
            f"accepted {accepted} of {images}; at most {100 * self.selection.max_error:g} % of the accepted are wrong, "
            f"with 95 % confidence, for photographs {kind}"
        )


def kept_of(run: Run, model: Model) -> tuple[FeatureDistribution | None, dict[str, Any]]:
    """What an ONNX file of the model is to say of unsure answers: the distribution of its features, and metadata.

    `novelty_limit` is the novelty from which a photograph is called unlike the training images where nothing is
    promised. `acceptance` has an entry for each of `ERRORS`: its `threshold` is what the highest probability has to lie
    above and its `limit` what the novelty has to lie below, so that at most a share of `max_error` of such answers is
    wrong. A `threshold` of None says that this cannot be promised, and a `limit` of None that there is none.

    Raises:
        UserError: what the run has kept is damaged.
    """
    own = model.weights
    if not _is_there(run, model) or _weights_measured(run) != own:
        return None, {}
    distribution, facts = None, {}
    if has_features(model):
        kept = read_arrays(run.path / FEATURES)
        if str(kept.get("weights")) != own:
            return None, {}
        distribution = distribution_of(kept, run.path / FEATURES)
        limit = novelty_limit_of(kept)
        facts["novelty_limit"] = limit if math.isfinite(limit) else None
    if not model.provenance.get("selected_on_test") and (validation := _read_predictions(run, VALIDATION, model)).paths:
        facts["acceptance"] = [one.to_dict() for one in _selections(run, model, validation, ERRORS)]
    return distribution, facts


def _selections_of_file(model: OnnxModel) -> dict[float, Selection]:
    """By the error that is promised; nothing of a file of an earlier imgbench.

    Raises:
        UserError: the metadata are damaged.
    """
    try:
        found = [Selection.from_dict(content) for content in model.metadata.get("acceptance", [])]
        return {float(selection.max_error): selection for selection in found}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            "The ONNX file has damaged metadata on what to accept. Write it anew: python -m imgbench.export RUN"
        ) from error


@dataclass(frozen=True)
class Calibration:
    """What a run has kept of its independent validation images: one of each group, which are independent of each other.

    Args:
        distances: (N,) from the training images; None of a model that tells none.
        function: of images, as that of `Novelty`: it tells the same of others.
    """

    run: Run
    validation: Predictions
    distances: np.ndarray | None
    function: Novelty

    @classmethod
    def open(cls, path: str | Path, model: Model, option: str) -> "Calibration":
        """Of the run that `model` was loaded from; `option` is what it is for.

        Raises:
            UserError: it has none, or nothing is known of them.
        """
        _require_validation(model, option)
        if Path(path).is_file() and not _lies_in_a_run(path):
            raise UserError(
                f"{option} takes what a run has kept of its validation images, but {path} lies in no run directory.\n"
                "Name the run that it is of."
            )
        run, validation = _kept_validation(path, model, option)
        rows = one_of_each_group(validation.groups)
        chosen = np.isin(np.arange(len(validation.paths)), rows)
        distances, distribution = None, None
        if has_features(model):
            distances = _read_distances(run, len(validation.paths), _weights_measured(run))[rows]
            if not tells_novelty(model):
                distribution = distribution_of(read_arrays(run.path / FEATURES), run.path / FEATURES)
        return cls(run, validation.subset(chosen), distances, Novelty(model, math.inf, distribution))


def _lies_in_a_run(file: str | Path) -> bool:
    try:
        Run.open(file)
    except UserError:
        return False
    return True


def prediction_sets(path: str | Path, model: Model, coverage: float) -> PredictionSets:
    """By the validation images of the run that `model` was loaded from.

    Raises:
        UserError: as `Acceptance.open`, but however few or often wrong they are.
    """
    option = f"--sets {coverage:g}"
    _require_validation(model, option)
    return PredictionSets.of(_kept_validation(path, model, option)[1], coverage)


def _require_validation(model: Model, option: str) -> None:
    if model.provenance.get("selected_on_test"):
        raise UserError(
            f"{option} takes validation images that are not those of the test, but this model was selected on its "
            "own test images, so that its errors on them promise nothing.\n"
            "Train it with validation images of its own: data.split.val=0.15"
        )


def _kept_validation(
    path: str | Path, model: Model, option: str, known: Iterable[float] = ()
) -> tuple[Run, Predictions]:
    """The run that has kept what is known of the model, and its predictions for validation images: at least one.

    Args:
        known: the errors for which an ONNX file says itself what to accept.

    Raises:
        UserError: it has not, or there is no run.
    """
    try:
        run = Run.open(path)
    except UserError as error:
        if known:
            errors = ", ".join(f"{one:g}" for one in known)
            raise UserError(
                f"{option}: {path} says what to accept for --max-error {errors}. Ask for one of them, or name the run "
                "that it is of."
            ) from error
        raise
    file = Path(path)
    if file.is_file() and not run.is_kept(file):
        raise UserError(f"{option} is known of the epoch kept only, not of {file}. Name the run: {run.shown}")
    if not _is_there(run, model):
        raise UserError(
            f"{option} takes what the run knows of its validation images, but {run.shown} has not kept it.\n"
            f"{renewing(run)}"
        )
    own, measured = model.weights, _weights_measured(run)
    if measured is None and run.best.is_file() and own is not None:  # an earlier imgbench measured the best alone
        from imgbench.training.checkpoint import load_classifier  # needs torch
        from imgbench.training.network import weights_hash

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
    return run, validation


def _selections(run: Run, model: Model, validation: Predictions, errors: Iterable[float]) -> list[Selection]:
    """For each of the errors, by the validation images that the run has kept, and against its test images."""
    distances = np.zeros(len(validation.paths))
    if has_features(model):
        distances = _read_distances(run, len(validation.paths), _weights_measured(run))
    found = [apart_from(select(validation, distances, error), validation, distances) for error in errors]
    if not (run.path / TEST).is_file():
        return found
    test = _read_predictions(run, TEST, model)
    return [checked(selection, test) for selection in found]


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
        f"even without an error, {images} independent validation images promise no less than {100 * least:g} % (about "
        f"3 in {max(images, 1)}).\nAsk for --max-error {least:g} or more, or train with {beyond} "
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


def _read_distances(run: Run, images: int, weights: str | None) -> np.ndarray:
    path = run.path / FEATURES
    kept = read_arrays(path)
    known, distances = str(kept.get("weights", "")), kept.get("distances", np.zeros(0))
    if weights is not None and known not in ("", weights):  # those of an earlier imgbench say nothing
        raise damaged(path, f"it was made of other weights than {VALIDATION}")
    if distances.shape != (images,):
        raise damaged(path, "its arrays do not fit each other")
    return distances
