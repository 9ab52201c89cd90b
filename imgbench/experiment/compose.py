"""Composing configurations from `conf`, and overriding that of a run; Hydra does both, and torch is not needed."""

import difflib
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imgbench.data.spreadsheet import ENDINGS as TABLES
from imgbench.errors import UserError
from imgbench.experiment.defaults import default_model
from imgbench.run import CONF, Run
from imgbench.trust import refers_to_plain_entries

# The groups whose entries a run's configuration holds under their names.
GROUPS = ("data", "model", "augment", "objective", "optimizer", "scheduler", "callbacks", "trainer", "logger")
ENGINES = ("launcher", "sweeper")  # groups of what runs a sweep; the configuration of a run has none of them
LEFT_OUT = ("head", "experiment", *ENGINES)  # groups where nothing need be chosen
RENAMED = {"data.short_side": "data.resize, and null there is data.resize=stretch"}  # what earlier versions had
RUN_CHOICE = "of_the_run"
STORED_RUN = f"{RUN_CHOICE}.yaml"  # as Hydra calls it in its store
PATHS = (
    "data.root",
    "data.labels",
    "data.unlabelled",
    "data.corrections",
    "data_dir",
    "init_from",
    "ckpt_path",
    "output",
    "hydra.run.dir",
)


def slug(text: str) -> str:
    """A text as a directory name: blanks, slashes, quotes, brackets and `=` become `-`; at most 100 characters.

    Of one that is longer, the end is a hash of the text, so that two runs of a sweep do not share a directory.
    """
    name = re.sub(r"[^\w.,+]+", "-", text).strip("-")
    return name if len(name) <= 100 else f"{name[:91]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def register_resolvers() -> None:
    """What `conf` asks OmegaConf for; not done by importing, which is to change nothing in the caller's process."""
    OmegaConf.register_new_resolver("imgbench.slug", slug, replace=True)
    OmegaConf.register_new_resolver("imgbench.name_of_data", name_of_data, replace=True)
    OmegaConf.register_new_resolver("imgbench.name_of_model", name_of_model, replace=True)
    OmegaConf.register_new_resolver("imgbench.model_of", default_model, replace=True)
    OmegaConf.register_new_resolver("imgbench.choices", help_on_choices, replace=True)
    # Cached, since once it is made, the directory is there.
    OmegaConf.register_new_resolver("imgbench.new_directory", new_directory, replace=True, use_cache=True)


def new_directory(path: str) -> str:
    """The path, or one like it if that is there, made by a run that started in the same second.

    Of the processes that SLURM starts for one training, each would read another time: they take the job's number.
    """
    job, processes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_NTASKS", "1")
    if job and processes != "1":
        return str(Path(path).with_name(f"slurm-{job}-{os.environ.get('SLURM_STEP_ID', '0')}"))
    places = itertools.chain([path], (f"{path}_{number}" for number in itertools.count(2)))
    return next(place for place in places if not Path(place).exists())


def name_of_data(choice: str, words: Sequence[str]) -> str:
    """The name of the data set: that of its choice, or where this can be any folder, that of the folder.

    Of a sweep over several, it names them all.
    """
    if several := _swept("data", words):
        return several
    roots = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("data.root=")]
    if choice not in ("folder", "labels") or not roots or roots[-1] in ("", "null"):
        return choice
    places = [roots[-1]] if Path(roots[-1]).expanduser().exists() else roots[-1].split(",")
    names = [Path(place).expanduser().resolve().name for place in places]
    return slug(",".join(names)).lstrip(".,+-") or choice


def name_of_model(choice: str, words: Sequence[str]) -> str:
    """The name of the network: that of its choice; of a sweep over several, it names them all."""
    return _swept("model", words) or choice


def _swept(group: str, words: Sequence[str]) -> str:
    """What a sweep goes over, where it does so in a group, or in experiments, which choose of it too; else ""."""
    for key in (group, "experiment"):
        chosen = [word for word in words if word.startswith(f"{key}=")]
        if chosen:
            several = OverridesParser.create().parse_override(chosen[-1]).is_sweep_override()
            return slug(chosen[-1].partition("=")[2]) if several else ""
    return ""


def with_folder(words: Sequence[str]) -> list[str]:
    """The words, in which a folder that stands first is `data.root`, and where that is set, `data` is a folder.

    A table of labels in its place stands for itself and the folder that it lies in.
    """
    result = list(words)
    first = next((place for place, word in enumerate(words) if word not in ("-m", "--multirun")), None)
    if first is not None and "=" not in words[first] and Path(words[first]).is_dir():
        result[first] = f"data.root={words[first]}"
    elif first is not None and Path(words[first]).suffix.lower() in TABLES and Path(words[first]).is_file():
        result[first : first + 1] = [f"data.root={Path(words[first]).parent}", f"data.labels={words[first]}"]
    root = next((place for place, word in enumerate(result) if word.startswith("data.root=")), None)
    chosen = any(word.startswith(("data=", "experiment=", "--config-", "-cd", "-cn", "-cp")) for word in result)
    if root is not None and not chosen:
        result.insert(root, "data=folder")
    return result


def quoted(word: str) -> str:
    """`key=value` as Hydra's grammar wants it: quoted only if Hydra cannot parse it as it is.

    So a path with brackets or Chinese, one that looks like a number, and a regular expression are typed as they are.

    Raises:
        UserError: the key is missing, or a group's choice is null.
    """
    key, equals, value = word.partition("=")
    if equals and not key:
        raise UserError(f"{word!r} is not understood: expected key=value.")
    if key in (*GROUPS, *LEFT_OUT) and value == "null":
        raise UserError(f"{word}, but it is {' or '.join(choices(key))}{', or left out' if key in LEFT_OUT else ''}.")
    closed = all(value.count(left) == value.count(right) for left, right in ("()", "[]", "{}"))
    if not equals or not closed:  # a list that is not closed is a slip, not a path
        return word
    if key.lstrip("+") in PATHS and "${" in value and Path(value).exists():
        value = value.replace("${", "\\${")  # a folder of that name, and no reference
    elif _parses(word) and not (key.lstrip("+") in PATHS and _is_no_text(word)):
        return word
    escaped = value.replace('"', '\\"')
    candidate = f'{key}="{escaped}"'
    return candidate if _parses(candidate) else word


def _is_no_text(word: str) -> bool:
    return isinstance(OverridesParser.create().parse_override(word).value(), bool | int | float)


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
    return _compose(CONF, config_name, with_folder(words))


def _compose(folder: Path, config_name: str, words: Sequence[str]) -> DictConfig:
    register_resolvers()
    try:
        with _hydra_of_its_own(), hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            config = hydra.compose(config_name, [quoted(word) for word in words], return_hydra_config=True)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            if choices.get("data") != RUN_CHOICE:
                config.data_name = name_of_data(choices.get("data"), words)
            if choices.get("model") != RUN_CHOICE:
                config.model_name = choices.get("model")
            del config["hydra"]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, words)) from error
    return config


@contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Of Hydra there is one in a process; a caller's, also that of a command, is as it was afterwards."""
    kinds = (GlobalHydra, VersionBase)
    callers = {kind: Singleton._instances.pop(kind) for kind in kinds if kind in Singleton._instances}
    hidden = [(node, node.pop(STORED_RUN)) for node in _stores_of_runs(ConfigStore.instance().repo)]
    try:
        yield
    finally:
        for node, run in hidden:
            node[STORED_RUN] = run
        for kind in kinds:
            Singleton._instances.pop(kind, None)
        Singleton._instances.update(callers)


def _stores_of_runs(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Where Hydra keeps the run that a command was composed of: the names of another would clash with it."""
    below = [found for child in node.values() if isinstance(child, dict) for found in _stores_of_runs(child)]
    return [*below, node] if STORED_RUN in node else below


def is_open(config: DictConfig) -> bool:
    """Whether the configuration names several networks in place of one."""
    return "candidates" in config.model


def with_model(config: DictConfig, name: str) -> DictConfig:
    """The configuration with the network of `conf/model/<name>.yaml`."""
    content = compose([f"model={name}"])  # a file may build on another
    result = config.copy()
    OmegaConf.set_struct(result, False)
    result.model, result.model_name = content.model, name
    return result


def with_one_model(config: DictConfig) -> DictConfig:
    """The configuration itself, or where it compares several networks, with the compact one."""
    return with_model(config, "compact") if is_open(config) else config


def choices(group: str) -> list[str]:
    """The names of the configurations of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def help_on_choices(*groups: str) -> str:
    """The choices of each group on a line, as a command's help lists them."""
    return "\n".join(f"{group}: {', '.join(choices(group))}" for group in groups)


def explain(error: Exception, words: Sequence[str] = ()) -> str:
    """What Hydra or OmegaConf found wrong with these `key=value` words, as a user would say it."""
    if isinstance(error, InstantiationException):
        if isinstance(error.__cause__, UserError):
            return str(error.__cause__)
        place = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE) or re.search(r"target '(.+)'", str(error))
        return f"{place[1] if place else 'The configuration'} cannot be used as it is: {error.__cause__ or error}"
    if isinstance(error, OverrideParseException):
        folder = "" if "=" in str(error.override) else "there is no such folder. Otherwise, "
        return (
            f"{error.override} is not understood: {folder}expected key=value, group=choice, +key=value for a new "
            "entry, or ~key to remove one.\nA value with = , blanks or brackets needs double quotes inside single "
            "ones: 'key=\"a value\"'"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: there is no such choice{_near(choice, error.options)}\nThere are: " + ", ".join(
            sorted(error.options)
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if missing := re.match("Interpolation key '(.+)' not found", reason):
        word = next((word for word in words if f"${{{missing[1]}}}" in word), f"${{{missing[1]}}}")
        return f"{word} refers to the entry {missing[1]}, which the configuration does not have."
    if several := re.match(r"Ambiguous value for argument '(.+)'", reason):
        return (
            f"{several[1]} names several values, a sweep, which imgbench.train -m runs. A text with commas needs "
            "double quotes inside single ones, 'key=\"a, b\"', and a list brackets."
        )
    if unknown := re.match(r"Could not override '(.+)'", reason):
        key = unknown[1]
        if key in RENAMED:
            return renamed(key)
        return f"{key}: the configuration has no such entry{_near(key, _entries(words))} +{key}=... adds it."
    return reason


def renamed(key: str) -> str:
    """What to write in place of an entry of earlier versions."""
    return f"{key} is now called {RENAMED[key]}."


def _near(name: str, known: Iterable[str]) -> str:
    """The known names that look like this one, or end as it does, as a question to a user who mistyped it."""
    known = list(known)
    found = [entry for entry in known if entry.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    found = found or difflib.get_close_matches(name, known, n=2)
    return f"; did you mean {' or '.join(found)}?" if found else "."


def _entries(words: Sequence[str]) -> Iterator[str]:
    """The keys of the configuration that those of the words give that choose something."""
    choosing = [word for word in words if word.partition("=")[0] in (*GROUPS, *LEFT_OUT)]
    try:
        pending: list[tuple[str, Any]] = [("", compose(choosing))]
    except UserError:
        return
    while pending:
        place, node = pending.pop()
        for key in node if OmegaConf.is_dict(node) else ():
            yield place + str(key)
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                pending.append((f"{place}{key}.", node[key]))


def override(run: Run, words: Sequence[str] = (), base: str = "train", anew: bool = True) -> DictConfig:
    """A run's configuration with `key=value` words put in place; choices of a group come from `conf`.

    Args:
        base: the command, `train` or `study`.
        anew: without the weights that the run itself started from.

    Raises:
        UserError: a word is not understood, or names a choice or an entry that there is not.
    """
    files = files_of(run, words, base)
    files[RUN_CHOICE].update(ckpt_path=None, hydra={"searchpath": [f"file://{CONF}"]})
    if anew:
        files[RUN_CHOICE].update(init_from=None)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            _write_yaml(path, content)
        config = _compose(Path(folder), RUN_CHOICE, words)
    OmegaConf.set_struct(config, False)
    return config


def files_of(run: Run, words: Sequence[str], base: str = "train") -> dict[str, dict[str, Any]]:
    """A run's configuration as Hydra's files, name -> content; the one to compose is `RUN_CHOICE`.

    It is `conf/<base>.yaml` with what the run has of a group as one more choice of that group. So Hydra composes it
    as it composes any other, and a word that chooses another replaces the run's.

    Raises:
        UserError: the run's configuration is damaged, or a word is none for a run.
    """
    for word in words:
        if word.startswith("experiment="):
            raise UserError(f"{word} is a whole recipe: train it with imgbench.train. Here, name single choices.")
    stored = run.stored_config
    files = {f"{group}/{RUN_CHOICE}": stored.pop(group, None) or {} for group in GROUPS}
    place = []
    for group in ("data", "model"):
        if any(word.startswith(f"{group}=") for word in words):
            stored.pop(f"{group}_name", None)  # it is that of the choice
        place.append(stored.get(f"{group}_name") or f"${{hydra.runtime.choices.{group}}}")
    sweep = {"sweep": {"dir": "/".join(["outputs", *place, "${now:%Y-%m-%d_%H-%M-%S}"])}}
    defaults = [base, *({f"override /{group}": RUN_CHOICE} for group in GROUPS), "_self_"]
    files[RUN_CHOICE] = {"defaults": defaults, **stored, "hydra": sweep}
    return files


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def storable(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts and lists for `config.yaml`.

    All is resolved but what refers to a plain entry, such as `${data.num_classes}`: when that entry is overridden,
    what follows from it follows.
    """
    return _resolved_but_references(config, config)


def _resolved_but_references(node: Any, root: DictConfig) -> Any:
    raw: Any = OmegaConf.to_container(node, resolve=False)
    if OmegaConf.is_dict(node):
        return {str(key): _entry(node, key, raw[key], root) for key in node}
    assert OmegaConf.is_list(node)
    return [_entry(node, key, raw[key], root) for key in range(len(node))]


def _entry(node: Any, key: Any, raw: Any, root: DictConfig) -> Any:
    if isinstance(raw, str) and "${" in raw and refers_to_plain_entries(raw, OmegaConf.to_container(root)):
        return raw
    value = node[key]
    return _resolved_but_references(value, root) if OmegaConf.is_config(value) else value
