"""What all commands share: where the configuration lies, and errors without a stack trace."""

import argparse
import functools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import UserError
from imgbench.run import CONF

TEXT_OPTIONS = (
    "data.root", "data.split.group", "data_dir", "ckpt_path", "objective.teacher", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip


def slug(text: str) -> str:
    """A text as a directory name: blanks, slashes, quotes, brackets and `=` become `-`; at most 100 characters."""
    return re.sub(r"[^\w.,+]+", "-", text)[:100].strip("-")


OmegaConf.register_new_resolver("imgbench.slug", slug, replace=True)


def compose(overrides: list[str], config_name: str = "train") -> DictConfig:
    """The configuration that a command would get from these `key=value` words, for use from Python."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # `data_name` and `model_name` ask Hydra for the choices made
    OmegaConf.set_readonly(config.hydra, False)
    config.data_name, config.model_name = config.data_name, config.model_name
    with open_dict(config):
        del config["hydra"]
    return config


LINKS = {"model.num_classes": "data.num_classes", "model.image_size": "data.image_size"}


def override_config(config: dict[str, Any], words: Sequence[str]) -> DictConfig:
    """A run's resolved configuration with `key=value` words put in place; choices of a group are composed from `conf`.

    Raises:
        UserError: a word is not understood, or names a choice or an entry that there is not.
    """
    result = OmegaConf.create({**config, "ckpt_path": None})  # what is trained from it begins anew
    for key, source in LINKS.items():  # follow again what they were resolved from
        if OmegaConf.select(result, key) is not None:
            OmegaConf.update(result, key, f"${{{source}}}")
    for callback in (result.get("callbacks") or {}).values():
        if callback:
            callback.update({key: f"${{{key}}}" for key in ("monitor", "mode") if callback.get(key) == config[key]})
    try:
        parsed = OverridesParser.create().parse_overrides([quote_path(word) for word in words])
        chosen = [word for word in parsed if _is_group(word)]
        for word in chosen:
            _choose(result, str(word.key_or_group), word.value())
        OmegaConf.set_struct(result, True)
        for word in parsed:
            if word.is_sweep_override():
                raise UserError(f"{word.input_line}: a sweep over several values is for imgbench.train -m.")
            if word.is_delete():
                raise UserError(f"{word.input_line}: nothing is deleted here. Set it to null.")
            if word not in chosen:
                key, value = word.key_or_group, word.value()
                OmegaConf.update(result, key, value, merge=True, force_add=word.is_add() or word.is_force_add())
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not understood: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error
    OmegaConf.set_struct(result, False)
    return result


def _is_group(word: Override) -> bool:
    return (CONF / word.key_or_group).is_dir() and (word.value() is None or isinstance(word.value(), str))


def _choose(config: DictConfig, group: str, choice: Any) -> None:
    """Puts a choice of a group, its interpolations unresolved, in place of the run's."""
    if group == "experiment":
        raise UserError(
            f"experiment={choice} is a whole recipe: train it with imgbench.train. Here, name single choices."
        )
    composed = compose([f"{group}={'null' if choice is None else choice}"])
    if group == "head":
        content = OmegaConf.load(CONF / "head" / f"{choice}.yaml") if choice else {}
        config.model = OmegaConf.merge(config.model, content)
        return
    content = OmegaConf.to_container(composed[group], resolve=False) if group in composed else None
    config[group] = content
    if group in ("data", "model"):
        config[f"{group}_name"] = choice


def _end_quietly_on_broken_pipe() -> None:
    """`| head` shall end a command without a stack trace."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def quote_path(word: str) -> str:
    """A path or pattern, `key=value`, as Hydra's grammar wants it: blanks, `=`, brackets and Chinese within quotes.

    Commas, which in a sweep separate several paths, and words that are quoted already stay as they are.
    """
    key, _, value = word.partition("=")
    if (
        key not in TEXT_OPTIONS
        or "," in value
        or value[:1] in ("'", '"')
        or re.fullmatch(r"[\w./~${}:-]*", value, re.ASCII)
    ):
        return word
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def fail(message: object) -> None:
    """Ends the command with a message and exit code 2."""
    print(f"\nError: {message}", file=sys.stderr)
    sys.exit(2)


def hydra_command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes `main(config)` a command configured by `conf/<config_name>.yaml` and `key=value` words."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            try:
                return function(config)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                if HydraConfig.get().mode != RunMode.MULTIRUN:
                    raise
                print(f"\nError: {error}\nThe sweep goes on without this run.", file=sys.stderr)
                return None

        command = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)

        @functools.wraps(function)
        def run() -> None:
            _end_quietly_on_broken_pipe()
            sys.argv[1:] = map(quote_path, sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, instead of printing them its own way
            try:
                command()
            except OverrideParseException as error:
                fail(
                    f"{error.override!r} is not understood: {error}\n"
                    "A value with = , blanks or brackets needs double quotes inside single ones: 'key=\"a value\"'"
                )
            except (UserError, HydraException, OmegaConfBaseException) as error:
                fail(error)
            except OSError as error:
                if error.filename is None:
                    raise
                fail(f"{error.strerror}: {error.filename}\nhydra.run.dir=DIR puts the run elsewhere.")
            except KeyboardInterrupt:
                sys.exit(130)

        return run

    return decorate


def run_parser(name: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """The command line of a command that reads runs: RUN first."""
    parser = argparse.ArgumentParser(
        f"python -m imgbench.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run directory, a checkpoint or an ONNX file")
    return parser


def guarded_main(function: Callable[[], int | None]) -> None:
    """Runs a command that reads runs: its return value is the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _end_quietly_on_broken_pipe()
    try:
        sys.exit(function() or 0)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
