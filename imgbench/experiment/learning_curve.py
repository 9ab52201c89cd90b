"""What the same training reaches with parts of the training images: would more photographs help?"""

import copy
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.split import NO_SPLIT
from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.evaluation.metrics import classification_metrics
from imgbench.files import write_atomically
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.number import group_codes
from imgbench.run import LEARNING_CURVE, Run

log = logging.getLogger(__name__)

FRACTIONS = (0.125, 0.25, 0.5)
Train = Callable[[DictConfig, Run, ImageFolderDataModule], object]


def measure_learning_curve(config: DictConfig, run: Run, data: ImageFolderDataModule, train: Train) -> bool:
    """Trains on parts of the training images, and leaves what they reach in the run; False if it was interrupted.

    Each part holds the smaller ones; validation and test images stay what they are.

    Args:
        config: the run's own, in which may be open what follows from the number of images.
    """
    config = config.copy()
    config.ckpt_path, config.logger = None, None
    config.report.learning_curve, config.data.audit, config.data.thumbnails = False, False, False
    all_images = len(data.rows("train"))
    points: list[dict[str, Any]] = []
    try:
        for fraction in FRACTIONS:
            part = copy.copy(data)
            part.use(part_of(data.table, fraction, data.seed))
            images = len(part.rows("train"))
            if images in (all_images, *(point["images"] for point in points)):
                continue
            log.info("Learning curve: training on %d of the %d training images", images, all_images)
            with tempfile.TemporaryDirectory(prefix="imgbench-") as folder:
                train(config, Run(Path(folder)), part)
                found = predict_split(Predictor.load(folder).model, part, "test")
            accuracy = classification_metrics(found, "test")["test/acc"]
            wrong = [found.paths[row] for row in np.flatnonzero(found.predicted != found.targets)]
            points.append({"images": images, "test/acc": accuracy.to_dict(), "wrong": wrong})
    except UserError as error:  # too few images of a class for this kind of training
        log.warning("The learning curve ends here: %s", error)
    except KeyboardInterrupt:
        return False
    write_atomically(run.path / LEARNING_CURVE, json.dumps({"points": points}, indent=1, ensure_ascii=False) + "\n")
    return True


def part_of(table: ImageTable, fraction: float, seed: int) -> ImageTable:
    """The table with so large a share of the training images of each class, and at least one of each.

    Images of one group stay together, and what is in a part is in every larger one.
    """
    rows = table.rows("train")
    codes = group_codes([table.groups[row] for row in rows])
    order = np.random.default_rng(seed).permutation(codes.max() + 1)[codes]  # of whole groups
    rows = rows[np.argsort(order, kind="stable")]
    codes = codes[np.argsort(order, kind="stable")]
    labels = table.labels[rows]
    kept: set[int] = set()
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        kept |= set(codes[own[: max(1, round(fraction * len(own)))]].tolist())
    splits = table.splits.copy()
    splits[rows[~np.isin(codes, list(kept))]] = NO_SPLIT
    return replace(table, splits=splits)
