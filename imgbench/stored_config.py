"""The entries of a run's `config.yaml`, those of earlier versions among them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from imgbench.errors import UserError

SWITCH = {True: True, "on": True, False: False, "off": False}  # earlier runs say on and off


def with_resize(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run or a model, in which `resize` stands for what was `short_side`, a number or nothing."""
    values = dict(settings)
    if "short_side" in values:
        values["resize"] = values.pop("short_side") or "stretch"
    return values


@dataclass
class _Content:
    """Of a configuration, as the key of a cache."""

    entries: dict[str, Any]

    def __hash__(self) -> int:
        return hash(repr(self.entries))


def resolved(stored: dict[str, Any]) -> dict[str, Any]:
    """A copy in which references such as `${data.num_classes}` are what they refer to."""
    return copy.deepcopy(_resolved(_Content(stored)))


@lru_cache(maxsize=8)  # a command asks for the same configuration dozens of times, and resolving takes long
def _resolved(content: _Content) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.create(content.entries), resolve=True)
    return found


class _PlainDumper(yaml.SafeDumper):
    """Writes what occurs twice twice: an alias is refused by who reads it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_text(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def switched_on(config: Mapping[str, Any] | DictConfig, name: str) -> bool:
    """Whether an entry of `data` such as `data.audit` is true; an earlier run has not all of them, or other words.

    Raises:
        UserError: it is neither.
    """
    value = config["data"].get(name.partition(".")[2], name != "data.audit")
    if value not in SWITCH:
        raise UserError(f"{name}={value!r}, but it is true or false.")
    return SWITCH[value]
