"""What can be found wrong with a configuration at once: before torch is imported, which takes seconds."""

import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from imgbench.data.columns import AUTO
from imgbench.data.shard_index import check_root
from imgbench.data.split import number_of_folds
from imgbench.errors import UserError
from imgbench.experiment.compose import choices, is_open, renamed
from imgbench.language import KINDS
from imgbench.preprocessing import Preprocessing
from imgbench.run import Run
from imgbench.split_file import cross_validating

WHOLE, REAL = (int,), (int, float)
# Of the numbers that are set most often, their types and, where libraries fail late beyond, their ranges.
NUMBERS: Mapping[str, tuple[tuple[type, ...], float, float]] = {
    "seed": (WHOLE, 0, 2**32 - 1),
    "budget": (REAL, 0, 1e9),
    "data.image_size": (WHOLE, 1, 8192),
    "data.batch_size": (WHOLE, 1, 1_000_000),
    "data.num_classes": (WHOLE, 1, 1_000_000),
    "optimizer.lr": (REAL, 0, 1e6),
    "optimizer.weight_decay": (REAL, 0, 1e6),
    "objective.label_smoothing": (REAL, 0, 1),
    "trainer.max_epochs": (WHOLE, -1, 1e9),
    "callbacks.best.standard_errors": (REAL, 0, 1e6),
    "callbacks.early_stopping.patience": (WHOLE, 0, 1e9),
    "median_stopping.startup_runs": (WHOLE, 1, 1_000_000),
    "median_stopping.warmup": (REAL, 0, 1),
    "fast.threads": (WHOLE, 1, 10_000),
}


def check_at_once(config: DictConfig) -> None:
    """Raises:
    UserError: a number is none or out of its range, a candidate of model=auto is none, a file to start from is
        missing, or the images' folder is no folder of classes.
    """
    if OmegaConf.is_dict(config.model) and is_open(config):
        check_comparison(config)
    check_numbers(config)
    check_folds(config)
    for name in ("ckpt_path", "init_from"):
        path = config.get(name)
        if path is not None and not Path(path).is_file():
            if name == "ckpt_path":
                raise UserError(f"ckpt_path={path} does not exist. Resume from a run's checkpoints/last.ckpt.")
            Run.open(path)
    if not OmegaConf.is_dict(config.data):  # said where all nodes are looked at
        return
    if OmegaConf.is_missing(config.data, "root"):
        raise UserError("data.root is not set. Point it at your photographs: data=folder data.root=/my/photos")
    if config.data.get("root") is not None:
        check_root(config.data.root, labels=config.data.get("labels", AUTO), corrections=config.data.get("corrections"))


def check_folds(config: DictConfig) -> None:
    """Raises:
    UserError: `data.split.folds` is no number of parts, or something is asked for that takes images to test on.
    """
    if not cross_validates(config):
        return
    folds = number_of_folds(config.data.split.folds)
    if OmegaConf.select(config, "report.learning_curve"):
        raise UserError(
            f"report.learning_curve=true measures on test images, but with data.split.folds={folds} none are left. "
            "Leave one of the two out."
        )
    if config.trainer.devices not in (1, "auto", "1"):
        raise UserError(
            f"trainer.devices={config.trainer.devices}: cross-validation trains on one device. Set trainer.devices=1, "
            "or train the folds one by one: data.split.fold=0"
        )


def cross_validates(config: DictConfig) -> bool:
    """Whether every image is to be tested on, by one network for each of `data.split.folds`."""
    return cross_validating(OmegaConf.select(config, "data.split") or {}) is not None


def check_numbers(config: DictConfig) -> None:
    """Raises:
    UserError: an entry of NUMBERS is of another type, or out of its range, or `data.resize` is none.
    """
    size = OmegaConf.select(config, "data.batch_size")
    if isinstance(size, str) and (size != "auto" or config.trainer.devices != 1):
        raise UserError(
            f"data.batch_size={size}, but it should be a whole number"
            f"{', or auto' if size != 'auto' else ': only a single process can find out what fits'}."
        )
    for name, (types, low, high) in NUMBERS.items():
        value = OmegaConf.select(config, name)
        if value is None or (name, value) == ("data.batch_size", "auto"):
            continue
        if type(value) not in types:
            shown = f"{value!r}" if "." not in name else value
            null = " or null" if name == "fast.threads" else ""
            raise UserError(f"{name}={shown}, but it should be {KINDS[types[-1]]}{null}.")
        if not low <= value <= high:
            raise UserError(f"{name}={value}, but it should be {low} to {high:g}.")
    if OmegaConf.is_dict(config.data):
        if "short_side" in config.data:  # of a file of one's own; those of earlier runs are read with `resize`
            raise UserError(renamed("data.short_side"))
        _ = Preprocessing(config.data.get("image_size") or 1, config.data.get("resize", "stretch"))


def check_comparison(config: DictConfig) -> list[str]:
    """The candidates of model=auto.

    Raises:
        UserError: a candidate or the budget is none, or there are several devices.
    """
    names, known = [str(name) for name in config.model.candidates], choices("model")
    if not names or any(name not in known or name == "auto" for name in names):
        raise UserError(f"model.candidates={names}, but they are any of {[name for name in known if name != 'auto']}.")
    if further := [str(key) for key in config.model if key != "candidates"]:
        raise UserError(
            f"model.{further[0]} is of one network, but model=auto tries {names}: name one, model={names[0]}"
        )
    budget = config.get("budget")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise UserError(f"budget={budget}, but it is a number of minutes, for example budget=5.")
    if config.trainer.devices not in (1, "auto", "1"):
        raise UserError(
            f"trainer.devices={config.trainer.devices}: networks are compared on one device. Name one, "
            f"model={names[0]}, or set trainer.devices=1."
        )
    return names
