"""What a file of unknown origin may name: classes to import, entries to look up, files to open."""

import copy
import csv
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import UserError

REFERENCE = re.compile(r"(?<!\\)\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")  # to another entry, such as ${data.num_classes}
NAME = re.compile(r"\w[\w.,+-]*(/\w[\w.,+-]*)?")  # of data, a model, a project or a metric: it leads to no other folder

TRUSTED = ("imgbench.", "torch.nn.", "torch.optim.", "torchvision.", "timm.")

LARGEST_CONFIG = 100_000  # bytes; those that imgbench writes have a few thousand
NODES = ("data", "model", "augment", "objective", "optimizer", "scheduler", "trainer", "callbacks", "fast")
CONFIG_TYPES = {
    **dict.fromkeys(NODES, dict),
    **dict.fromkeys(("data.root", "data_name", "model_name", "monitor", "mode"), str),
    "data.corrections": str | None,
    "logger": dict | None,
    "seed": int,
    **dict.fromkeys(("init_from", "ckpt_path", "data.labels"), str | None),
    "data.columns": dict | None,
}

# What each entry of a run's configuration may be made by.
TARGETS: dict[str, tuple[str, ...]] = {
    "data": ("imgbench.data.datamodule", "imgbench.data.digits"),
    "model": TRUSTED,  # which are no more than a first look: `build_model` calls networks only
    "augment": ("imgbench.data.augment",),
    "objective": ("imgbench.training.classifier", "imgbench.training.distillation"),
    "optimizer": ("torch.optim",),
    "scheduler": ("imgbench.training.schedules",),
    "callbacks": ("imgbench.training.callbacks", "lightning.pytorch.callbacks"),
    "trainer": ("lightning",),
    "logger": ("lightning.pytorch.loggers",),
}


def stays_below(path: str) -> bool:
    """Whether a path of `split.csv`, of unknown origin, names a file below the root that it is joined to.

    The rules are those of this system: on Windows `A: healthy` names a drive, elsewhere it is a folder like any other.
    """
    place = PurePath(path)
    return not place.anchor and bool(place.parts) and ".." not in place.parts and "\0" not in path


def read_configuration(path: Path, conf: Path) -> dict[str, Any]:
    """The content of a run's `config.yaml`, references such as `${data.num_classes}` as they stand there.

    A run may come from anybody. So what is in there is plain: no resolver such as `oc.env` is followed, no class
    outside the allowlist is named, and nothing of Hydra's own (`defaults`, `hydra`) is taken from it. Callbacks and
    loggers are those of `conf`, unless this process wrote the file.

    Raises:
        UserError: it is missing, damaged, or not as plain as that.
    """
    with damage_named(path):
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, a configuration a few thousand")
        text = path.read_text("utf-8")
        content: Any = copy.deepcopy(_parsed(text))
        if "data" not in content:
            raise ValueError("it holds no configuration of a run")
        content = {str(key): value for key, value in content.items() if key not in ("defaults", "hydra")}
        check_types(content, CONFIG_TYPES)
        for name in ("data_name", "model_name"):  # which become folders
            if not re.fullmatch(r"\w[\w.,+-]*", content.get(name, "unknown")):
                raise ValueError(f"{name} is {content[name]!r}, expected a name")
        for name, value in content.items():
            check_plain([name, value], content, path, TARGETS.get(name, ()))
        if not is_own_configuration(text):
            check_callbacks_and_logger(content, path, conf)
    return content


@functools.lru_cache(maxsize=8)  # a command reads the same file a dozen times, and parsing takes long
def _parsed(text: str) -> dict[str, Any]:
    events = list(yaml.parse(text))
    if any(isinstance(event, yaml.AliasEvent) for event in events):  # a few lines become gigabytes
        raise ValueError("it holds an alias of YAML, which imgbench never writes")
    if len(events) < 3 or not isinstance(events[2], yaml.MappingStartEvent):
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return content


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raises a UserError that names the file, where it is missing or what is read of it makes no sense."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist, but every run directory has it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it is nested without end.") from error
    except (ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged: {reason}.\nRestore it from a copy, or train again.") from error


def check_types(content: dict[str, Any], types: dict[str, Any]) -> None:
    """Raises:
    ValueError: an entry, such as `data.root`, is there and of another type.
    """
    for name, expected in types.items():
        found = content
        for key in name.split("."):
            found = found.get(key, ...) if isinstance(found, dict) else ...
        if found is not ... and not isinstance(found, expected):
            shown = getattr(expected, "__name__", str(expected))
            raise ValueError(f"{name} is {str(found)[:100]!r}, expected {shown}")


def check_plain(
    value: Any, content: dict[str, Any], path: Path, modules: tuple[str, ...], inside: bool = False
) -> None:
    """Refuses in a configuration that may come from anywhere what would look something up or call it.

    Args:
        modules: where a `_target_` may lie.
        inside: whether these are arguments of a `_target_`, which are plain values: chained calls can do anything.

    Raises:
        ValueError: a resolver such as `oc.env`, a reference to more than a plain entry, or an argument that is called.
        UserError: a `_target_` outside `modules`.
    """
    if isinstance(value, dict):
        if "_target_" in value:
            target = value["_target_"]
            if not isinstance(target, str) or "$" in target:
                raise ValueError(f"_target_ is {target!r}, expected the name of a class")
            check_target(target, f"{path}: _target_", modules)
            if inside and not is_trusted_by_user(target):
                raise ValueError(f"an argument names a _target_ of its own, {target!r}, which is not called")
            inside = True
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for item in value:
            check_plain(item, content, path, modules, inside)
    elif isinstance(value, str) and "${" in value and not refers_to_plain_entries(value, content):
        raise ValueError(f"it holds {value[:200]!r}, and only plain entries of the file itself are looked up")


def refers_to_plain_entries(value: str, content: Any) -> bool:
    """Whether all that a value such as `${data.num_classes}` refers to is there, plain and short.

    So it cannot look into the machine as `${oc.env:SECRET}` does, and references to references, which grow a small
    file without bound, are none.
    """
    if "${" in REFERENCE.sub("", value):
        return False
    for name in REFERENCE.findall(value):
        found = content
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict | list) or len(str(found)) > 1000 or "${" in str(found):
            return False
    return True


# Callbacks that no file of conf has: of an earlier version, whose runs are still read, and of pruning.
OTHER_CALLBACKS = {
    "ema": {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging"},
    "keep_zeros": {"_target_": "imgbench.training.callbacks.KeepZeros"},
}


def check_callbacks_and_logger(content: dict[str, Any], path: Path, conf: Path) -> None:
    """Refuses callbacks and loggers of a configuration that may come from anywhere, unless `conf` has them.

    Some of Lightning's callbacks write to any path, and its loggers send to any address. So paths, addresses and
    classes are those of `conf`: the file adds numbers, and names of data, models and metrics. An address that `conf`
    takes from the environment is taken from there again.

    Args:
        content: changed in place where `conf` looks an entry up in the environment.
        conf: the folder with `callbacks/` and `logger/`.

    Raises:
        UserError: it has another callback, another logger, or another text in one.
    """
    for name, entry in (content.get("callbacks") or {}).items():
        known = [found[name] for found in (OTHER_CALLBACKS, *_configurations(conf / "callbacks")) if found.get(name)]
        _check_part(entry, known, f"{path}: callbacks.{name}", "conf/callbacks")
    logger = content.get("logger") or None
    target = logger.get("_target_") if logger else None
    known = [found for found in _configurations(conf / "logger") if found.get("_target_") == target]
    _check_part(logger, known, f"{path}: logger", "conf/logger")


@functools.cache
def _configurations(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(file.read_text("utf-8")) or {} for file in sorted(folder.glob("*.yaml"))]


def _check_part(entry: Any, known: list[dict[str, Any]], option: str, place: str) -> None:
    """Whether a callback or a logger is one of `known`, but for its numbers and names.

    `place` is where `known` stands.
    """
    if entry is None or (isinstance(entry, dict) and is_trusted_by_user(entry.get("_target_"))):
        return
    expected = f"expected what {place} has, with numbers of its own"
    if not known or not isinstance(entry, dict):
        raise UserError(f"{option} is {str(entry)[:200]}, {expected}.{_how_to_trust(entry)}")
    for key, value in entry.items():
        own = [one[key] for one in known if key in one]
        texts = [text for text in own if isinstance(text, str) and "${" in text]
        looked_up = next((text for text in texts if "${" in REFERENCE.sub("", text)), None)
        is_number = value is None or (isinstance(value, bool | int | float) and not key.startswith("_"))
        if looked_up is not None:
            entry[key] = OmegaConf.create({key: looked_up})[key]
        elif not (is_number or value in own or (texts and isinstance(value, str) and NAME.fullmatch(value))):
            raise UserError(f"{option}.{key} is {str(value)[:200]!r}, {expected}.{_how_to_trust(entry)}")


def _how_to_trust(entry: Any) -> str:
    module = str(entry.get("_target_") if isinstance(entry, dict) else "").rpartition(".")[0]
    if not module:
        return ""
    return (
        "\nA file of unknown origin could write to any path and send to any address. If the run is your own, say so in "
        f"the environment: IMGBENCH_TRUST={module}"
    )


_own_targets: set[str] = set()
_own_configurations: set[str] = set()


def trust_configuration(text: str) -> None:
    """Notes that this process wrote a `config.yaml` of this content, so that its callbacks are the user's own."""
    _own_configurations.add(text)


def is_own_configuration(text: str) -> bool:
    """Whether this process wrote a `config.yaml` of this content."""
    return text in _own_configurations


def trust_target(target: Any) -> None:
    """Lets `check_target` pass what the user's own configuration names, for as long as this process lasts."""
    if not str(target).startswith(TRUSTED):  # which are looked at more closely where a checkpoint names them
        _own_targets.add(str(target))


def is_trusted_by_user(target: Any) -> bool:
    """Whether the user's own configuration names `target`, or the environment variable `IMGBENCH_TRUST` its module."""
    names = filter(None, re.split(r"[\s,]+", os.environ.get("IMGBENCH_TRUST", "")))
    return target in _own_targets or str(target).startswith(tuple(f"{name}." for name in names))


def check_target(target: Any, option: str, modules: tuple[str, ...] = TRUSTED) -> None:
    """Refuses the `_target_` of a checkpoint or of another's run before anything is imported by its name.

    Importing a module executes it, and whoever sends a checkpoint can send a module along. From all but packages whose
    name ends in a dot, only what lies in the module itself is taken: a module has in it all that it imports.

    Raises:
        UserError: it lies in no module that is trusted; `option` says where it stands.
    """
    if not (isinstance(target, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target)):
        raise UserError(f"{option}={target!r}, but a _target_ is the dotted name of a class, such as torch.nn.Linear.")
    if is_trusted_by_user(target):
        return
    package, module = target.split(".")[0], target.rpartition(".")[0]
    trusted = module in modules or f"{module}.".startswith(tuple(name for name in modules if name.endswith(".")))
    if not trusted or _lies_in_working_directory(package):
        known = ", ".join(name.rstrip(".") for name in modules) or "nothing"
        raise UserError(
            f"{option}={target} is not imported: a file of unknown origin could name any code, so only what is "
            f"installed of {known} is trusted there.\nIf {package} is your own, say so in the environment: "
            f"IMGBENCH_TRUST={package}"
        )


def _lies_in_working_directory(package: str) -> bool:
    """Whether an import of `package` would take what happens to lie there in place of what is installed."""
    if package in sys.modules:
        return False
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return any(Path(place).resolve().parent == Path.cwd() for place in places)
