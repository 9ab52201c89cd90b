"""Training another model as a run was trained: on the same images, with a configuration that follows from the run's."""

import csv
import logging
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from imgbench.compression.methods import weights_file
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.scan import SPLITS
from imgbench.errors import UserError
from imgbench.experiment.build import build_data, plain
from imgbench.experiment.compose import override
from imgbench.experiment.train import run_experiment
from imgbench.models.layers import normalises_batches
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier

log = logging.getLogger(__name__)


def same_images(config: DictConfig, parent: Run) -> ImageFolderDataModule:
    """The data of a configuration, once it is sure that these are the parent's images in the parent's splits.

    Raises:
        UserError: images were added, removed or changed, or are divided otherwise.
    """
    data = build_data(config)
    table = data.table
    own = csv.DictReader(table.csv_lines())
    now = {row["path"]: (row["split"], row["hash"]) for row in own}
    then = {row["path"]: (row["split"], row["hash"]) for split in SPLITS for row in parent.split_rows(split)}
    if now == then:
        return data
    missing, new = then.keys() - now.keys(), now.keys() - then.keys()
    changed = {path for path in then.keys() & now.keys() if then[path] != now[path]}
    raise UserError(
        f"The images in {table.root} are not those of {parent.shown}/split.csv: {len(missing)} are missing, {len(new)} "
        f"are new, {len(changed)} are changed or in another split, for example {min(missing | new | changed)}.\n"
        "A compressed model is trained and tested on the images of its parent, or the two could not be compared. "
        "Restore them, or train the parent again."
    )


def retrain(config: DictConfig, parent: Run, run: Run) -> None:
    """Trains as configured on the parent's images; from the last checkpoint where a training was cut off in `run`.

    Raises:
        UserError: the images or the configuration cannot be used.
    """
    if run.is_finished:
        return
    if run.last.is_file():
        config.ckpt_path = str(run.last.resolve())
    run_experiment(config, run, same_images(config, parent), announce=False)


def reuse(parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose from those of the parent's weights that have a place in it.

    With the whole body in place, a fifth of the parent's epochs is enough, at its own learning rate since the head is
    new. A parent with another body leaves nothing to start from, and the model is trained anew.
    """
    file = weights_file(parent)
    known = load_classifier(file)
    config = override(parent, [f"trainer.max_epochs={fewer_epochs(parent)}", *words])
    if "batch_norm" in config.model:
        config.model.batch_norm = normalises_batches(known.model)
    if _has_body_of(known, config):
        config.init_from = str(file)
    else:
        log.info("%s has another body: the model is trained anew", parent.shown)
        normalised = ["model.batch_norm=true"] if "batch_norm" in config.model else []
        words = [*words, *normalised, "optimizer.lr=null"]
        config = override(parent, words)
    retrain(config, parent, run)
    return {"words": list(words)}


def _has_body_of(classifier: ImageClassifier, config: DictConfig) -> bool:
    """Whether the configured model has the layers before the head in the same shapes."""
    with torch.device("meta"):  # shapes without memory
        arguments = {**classifier.hparams, "model": plain(config.model), "widths": None}
        own = ImageClassifier(**arguments).state_dict()
    known = classifier.state_dict()
    body = [name for name in own if name.startswith("model.features.")]
    return all(name in known and known[name].shape == own[name].shape for name in body)


def fewer_epochs(parent: Run) -> int:
    """A fifth of the parent's, which is enough to mend what is trained already."""
    return max(2, round((parent.config["trainer"]["max_epochs"] or 0) / 5))
