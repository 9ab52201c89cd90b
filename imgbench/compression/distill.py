"""Another network on a run's images: trained alone, from the run's body, or with the run as its teacher."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from imgbench.compression.lifecycle import weights_file
from imgbench.compression.options import Distill
from imgbench.compression.retrain import fewer_epochs, retrain
from imgbench.experiment.build import plain
from imgbench.experiment.compose import override
from imgbench.models.layers import normalises_batches
from imgbench.run import Run
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier

log = logging.getLogger(__name__)


def train_another(parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose, and else as the parent was trained."""
    retrain(override(parent, words), parent, run)
    return {"words": list(words)}


def distill(method: Distill, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose to answer as the parent does."""
    known = {"temperature": method.temperature, "alpha": method.alpha}
    own = [f"objective.{name}={value}" for name, value in known.items() if value is not None]
    if parent.config["model"].get("pretrained"):  # which takes few epochs, of small steps
        own += ["trainer.max_epochs=null", "optimizer.lr=null"]
    config = override(parent, ["objective=distill", *own, *words])
    if method.unlabelled is not None:
        config.data.unlabelled = str(Path(method.unlabelled).expanduser().resolve())
    config.objective.teacher = str(weights_file(parent).resolve())
    retrain(config, parent, run)
    return {name: config.objective[name] for name in ("teacher", "temperature", "alpha")}


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
        log.info("%s has other layers before its head: the model is trained from new weights", parent.shown)
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
