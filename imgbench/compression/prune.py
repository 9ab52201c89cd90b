"""Pruning a run: some channels or weights go, the rest is fine-tuned, again and again until a target is met."""

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from imgbench.compression.channels import remove_channels, zero_share, zero_weights
from imgbench.compression.measure import (
    gzip_mb,
    latency_ms,
    measure,
    one_image,
    size_mb,
    validation_accuracy,
    weights_mb,
)
from imgbench.compression.options import MOST_CHANNELS, Prune
from imgbench.compression.retrain import conclude_quietly, fewer_epochs, retrain, same_images
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.experiment.build import plain
from imgbench.experiment.compose import override
from imgbench.experiment.train import resolve, train
from imgbench.inference.torch_model import TorchModel
from imgbench.models.narrow import layer_widths
from imgbench.progress import FACTS, Step, quiet
from imgbench.run import INIT, Run
from imgbench.training.checkpoint import load_classifier, save_weights
from imgbench.training.classifier import ImageClassifier
from imgbench.training.fast import device_name

log = logging.getLogger(__name__)

FINER = 0.05  # of the channels, that further steps remove when the planned ones were not enough


def finetuning(parent: Run, words: Sequence[str]) -> DictConfig:
    """The parent's configuration for a fifth of its epochs with a tenth of its learning rate, falling to zero.

    A parent that was pruned itself has been fine-tuned last: its settings are kept.

    Raises:
        UserError: the words name another model than the parent's, or other preprocessing.
    """
    fewer = []
    if parent.info.get("method") != "prune":
        rate = parent.config["optimizer"]["lr"] / 10
        fewer = [f"optimizer.lr={rate}", f"trainer.max_epochs={fewer_epochs(parent)}"]
    before, config = override(parent), override(parent, ["scheduler=cosine", *fewer, *words])
    changed = [key for key in ("image_size", "resize", "normalize") if config.data.get(key) != before.data.get(key)]
    if changed or plain(config.model) != plain(before.model):
        raise UserError(
            f"{' '.join(words)}: pruning keeps the model and {', '.join(changed) or 'its head'} of {parent.shown}. "
            "Another model is for distill: compress RUN distill prune model=compact"
        )
    if "frozen_stride" in config.model:
        config.model.frozen_stride = None  # what was cut into has to learn again
    return config


def prune_weights(method: Prune, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Sets single weights to zero, and fine-tunes the others."""
    config = finetuning(parent, words)
    amount = 0.3 if method.amount is None else method.amount
    config.init_from = write_start(zero_weights(load_classifier(parent.best), amount), run)
    config.callbacks.keep_zeros = {"_target_": "imgbench.training.callbacks.KeepZeros"}
    retrain(config, parent, run)
    return {
        "amount": amount,
        "zero_share": zero_share(load_classifier(run.best)),
        "size_mb": size_mb(run.best),
        "gzip_mb": gzip_mb(run.best),
        "parent_gzip_mb": gzip_mb(parent.best),
    }


def prune_channels(method: Prune, parent: Run, run: Run, words: Sequence[str]) -> dict[str, Any]:
    """Removes channels in steps, with fine-tuning after each; the best step's run becomes that of the whole.

    Raises:
        UserError: the target cannot be met, or is met already; the best step's run stays in `run`/steps.
    """
    config = finetuning(parent, words)
    data = same_images(config, parent)
    classifier = load_classifier(parent.best)
    device = device_name(config.trainer.accelerator)
    before = validation_accuracy(TorchModel(classifier, device), data)
    classifier.cpu().eval()
    original = layer_widths(classifier.model)
    target = method.target or Target()
    size, latency = size_mb(parent.best), _latency(classifier, target)
    if target.limits_cost and not target.unmet(size, latency):
        found = f"{size:.4g} MB" + ("" if latency is None else f" and {latency:.4g} ms")
        raise UserError(f'--target "{target}": {parent.shown} meets it already, with {found}.')
    overhead = size - weights_mb(classifier)
    best: Run | None = None
    taken: list[dict[str, Any]] = []
    unmet: list[str] = []
    current = classifier
    for amount in _amounts(classifier, method, overhead):
        smaller = remove_channels(current, amount, original)
        if layer_widths(smaller.model) == layer_widths(current.model):
            continue
        step = Run(run.path / "steps" / str(len(taken) + 1))
        step.path.mkdir(parents=True)
        config.init_from = write_start(smaller, step)
        with quiet(*FACTS) if taken else nullcontext():
            train(resolve(config, data), step, conclude_quietly, amount=amount)
        current = load_classifier(step.best)
        accuracy = validation_accuracy(TorchModel(current, device), data)
        cost = measure(current, step.best)
        drop = 100 * (before - accuracy)
        taken.append({"amount": round(amount, 4), "val_acc": accuracy, "drop": drop, **asdict(cost)})
        log.info("step %d: %.0f %% of the channels removed; validation accuracy %.1f %%, %.3g MB, %.3g ms", len(taken),
                 100 * amount, 100 * accuracy, cost.size_mb, cost.latency_ms)  # fmt: skip
        unmet = target.unmet(drop=drop)
        if unmet:
            break
        best = step
        unmet = target.unmet(cost.size_mb, cost.latency_ms)
        if not unmet and target.limits_cost:
            break
    if not taken:
        raise UserError(
            f"--amount {method.amount}: the layers of {parent.shown} are too narrow to lose a channel. Raise it."
        )
    if best is None or (unmet and target.limits_cost):
        raise _cannot(target, "; ".join(unmet), best)
    amount = taken[int(best.path.name) - 1]["amount"]
    _adopt(best, run)
    return {"amount": amount, "target": str(target) or None, "parent_val_acc": before, "steps": taken}


def write_start(classifier: ImageClassifier, run: Run) -> str:
    """Writes the weights that training starts from, for the run to be repeated; their path."""
    path = run.path / INIT
    save_weights(classifier, path)
    return str(path.resolve())


def _cannot(target: Target, reason: str, best: Run | None) -> UserError:
    so_far = f"The best run so far is {best.shown}." if best else "No step met it."
    return UserError(f'--target "{target}" cannot be met: {reason}. {so_far}')


def _amounts(classifier: ImageClassifier, method: Prune, overhead: float) -> Iterator[float]:
    """Shares of the original channels to have removed after each step; with a target further and further.

    Args:
        overhead: MB by which a checkpoint exceeds its weights.
    """
    if method.target is None:
        amount, steps = 0.5 if method.amount is None else method.amount, method.steps or 2
        yield from (amount * (step + 1) / steps for step in range(steps))
        return
    amount = 0.0
    if method.target.limits_cost:
        with Step("Finding how much to prune"):
            planned = _enough(classifier, method.target, overhead)
        steps = method.steps or 3
        yield from (planned * (step + 1) / steps for step in range(steps))
        amount = planned
    finer = FINER if amount else 0.1
    while amount < MOST_CHANNELS:
        amount = min(amount + finer, MOST_CHANNELS)
        yield amount


def _enough(classifier: ImageClassifier, target: Target, overhead: float) -> float:
    """The least share of channels whose removal meets the bounds of size and latency: neither depends on training."""

    def unmet(amount: float) -> list[str]:
        smaller = remove_channels(classifier, amount)
        return target.unmet(weights_mb(smaller) + overhead, _latency(smaller, target))

    if reasons := unmet(MOST_CHANNELS):
        left = f"with {MOST_CHANNELS:.0%} of the channels removed, {'; '.join(reasons)}"
        raise _cannot(target, left, None)
    low, high = 0.0, MOST_CHANNELS
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if unmet(middle) else (low, middle)
    return math.ceil(100 * high) / 100 if high < MOST_CHANNELS - 0.01 else MOST_CHANNELS


def _latency(classifier: ImageClassifier, target: Target) -> float | None:
    """Milliseconds of an image, where the target bounds them: to measure them takes half a second."""
    return None if target.latency is None else latency_ms(one_image(classifier))


def _adopt(step: Run, run: Run) -> None:
    """Makes a step's run that of the whole, and removes the others."""
    facts = step.info
    for entry in step.path.iterdir():
        if entry.name != "run.json":
            shutil.move(entry, run.path / entry.name)
    run.note(**{name: value for name, value in facts.items() if name not in run.info})
    shutil.rmtree(run.path / "steps")
    run.write_config({**run.stored_config, "init_from": str((run.path / INIT).resolve())})
