"""Composing configurations from `conf`, and overriding that of a run; Hydra does both, and torch is not needed."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import UserError
from imgbench.run import CONF, Run

# The groups whose entries a run's configuration holds under their names.
GROUPS = ("data", "model", "augment", "objective", "optimizer", "scheduler", "callbacks", "trainer", "logger")
RUN_CHOICE = "of_the_run"


def slug(text: str) -> str:
    """A text as a directory name: blanks, slashes, quotes, brackets and `=` become `-`; at most 100 characters."""
    return re.sub(r"[^\w.,+]+", "-", text)[:100].strip("-")


def register_resolvers() -> None:
    """What `conf` asks OmegaConf for; not done by importing, which is to change nothing in the caller's process."""
    OmegaConf.register_new_resolver("imgbench.slug", slug, replace=True)


def quoted(word: str) -> str:
    """`key=value` as Hydra's grammar wants it: quoted only if Hydra cannot parse it as it is.

    So a path with brackets or Chinese and a regular expression are typed as they are.
    """
    key, equals, value = word.partition("=")
    closed = all(value.count(left) == value.count(right) for left, right in ("()", "[]", "{}"))
    if not equals or not closed or _parses(word):  # a list that is not closed is a slip, not a path
        return word
    escaped = value.replace('"', '\\"')
    candidate = f'{key}="{escaped}"'
    return candidate if _parses(candidate) else word


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def compose(words: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that a command would get from these `key=value` words, for use from Python.

    Raises:
        UserError: a word is not understood, or names a choice or an entry that there is not.
    """
    return _compose(CONF, config_name, words)


def _compose(folder: Path, config_name: str, words: Sequence[str]) -> DictConfig:
    register_resolvers()
    try:
        with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            config = hydra.compose(config_name, [quoted(word) for word in words], return_hydra_config=True)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            for name in ("data", "model"):
                if choices.get(name) != RUN_CHOICE:
                    config[f"{name}_name"] = choices.get(name)
            del config["hydra"]
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not understood: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        if "Ambiguous value" in reason:
            reason = "a sweep over several values is for imgbench.train -m."
        raise UserError(f"{' '.join(words)}: {reason}") from error
    return config


def override(run: Run, words: Sequence[str] = ()) -> DictConfig:
    """A run's configuration with `key=value` words put in place; choices of a group come from `conf`.

    Hydra composes it as it composes any other: what the run has of a group is one more choice of that group.

    Raises:
        UserError: a word is not understood, or names a choice or an entry that there is not.
    """
    for word in words:
        if word.startswith("experiment="):
            raise UserError(f"{word} is a whole recipe: train it with imgbench.train. Here, name single choices.")
    stored = run.stored_config
    with tempfile.TemporaryDirectory() as folder:
        for group in GROUPS:
            place = Path(folder) / group / f"{RUN_CHOICE}.yaml"
            place.parent.mkdir()
            _write_yaml(place, stored.pop(group, None) or {})
        defaults = [*({group: RUN_CHOICE} for group in GROUPS[:2]), {"head": None}]
        defaults += [{group: RUN_CHOICE} for group in GROUPS[2:]] + ["_self_"]
        hydra_node = {"searchpath": [f"file://{CONF}"]}
        begun_anew = {**stored, "ckpt_path": None, "init_from": None}
        _write_yaml(Path(folder) / "run.yaml", {"defaults": defaults, **begun_anew, "hydra": hydra_node})
        config = _compose(Path(folder), "run", words)
    OmegaConf.set_struct(config, False)
    return config


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def storable(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists for `config.yaml`.

    All is resolved but what refers to another entry, such as `${data.num_classes}`: when that entry is overridden, what
    follows from it follows.
    """
    return _resolved_but_references(config)


def _resolved_but_references(node: Any) -> Any:
    if OmegaConf.is_dict(node):
        return {str(key): _entry(node, key) for key in node}
    assert OmegaConf.is_list(node)
    return [_entry(node, index) for index in range(len(node))]


def _entry(node: Any, key: Any) -> Any:
    raw = OmegaConf.to_container(node, resolve=False)[key]
    if isinstance(raw, str) and "${" in raw and not re.search(r"\$\{[^}]*:", raw):
        return raw
    value = node[key]
    return _resolved_but_references(value) if OmegaConf.is_config(value) else value
