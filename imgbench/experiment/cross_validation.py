"""Cross-validation within one run: each image is tested by a network that learnt from neither it nor its group."""

import logging
import shutil
from contextlib import nullcontext

from omegaconf import DictConfig

from imgbench.budget import Budget
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.experiment.check import cross_validates
from imgbench.experiment.choose import fingerprint, train_best
from imgbench.experiment.compose import storable
from imgbench.experiment.train import Conclude
from imgbench.files import write_atomically
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Predictor
from imgbench.progress import FACTS, quiet
from imgbench.run import FOLDS, PREDICTIONS, Run

log = logging.getLogger(__name__)

NOT_OF_A_FOLD = ("checkpoints", "candidates")  # what a fold leaves that nobody asks for any more


def train_and_test(config: DictConfig, run: Run, conclude: Conclude, budget: Budget | None = None) -> float | None:
    """As `train_best`; where the configuration cross-validates, a network for each fold is trained before.

    The choice among several networks is made anew in each fold. Each training has the same share of the minutes.

    Raises:
        UserError: as of `train_best`.
        KeyboardInterrupt: training was interrupted; what is finished of the folds is not trained again.
    """
    if not cross_validates(config):
        return train_best(config, run, conclude, budget=budget)
    budget = budget or Budget.from_now(config.budget)
    if config.ckpt_path is None:
        run.path.mkdir(parents=True, exist_ok=True)
        run.forget_all(FOLDS, "candidates")
        run.write_config(storable(config))  # from which an interrupted cross-validation goes on
    folds = int(config.data.split.folds)
    for fold in range(folds):
        part = config.copy()
        part.data.split.fold, part.data.audit, part.data.thumbnails = fold, False, False
        part.ckpt_path, part.logger = None, None
        own = Run(run.path / FOLDS / str(fold))
        with quiet(*FACTS) if fold else nullcontext():
            if own.status == "finished" and own.holds(fingerprint(part)) and (own.path / PREDICTIONS).is_file():
                continue
            own.path.mkdir(parents=True, exist_ok=True)
            log.info("\nFold %d of %d:", fold + 1, folds)
            train_best(part, own, _keep_predictions, budget=budget.part(1 / (folds + 1 - fold)))
        for name in NOT_OF_A_FOLD:
            shutil.rmtree(own.path / name, ignore_errors=True)
    log.info("\nThe network that is kept, which learns from all images but those that it is chosen by:")
    with quiet(*FACTS):
        return train_best(config, run, conclude, budget=budget)


def _keep_predictions(run: Run, data: ImageFolderDataModule) -> None:
    predictions = predict_split(Predictor.load(run.best).model, data, "test")
    write_atomically(run.path / PREDICTIONS, predictions.to_csv(), errors="surrogateescape")
    right = int((predictions.predicted == predictions.targets).sum())
    log.info("Right in %d of the %d images of this fold.", right, len(predictions.paths))
