"""From a composed configuration to the objects of a run."""

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from inspect import isclass, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.experiment.check import check_numbers
from imgbench.experiment.compose import choices, compose, explain, is_open, with_model
from imgbench.experiment.defaults import IMAGE_SIZE, default_epochs, default_learning_rate
from imgbench.inspection.audit import group_names
from imgbench.language import KINDS, LANGUAGES, language_of_locale
from imgbench.models.layers import normalises_batches
from imgbench.models.summary import model_table
from imgbench.preprocessing import Preprocessing
from imgbench.progress import FACTS, quiet
from imgbench.run import Run
from imgbench.stored_config import switched_on
from imgbench.training import fast
from imgbench.training.callbacks import EpochSeeds, run_of_checkpoint
from imgbench.training.checkpoint import AtomicCheckpointIO
from imgbench.training.classifier import ImageClassifier
from imgbench.training.divergence import FiniteLoss
from imgbench.training.fast import FastSettings, supports_fused
from imgbench.training.network import build_model, without_fetching
from imgbench.training.reading import mapped_or_read, upgrade
from imgbench.trust import NODES, trust_target

log = logging.getLogger(__name__)


def plain(config: Any) -> Any:
    """The resolved configuration as dicts, lists, strings and numbers."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def create(config: Any, **arguments: Any) -> Any:
    """Hydra's `instantiate`, which hands on what a constructor says to the user.

    Raises:
        UserError: the constructor does not take the arguments.
    """
    for node in [config, *(config.values() if OmegaConf.is_dict(config) else ())]:
        _refuse_borrowed(node)
    try:
        return instantiate(config, **arguments, _convert_="all")
    except InstantiationException as error:
        raise UserError(explain(error)) from error


def _refuse_borrowed(node: Any) -> None:
    """A module has in it all that it imports, and another's configuration is not to call that.

    Raises:
        UserError: a `_target_` of imgbench is defined elsewhere than its name says.
    """
    target = node.get("_target_") if isinstance(node, Mapping | DictConfig) else None
    if not str(target).startswith("imgbench."):
        return
    module, _, name = str(target).rpartition(".")
    try:
        found = get_object(str(target))
    except Exception:  # said by `instantiate`
        return
    if getattr(found, "__module__", None) != module:
        raise UserError(f"_target_={target}, but {module} defines no {name}.")


def check_values(config: DictConfig) -> None:
    """Finds a value of the wrong type, such as `optimizer.lr=fast`, before any time is spent.

    Raises:
        UserError: naming the option, what it is, and what it should be.
    """
    for name in NODES:
        node, known = config.get(name), " or ".join(choices(name))
        parts = name in ("callbacks", "fast")  # made of entries, and no object themselves
        if not isinstance(node, DictConfig) or not (parts or "_target_" in node):
            raise UserError(f"{name}={node}, but it should be {known or 'its entries'}.")
        for key in node if name == "callbacks" else ():
            if node[key] is not None and not (isinstance(node[key], DictConfig) and "_target_" in node[key]):
                raise UserError(f"{name}.{key}={node[key]}, but it has no _target_, the name of its class.")
        hints = get_type_hints(FastSettings) if name == "fast" else _annotations(name, node)
        _check_arguments(name, node, hints)
    for name in ("optimizer", "scheduler"):
        taken = signature(get_object(config[name]["_target_"])).parameters
        unknown = [key for key in config[name] if key not in taken and not str(key).startswith("_")]
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            raise UserError(f"{name}.{unknown[0]}: {config[name]['_target_']} takes {', '.join(taken)}.")
    if config.data.get("unlabelled") is not None and ("teacher" not in config.objective or config.augment.get("mix")):
        raise UserError(
            f"data.unlabelled={config.data.unlabelled}: images without labels are for a student, and not mixed. "
            "Set objective=distill objective.teacher=RUN, and leave augment.mix out."
        )
    check_numbers(config)


def _check_arguments(place: str, node: DictConfig, hints: Mapping[str, Any]) -> None:
    """Compares what a `_target_` is given with what its signature is annotated with, as far as that is unequivocal."""
    for key in node:
        name = f"{place}.{key}"
        if OmegaConf.is_missing(node, key) or node[key] is None:  # open: decided later
            continue
        value, hint = node[key], hints.get(str(key))
        if isinstance(value, DictConfig):
            _check_arguments(name, value, _annotations(name, value))
        expected = get_args(hint) or (hint,)
        if OmegaConf.is_config(value) or not all(isclass(kind) and not get_args(kind) for kind in expected):
            continue
        allowed = {*expected, *((int,) if float in expected else ())}
        if type(value) not in allowed:
            kinds = " or ".join(KINDS.get(kind) or getattr(kind, "__name__", "") for kind in expected)
            raise UserError(f"{name}={value}, but it should be {kinds}.")


def _annotations(place: str, node: DictConfig) -> dict[str, Any]:
    """The types of the arguments of a node's `_target_`, of its base classes too."""
    if "_target_" not in node:
        return {}
    try:
        found = get_object(str(node["_target_"]))
    except Exception as error:
        raise UserError(f"{place}: {node['_target_']} cannot be imported: {error}") from error
    try:
        makers = [kind.__init__ for kind in reversed(found.__mro__)] if isclass(found) else [found]
        return {name: hint for maker in makers for name, hint in get_type_hints(maker).items()}
    except Exception:  # annotations may name what is imported for type checkers only
        return {}


def build_data(config: DictConfig) -> ImageFolderDataModule:
    """The data module, set up; `with_facts` puts what it found into a configuration.

    Raises:
        UserError: no data, or data of another shape than the configuration states.
    """
    if OmegaConf.is_missing(config.data, "root"):
        raise UserError("data.root is not set. Point it at your photographs: data=folder data.root=/my/photos")
    settings = plain(prepared_for_network(config).data)
    for name in ("audit", "thumbnails"):  # say what comes before training and after it, not what the images are
        settings.pop(name, None)
    augment = create(config.augment)
    data: ImageFolderDataModule = create(settings, augment=augment, seed=config.seed, find_groups=group_names)
    data.setup()
    return data


def build_data_of(run: Run, config: DictConfig | None = None) -> ImageFolderDataModule:
    """As `build_data`; where the images and the plan of their split are those of a run, its `split.csv` divides them.

    Another version of imgbench may draw otherwise, and what was trained on must not become a test image.

    Args:
        config: None: the run's own.

    Raises:
        UserError: as `build_data`, or `split.csv` is damaged.
    """
    then = run.config
    config = DictConfig(then) if config is None else config
    data = build_data(config)
    if (then["data"].get("split"), then.get("seed")) == (plain(config.data).get("split"), config.seed):
        table = data.table.divided_as(run.split_rows())
        if table is not None:
            data.use(table)
    return data


def with_facts(config: DictConfig, data: ImageFolderDataModule) -> DictConfig:
    """A copy of the configuration with the facts of the data, and with what the network expects of images.

    These are the number of classes, the folder, and the table of labels with its columns, null where there is none.
    """
    config = prepared_for_network(config)
    labels = data.table.source.labels
    with open_dict(config):
        if labels:
            config.data.labels, config.data.columns = str(labels.path.resolve()), labels.columns
        elif "labels" in config.data:
            config.data.labels = None
    config.data.num_classes = len(data.class_names)
    config.data.root = str(data.table.root.resolve())
    if corrections := config.data.get("corrections"):
        config.data.corrections = str(Path(corrections).expanduser().resolve())
    return config


def build_classifier(
    config: DictConfig, class_names: list[str], preprocessing: Preprocessing, settings: FastSettings, **facts: Any
) -> ImageClassifier:
    """The LightningModule of `config.objective` around the model of `config.model`.

    `facts` are further hyper-parameters, such as class weights and provenance.
    """
    optimizer = plain(config.optimizer)
    if settings.fused_optimizer and supports_fused(optimizer["_target_"]):
        optimizer["fused"] = True
    objective = {**plain(config.objective), **facts}
    trust_target(config.model["_target_"])
    return create(
        objective,
        model=plain(config.model),
        class_names=class_names,
        preprocessing=preprocessing.to_dict(),
        optimizer=optimizer,
        scheduler=plain(config.scheduler),
        monitor=config.monitor,
        mode=config.mode,
        _recursive_=False,
    )


def check_monitor(monitor: str, mode: str, classifier: ImageClassifier) -> None:
    """Finds out before training, not after its first epoch, that the monitored metric does not exist.

    Raises:
        UserError: there is no such metric, or the mode would prefer high losses or low accuracies.
    """
    if monitor not in classifier.METRICS:
        raise UserError(f"monitor={monitor}, but what is measured is {', '.join(classifier.METRICS)}.")
    better = "min" if monitor.endswith("loss") else "max"
    if mode != better:
        raise UserError(f"monitor={monitor} with mode={mode} would keep the worst epoch. Use mode={better}.")


def apply_defaults(config: DictConfig, images: int) -> None:
    """Fills in what the configuration leaves open, knowing the number of training images and the network."""
    if config.trainer.max_epochs is None:
        config.trainer.max_epochs = default_epochs(images, is_tuned(config))
    if config.optimizer.lr is None:
        pretrained = bool(config.model.get("pretrained"))
        config.optimizer.lr = default_learning_rate(_will_normalise(config), pretrained, is_tuned(config))


def resolve_report(config: DictConfig) -> None:
    """Fills in the language of the report, where the configuration leaves it to the locale.

    Raises:
        UserError: an option of the report is none that it can have.
    """
    options = config.get("report") or {}
    language, curve = options.get("language"), options.get("learning_curve", False)
    if language not in (None, *LANGUAGES):
        raise UserError(
            f"report.language={language}, but it is {' or '.join(LANGUAGES)}, or null for that of the locale."
        )
    if not isinstance(curve, bool):
        raise UserError(f"report.learning_curve={curve}, but it is true or false.")
    if curve and config.trainer.get("devices") not in (1, "auto"):
        raise UserError("report.learning_curve=true trains several times in one process: set trainer.devices=1.")
    switched_on(config, "data.thumbnails")
    config.report = {"language": language or language_of_locale(), "learning_curve": curve}


def is_tuned(config: DictConfig) -> bool:
    """Whether the network begins with pretrained weights and a last layer that is solved for."""
    return bool(config.model.get("pretrained")) and str(config.model["_target_"]).startswith(
        "imgbench.models.backbone."
    )


def prepared_for_network(config: DictConfig) -> DictConfig:
    """A copy of the configuration in which it is not open how the images are to be prepared for its network."""
    config = config.copy()
    data = config.data
    if data.get("image_size") is not None and data.get("normalize", "") is not None:
        return config
    outline = _outline(config)
    expected: dict[str, Any] = getattr(outline, "pretrained_cfg", None) or {}
    if data.get("image_size") is None:
        data.image_size = (expected.get("input_size") or [None])[-1] or IMAGE_SIZE
    if data.get("normalize", "") is None:
        statistics = {name: [float(number) for number in expected.get(name, ())] for name in ("mean", "std")}
        data.normalize = statistics if all(statistics.values()) else "imagenet"
    return config


def frozen_network(words: Sequence[str]) -> tuple[ImageClassifier, Preprocessing]:
    """The network of `model=pretrained`, whose last layer has learnt nothing, and how images are prepared for it.

    Args:
        words: as of `compose`, that name the images.
    """
    config = prepared_for_network(compose([*words, "model=pretrained"]))
    config.data.num_classes = 2
    with quiet(*FACTS):
        settings, _ = fast.apply(fast.FastSettings(**plain(config.fast)), config.trainer.accelerator)
    mean, std = (tuple(config.data.normalize[name]) for name in ("mean", "std"))
    preprocessing = Preprocessing(config.data.image_size, config.data.resize, mean, std)
    return build_classifier(config, ["", " "], preprocessing, settings, class_weights=None), preprocessing


def _outline(config: DictConfig) -> nn.Module:
    """The configured model without numbers, which takes no memory, and no weights that would have to be fetched."""
    if is_open(config):
        config = with_model(config, config.model.candidates[0])
    model = plain(config.model)
    trust_target(model["_target_"])
    model = without_fetching({**model, "num_classes": model.get("num_classes") or 2})
    # A module of the user's own may be another when it is imported again.
    build = _own_outline if model["_target_"].startswith("imgbench.") else _own_outline.__wrapped__
    return build(json.dumps(model, sort_keys=True))


@lru_cache(maxsize=8)
def _own_outline(model: str) -> nn.Module:
    """Built once, since a run asks it several questions; it is not to be changed."""
    with torch.device("meta"):
        return build_model(json.loads(model))


def _will_normalise(config: DictConfig) -> bool:
    return normalises_batches(_outline(config))


def model_summary(config: DictConfig) -> str:
    """The torchinfo table of the configured model; images are needed only where they tell the number of classes.

    Raises:
        UserError: the number of classes is unknown, or the model cannot be built.
    """
    if config.data.num_classes is None:
        try:
            config = with_facts(config, build_data(config))
        except UserError as error:
            raise UserError(f"{error}\nOr state data.num_classes=N, and no data is needed.") from error
    config = prepared_for_network(config)
    return model_table(build_model(plain(config.model)), int(config.data.image_size))


def class_weights(kind: str, data: ImageFolderDataModule) -> list[float] | None:
    """Weights of the classes in the loss: None, or `balanced`: inverse to their number of training images,
    on average 1 per image.

    Raises:
        UserError: `kind` is neither `none` nor `balanced`.
    """
    if kind == "none":
        return None
    if kind != "balanced":
        raise UserError(f"objective.class_weights={kind!r}, but it is none or balanced.")
    counts = data.class_counts()
    return (counts.sum() / (len(counts) * counts)).tolist()


def build_logger(config: DictConfig) -> Logger | bool:
    """The experiment tracker of `config.logger`; False for none.

    Raises:
        UserError: its package is not installed.
    """
    if not config.get("logger"):
        return False
    name = str(config.logger["_target_"]).rsplit(".", 1)[-1].removesuffix("Logger").lower()
    if importlib.util.find_spec(name) is None:
        raise UserError(f"logger={name}: the package is not installed. Mend it with: pip install {name}")
    return create(config.logger)


def build_trainer(
    config: DictConfig, settings: FastSettings, folder: Path, callbacks: Sequence[Callback] = ()
) -> L.Trainer:
    """The Trainer of a run that lies in `folder`; `callbacks` come before the configured ones."""
    configured = [callback for callback in create(config.callbacks).values() if callback is not None]
    return create(
        config.trainer,
        default_root_dir=str(folder),
        precision=settings.precision,
        logger=build_logger(config),
        callbacks=[EpochSeeds(config.seed), FiniteLoss(), *callbacks, *configured],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module divides the images among processes
    )


def check_resume(ckpt_path: str | None, classifier: ImageClassifier, max_epochs: int | None = None) -> None:
    """Refuses a checkpoint that the configuration does not fit, before Lightning stumbles over a tensor's shape.

    One that has `max_epochs` behind it is that of a run to conclude, if that was killed before it had.

    Raises:
        UserError: no such file, no checkpoint to resume from, one of another model, optimizer or other classes, or
            nothing is left to do.
    """
    if ckpt_path is None:
        return
    path = Path(ckpt_path)
    if not path.is_file():
        raise UserError(f"ckpt_path={path} does not exist. Resume from a run's checkpoints/last.ckpt.")
    try:
        saved = upgrade(mapped_or_read(path))
        known = _what_must_agree(saved["hyper_parameters"])
        done = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        groups = [_sizes(state["param_groups"]) for state in saved.get("optimizer_states", [])]
    except OSError as error:
        raise UserError(f"ckpt_path={path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        raise UserError(
            f"ckpt_path={path} is no checkpoint of imgbench, or a damaged one; no code in it was run. Restore it from "
            "a copy, or begin anew from the weights that were kept: init_from=RUN"
        ) from error
    if "optimizer_states" not in saved:
        raise UserError(
            f"ckpt_path={path} holds weights only. Resume from last.ckpt, which holds the optimizer as well."
        )
    for name, own in _what_must_agree(classifier.hparams).items():
        if own != known[name]:
            raise UserError(
                f"ckpt_path={path} was trained with {name} {known[name]}, but the configuration has {own}.\n"
                "Resume with the run's: python -m imgbench.train --resume RUN"
            )
    _check_images(path, saved["hyper_parameters"], classifier.hparams)
    if groups != [_sizes(classifier.parameter_groups())]:
        then, now = (
            hparams["optimizer"].get("weight_decay") for hparams in (saved["hyper_parameters"], classifier.hparams)
        )
        raise UserError(
            f"ckpt_path={path} is of an earlier version of imgbench, which let norms and biases decay as well: its "
            "optimizer cannot go on in this one. Train anew."
            if bool(then) == bool(now)
            else f"ckpt_path={path} was trained with optimizer.weight_decay={then}, but the configuration has {now}: a "
            "resumed run can change how much decays, but not whether anything does."
        )
    if max_epochs is None or not 0 <= max_epochs <= done:
        return
    run = Run(run_of_checkpoint(path))
    if max_epochs < done or run.concluded or not run.best.is_file():
        raise UserError(
            f"ckpt_path={path} has trained {done} epochs, and trainer.max_epochs={max_epochs}: nothing is left to do. "
            "Raise it to train on, or train with other options in another directory."
        )


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _check_images(path: Path, saved: Mapping[str, Any], hparams: Mapping[str, Any]) -> None:
    """Whether a checkpoint was trained on the images, in the splits, that the configuration gives.

    Otherwise it may know what it is about to be tested on.

    Raises:
        UserError: it was not.
    """
    then, now = ((found.get("provenance") or {}).get("split_hash") for found in (saved, hparams))
    if then not in (None, now):
        raise UserError(
            f"ckpt_path={path} was trained on other images, or in other splits, than the configuration gives: compare "
            f"split.csv in {run_of_checkpoint(path)} with the folder and its corrections.\nRestore the images to go "
            "on, or begin anew from the weights: init_from=RUN"
        )


def _what_must_agree(hparams: Mapping[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in hparams["model"].items() if name != "pretrained"}  # false in checkpoints
    return {
        "model": model,
        "class_names": hparams["class_names"],
        "optimizer": hparams["optimizer"]["_target_"],
        "pruned channels": bool(hparams.get("widths")),
    }
