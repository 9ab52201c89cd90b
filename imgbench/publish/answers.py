"""What the page says of a picture: classes, doubt, what was looked at, and the training photographs most like it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from imgbench.data.batches import as_images
from imgbench.errors import UserError
from imgbench.evaluation.selective import ERRORS
from imgbench.inference.acceptance import Acceptance
from imgbench.inference.inputs import decode_pixels
from imgbench.inference.keeping import MOST_TRAINING_IMAGES
from imgbench.inference.labelled import images_of_run
from imgbench.inference.neighbours import features_of, features_of_images, nearest
from imgbench.inference.novelty import UNLIKE, Novelty, has_features
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predictor import Model, Predictor
from imgbench.report.catalogue import Texts
from imgbench.report.content import NEIGHBOURS, heat_maps, images_of_rows
from imgbench.report.page import Neighbour, promised
from imgbench.run import Run
from imgbench.stored_config import switched_on

log = logging.getLogger(__name__)

CLASSES = 5  # most probable ones that are shown
# What `predict` calls the reasons, and the names that the catalogue has for them.
DOUBTS = {UNLIKE: "doubt_unlike", "not probable enough": "doubt_probability"}


@dataclass(frozen=True)
class Answer:
    """What is said of one picture; `error` is why nothing else is."""

    name: str
    error: str | None = None
    image: np.ndarray | None = None  # (image_size, image_size, 3) uint8, as the network gets it
    classes: Sequence[tuple[str, float]] = ()  # the most probable, with their probabilities
    doubt: str | None = None  # a name in the catalogue
    heat: np.ndarray | None = None  # (h, w), how much each place speaks for the class
    neighbours: Sequence[Neighbour] = ()


class TrainingImages:
    """The training photographs of a run, at most `MOST_TRAINING_IMAGES` of them, as its network sees them.

    Those that have changed since are left out: a run of somebody else's may name any file of this computer, but
    nobody is shown what it did not learn from.

    Raises:
        UserError: the photographs are not here.
    """

    def __init__(self, run: Run, model: Model) -> None:
        assert has_features(model)
        self.model = model
        self.data, _ = images_of_run(run, "train", model, MOST_TRAINING_IMAGES, unchanged=True)
        self.rows = self.data.rows("train")
        if not len(self.rows):
            raise UserError(f"No image in {self.data.table.root} is what {run.shown} was trained on.")
        self.features = features_of(model, self.data, self.rows)

    def most_like(self, images: Tensor) -> list[list[Neighbour]]:
        """Of each of the images (N, 3, image_size, image_size), the most similar first."""
        found, similarity = nearest(features_of_images(self.model, images), self.features, NEIGHBOURS)
        names, labels = self.data.class_names, self.data.table.labels
        return [
            [
                Neighbour(names[labels[row]], float(alike), pixels)
                for row, alike, pixels in zip(near, similar, images_of_rows(self.data, near), strict=True)
            ]
            for near, similar in zip(self.rows[found], similarity, strict=True)
        ]


def acceptance_of(path: str | Path, model: Model, max_error: float | None) -> tuple[Novelty | None, str]:
    """The rule that calls predictions unsure, or why there is none.

    Without `max_error`, the smallest error that can be promised without leaving most pictures unsure, as in the report.

    Raises:
        UserError: `max_error` cannot be promised.
    """
    if max_error is not None:
        return Acceptance.open(path, model, max_error), ""
    found: list[Acceptance] = []
    reason = ""
    for error in ERRORS:
        try:
            found.append(Acceptance.open(path, model, error))
            reason = f"--max-error {error:g} can be promised, but would leave most pictures unsure."
        except UserError as hindrance:
            reason = str(hindrance)
    chosen = promised([one.selection for one in found])
    if chosen is None:
        return Novelty.of(path, model), reason
    return next(one for one in found if one.selection is chosen), ""


class Classifier:
    """A run, a checkpoint or an ONNX file as what answers a page's visitors.

    Args:
        max_error: as in `predict`; None: as `acceptance_of` chooses.

    Raises:
        UserError: there is no model, or `max_error` cannot be promised.
    """

    def __init__(self, path: str | Path, max_error: float | None = None) -> None:
        predictor = Predictor.load(path)
        self.predictor, self.model = predictor, predictor.model
        self.acceptance, hindrance = acceptance_of(path, self.model, max_error)
        if not isinstance(self.acceptance, Acceptance):
            only = "No picture" if self.acceptance is None else "Only pictures unlike the training images"
            log.info("%s will be called unsure. %s", only, hindrance)
        self.training, self.without_training = self._training(path)

    def _training(self, path: str | Path) -> tuple[TrainingImages | None, str]:
        """The photographs to compare with, or the catalogue's name for the reason why there are none."""
        if isinstance(self.model, OnnxModel):
            return None, "no_neighbours_onnx"
        try:
            run = Run.open(path)
            if not switched_on(run.config, "data.thumbnails"):
                return None, "no_neighbours_private"
            log.info("Looking at the training photographs ...")
            return TrainingImages(run, self.model), ""
        except UserError as error:
            log.info("No training photographs will be shown. %s", error)
            return None, "no_neighbours_gone"

    def answers(self, paths: Sequence[str | Path]) -> list[Answer]:
        """Of files, in their order."""
        found: dict[int, Answer] = {}
        for indices, pixels, errors in decode_pixels(paths, self.predictor.preprocessing):
            found |= {i: Answer(Path(paths[i]).name, reason) for i, reason in errors.items()}
            if indices:
                names = [Path(paths[i]).name for i in indices]
                found |= zip(indices, self._answers_to(names, pixels), strict=True)
        return [found[i] for i in range(len(paths))]

    def _answers_to(self, names: list[str], pixels: np.ndarray) -> Iterator[Answer]:
        images = as_images(pixels)
        values = (self.acceptance or self.model)(images)
        probabilities = values[:, : len(self.predictor.class_names)]
        heat = heat_maps(self.model, images, probabilities.argmax(1))
        neighbours = self.training.most_like(images) if self.training else [[] for _ in names]
        for i, name in enumerate(names):
            doubt = self.acceptance.doubt(values[i]) if self.acceptance else None
            ranked = list(self.predictor.prediction(probabilities[i]).probabilities.items())
            yield Answer(
                name,
                image=pixels[i],
                classes=ranked[:CLASSES],
                doubt=DOUBTS[doubt] if doubt else None,
                heat=heat[i] if i < len(heat) else None,  # of the first only, where it takes long
                neighbours=neighbours[i],
            )


def title_of(path: str | Path, texts: Texts) -> str:
    """What was trained on what; of a file that lies in no run, its name."""
    try:
        config = Run.open(path).config
    except UserError:
        return Path(path).name
    return texts("title", model=config["model_name"], data=config["data_name"])
