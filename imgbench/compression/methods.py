"""The methods of compression, each from a run to a smaller run; shared by the commands that compress."""

import csv
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from imgbench.compression.measure import (
    Cost,
    gzip_mb,
    latency_ms,
    measure,
    one_image,
    onnx_latency_ms,
    size_mb,
    validation_accuracy,
    weights_mb,
)
from imgbench.compression.prune import MOST, remove_channels, zero_share, zero_weights
from imgbench.compression.quantize import quantize as quantize_to_int8
from imgbench.compression.target import Target
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.data.scan import SPLITS
from imgbench.errors import UserError
from imgbench.experiment.build import build_data, plain
from imgbench.experiment.compose import override, storable
from imgbench.experiment.fit import run_experiment, write_table
from imgbench.experiment.outcome import conclude
from imgbench.inference.onnx_file import OnnxModel
from imgbench.models.layers import normalises_batches
from imgbench.models.narrow import layer_widths
from imgbench.models.summary import model_table
from imgbench.run import Run, sha256, write_atomically
from imgbench.training.checkpoint import AtomicCheckpointIO
from imgbench.training.classifier import ImageClassifier, load_classifier
from imgbench.training.fast import device_name

log = logging.getLogger(__name__)

FINER = 0.05  # of the channels, that further steps remove when the planned ones were not enough


@dataclass(frozen=True)
class Options:
    """What the command line sets; None is the method's own default."""

    amount: float | None = None
    target: str | None = None
    steps: int | None = None
    unstructured: bool = False
    max_drop: float | None = None
    temperature: float | None = None
    alpha: float | None = None
    calibration: int | None = None


def weights_file(run: Run) -> Path:
    """The checkpoint that a method starts from.

    Raises:
        UserError: the run has none, or is quantised.
    """
    if run.best.is_file():
        return run.best
    if (run.path / "model.onnx").is_file():
        raise UserError(
            f"{run.shown} is quantised: it has a model.onnx, and no checkpoint whose weights could be compressed "
            f"further. Start from the run it was made of: {run.info.get('compressed_from', {}).get('path', '?')}"
        )
    raise UserError(
        f"{run.shown} has no checkpoints/best.ckpt; its status is {run.info.get('status')!r}. "
        "Train it to the end of an epoch."
    )


def compress(method: str, parent: Run, run: Run, options: Options, words: Sequence[str] = ()) -> None:
    """Applies a method of METHODS to `parent`, and leaves a complete run in the new directory `run`.

    Args:
        words: `key=value` words that override the parent's configuration.

    Raises:
        UserError: the method cannot be applied, or a target cannot be met.
    """
    file = weights_file(parent)
    source = {"path": str(parent.path.resolve()), "sha256": sha256(file)}
    run.path.mkdir(parents=True, exist_ok=True)
    with run.recorded(seed=parent.config["seed"], method=method, compressed_from=source):
        run.note(facts=METHODS[method](parent, run, options, words))


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


def distill(parent: Run, run: Run, options: Options, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose with the parent as its teacher, and else as the parent was trained."""
    settings = {"temperature": options.temperature, "alpha": options.alpha}
    own = [f"objective.{name}={value}" for name, value in settings.items() if value is not None]
    config = override(parent, ["objective=distill", *own, *words])
    config.objective.teacher = str(weights_file(parent).resolve())
    run_experiment(config, run, same_images(config, parent), announce=False)
    return {name: config.objective[name] for name in ("teacher", "temperature", "alpha")}


def train_anew(parent: Run, run: Run, options: Options, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose on the parent's images, and else as the parent was trained."""
    config = override(parent, words)
    run_experiment(config, run, same_images(config, parent), announce=False)
    return {"words": list(words)}


def reuse(parent: Run, run: Run, options: Options, words: Sequence[str]) -> dict[str, Any]:
    """Trains the model that `words` choose from those of the parent's weights that have a place in it.

    With the whole body in place, a fifth of the parent's epochs is enough, at its own learning rate since the head is
    new. A parent with another body leaves nothing to start from, and the model is trained anew.
    """
    file = weights_file(parent)
    teacher = load_classifier(file)
    epochs = f"trainer.max_epochs={fewer_epochs(parent)}"
    config = override(parent, [epochs, *words])
    if "batch_norm" in config.model:
        config.model.batch_norm = normalises_batches(teacher.model)
    with torch.device("meta"):  # shapes without memory
        own = ImageClassifier(**{**teacher.hparams, "model": plain(config.model), "widths": None}).state_dict()
    known = teacher.state_dict()
    body = [name for name in own if name.startswith("model.features.")]
    if not all(name in known and known[name].shape == own[name].shape for name in body):
        log.info("%s has another body: the model is trained anew", parent.shown)
        normalised = ["model.batch_norm=true"] if "batch_norm" in config.model else []
        return train_anew(parent, run, options, [*words, *normalised, "optimizer.lr=null"])
    config.init_from = str(file)
    run_experiment(config, run, same_images(config, parent), announce=False)
    return {"words": list(words)}


def fewer_epochs(parent: Run) -> int:
    """A fifth of the parent's, which is enough to mend what is trained already."""
    return max(2, round((parent.config["trainer"]["max_epochs"] or 0) / 5))


def finetuning(parent: Run, words: Sequence[str]) -> DictConfig:
    """The parent's configuration for a fifth of its epochs with a tenth of its learning rate, falling to zero.

    A parent that was pruned itself has been fine-tuned last: its settings are kept.
    """
    config = parent.config
    fewer = []
    if parent.info.get("method") != "prune":
        fewer = [f"optimizer.lr={config['optimizer']['lr'] / 10}", f"trainer.max_epochs={fewer_epochs(parent)}"]
    return override(parent, ["scheduler=cosine", *fewer, *words])


def finetuning_as_it_is(parent: Run, words: Sequence[str]) -> DictConfig:
    """As `finetuning`, of the parent's own model on the images as it knows them.

    Raises:
        UserError: the words ask for another model, or other images for it to see.
    """
    before, config = override(parent), finetuning(parent, words)
    changed = [key for key in ("image_size", "short_side", "normalize") if config.data.get(key) != before.data.get(key)]
    if changed or plain(config.model) != plain(before.model):
        raise UserError(
            f"{' '.join(words)}: pruning keeps the model and {', '.join(changed) or 'its head'} of {parent.shown}. "
            "Another model is for distill: compress RUN distill prune model=student_small"
        )
    return config


def prune(parent: Run, run: Run, options: Options, words: Sequence[str]) -> dict[str, Any]:
    """Removes channels in steps, with fine-tuning after each; or sets single weights to zero, with fine-tuning."""
    config = finetuning_as_it_is(parent, words)
    data = same_images(config, parent)
    classifier = load_classifier(parent.best)
    if options.unstructured:
        amount = 0.3 if options.amount is None else options.amount
        config.init_from = write_start(zero_weights(classifier, amount), run)
        config.callbacks.keep_zeros = {"_target_": "imgbench.compression.prune.KeepZeros"}
        run_experiment(config, run, data, announce=False)
        trained = load_classifier(run.best)
        return {
            "amount": amount,
            "zero_share": zero_share(trained),
            "size_mb": size_mb(run.best),
            "gzip_mb": gzip_mb(run.best),
            "parent_gzip_mb": gzip_mb(parent.best),
        }
    device = device_name(config.trainer.accelerator)
    before = validation_accuracy(classifier, data, device)
    classifier.cpu()
    original = layer_widths(classifier.model)
    target = Target.parse(options.target) if options.target else Target()
    only_drop = target.size is None and target.latency is None
    cost = measure(classifier, parent.best)
    if not only_drop and not target.unmet(cost.size_mb, cost.latency_ms):
        raise UserError(
            f'--target "{target}": {parent.shown} meets it already, with {cost.size_mb:.4g} MB and '
            f"{cost.latency_ms:.4g} ms."
        )
    overhead = cost.size_mb - weights_mb(classifier)
    best: Run | None = None
    taken: list[dict[str, Any]] = []
    unmet: list[str] = []
    current = classifier
    for amount in _amounts(classifier, options, target, overhead):
        smaller = remove_channels(current, amount, original)
        if layer_widths(smaller.model) == layer_widths(current.model):
            continue
        step = Run(run.path / "steps" / str(len(taken) + 1))
        step.path.mkdir(parents=True)
        with step.recorded(seed=config.seed, amount=amount):
            config.init_from = write_start(smaller, step)
            run_experiment(config, step, data, announce=False)
        current = load_classifier(step.best)
        accuracy = validation_accuracy(current, data, device)
        cost = measure(current, step.best)
        drop = 100 * (before - accuracy)
        taken.append({"amount": round(amount, 4), "val_acc": accuracy, "drop": drop, **asdict(cost)})
        log.info("step %d: %.0f %% of the channels removed; validation accuracy %.4f, %.4g MB, %.4g ms", len(taken),
                 100 * amount, accuracy, cost.size_mb, cost.latency_ms)  # fmt: skip
        unmet = target.unmet(drop=drop)
        if unmet:
            break
        best = step
        unmet = target.unmet(cost.size_mb, cost.latency_ms)
        if not unmet and not only_drop:
            break
    if best is None and not taken:
        raise UserError(
            f"--amount {options.amount}: no layer of {parent.shown} is wide enough to lose a channel by it."
        )
    if best is None or (unmet and not only_drop):
        raise _cannot(target, "; ".join(unmet), best)
    _adopt(best, run)
    amount = taken[int(best.path.name) - 1]["amount"]
    return {"amount": amount, "target": options.target, "parent_val_acc": before, "steps": taken}


def write_start(classifier: ImageClassifier, run: Run) -> str:
    """Writes the weights that training starts from as `checkpoints/init.ckpt`, for the run to be repeated; its path."""
    path = run.path / "checkpoints" / "init.ckpt"
    hparams = {name: classifier.hparams[name] for name in ImageClassifier.argument_names()}
    AtomicCheckpointIO().save_checkpoint({"hyper_parameters": hparams, "state_dict": classifier.state_dict()}, path)
    return str(path.resolve())


def _cannot(target: Target, reason: str, best: Run | None) -> UserError:
    so_far = f"The best run so far is {best.shown}." if best else "No step met it."
    return UserError(f'--target "{target}" cannot be met: {reason}. {so_far}')


def _amounts(classifier: ImageClassifier, options: Options, target: Target, overhead: float) -> Iterator[float]:
    """Shares of the original channels to have removed after each step; with a target further and further."""
    if options.target is None:
        amount, steps = 0.5 if options.amount is None else options.amount, options.steps or 2
        yield from (amount * (step + 1) / steps for step in range(steps))
        return
    amount = 0.0
    if target != Target(drop=target.drop):
        planned, steps = _enough(classifier, target, overhead), options.steps or 3
        yield from (planned * (step + 1) / steps for step in range(steps))
        amount = planned
    finer = FINER if amount else 0.1
    while amount < MOST:
        amount = min(amount + finer, MOST)
        yield amount


def _enough(classifier: ImageClassifier, target: Target, overhead: float) -> float:
    """The least share of channels whose removal meets the bounds of size and latency: neither depends on training.

    Raises:
        UserError: not even the most that can be removed does.
    """

    def unmet(amount: float) -> list[str]:
        smaller = remove_channels(classifier, amount)
        latency = latency_ms(one_image(smaller)) if target.latency is not None else None
        return target.unmet(weights_mb(smaller) + overhead, latency)

    if reasons := unmet(MOST):
        raise _cannot(target, f"without {MOST:.0%} of the channels there is still {'; '.join(reasons)}", None)
    low, high = 0.0, MOST
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if unmet(middle) else (low, middle)
    return math.ceil(100 * high) / 100 if high < MOST - 0.01 else MOST


def _adopt(step: Run, run: Run) -> None:
    """Makes a step's run that of the whole, and removes the others."""
    facts = step.info
    for entry in step.path.iterdir():
        if entry.name != "run.json":
            shutil.move(entry, run.path / entry.name)
    run.note(**{name: value for name, value in facts.items() if name not in run.info})
    shutil.rmtree(run.path / "steps")
    run.write_config({**run.stored_config, "init_from": str((run.path / "checkpoints" / "init.ckpt").resolve())})


def quantize(parent: Run, run: Run, options: Options, words: Sequence[str]) -> dict[str, Any]:
    """int8 weights and activations as `model.onnx`, calibrated on the parent's training images."""
    config = override(parent, words)
    data = same_images(config, parent)
    classifier = load_classifier(parent.best)
    run.write_config({**storable(config), "quantized": True})
    write_table(run, data)
    run.note(selected_on_test=data.plan.selects_on_test, provenance=classifier.hparams["provenance"])
    write_atomically(run.path / "summary.txt", model_table(classifier.model, data.preprocessing.image_size))
    chosen = {"max_drop": options.max_drop, "calibration_images": options.calibration}
    facts = quantize_to_int8(
        classifier, data, run.path / "model.onnx", **{k: v for k, v in chosen.items() if v is not None}
    )
    conclude(run, data, announce=False)
    return facts


def cost_of(run: Run) -> Cost:
    """What a run's model costs; a quantised one has the parameters and multiply-adds of the run it was made of."""
    file = run.path / "model.onnx"
    if run.best.is_file():
        return measure(load_classifier(run.best), run.best)
    source = cost_of(Run.open(run.info["compressed_from"]["path"]))
    model = OnnxModel(file, threads=source.threads)
    return replace(source, size_mb=size_mb(file), latency_ms=onnx_latency_ms(model))


METHODS = {"train": train_anew, "reuse": reuse, "distill": distill, "prune": prune, "quantize": quantize}
