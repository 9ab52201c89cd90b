"""The way into Hydra: commands configured by `key=value` words, and by another's run."""

import functools
import importlib.util
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imgbench.cells import visible
from imgbench.cli import MENDABLE, errors_in_plain_words, go_on_unread, plain_words
from imgbench.errors import UserError
from imgbench.experiment.compose import ENGINES, RUN_CHOICE, choices, files_of, quoted, register_resolvers, with_folder
from imgbench.provenance import first_process
from imgbench.run import CONF, Run

SHOWING = ("--cfg", "-c", "--info", "-i")
CONFIG_OPTIONS = {"-cd": "--config-dir", "-cp": "--config-path", "-cn": "--config-name"}


def hydra_command(
    config_name: str, rewritten: Callable[[list[str]], list[str] | None] = list
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes `main(config)` a command configured by `conf/<config_name>.yaml` and `key=value` words.

    `rewritten` makes of the words that were typed those that Hydra gets, or None where there is nothing to do.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failed: list[Exception] = []
        typed: list[str] = []

        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            if not first_process():  # which says the same
                logging.disable(logging.WARNING)
            sys.argv = typed[:]  # what run.json shows, and what further processes of this training are started with
            try:
                return function(config)
            except Exception as error:
                if HydraConfig.get().mode != RunMode.MULTIRUN:
                    failed.append(error)  # raised within a task, Hydra would print a line of its own before it
                elif isinstance(error, MENDABLE):
                    print(
                        f"\nError: {visible(plain_words(error, _place(typed)))}\nThe sweep goes on without this run.",
                        file=sys.stderr,
                    )
                else:
                    raise
                return None

        @functools.wraps(function)
        def run() -> None:
            typed[:] = sys.argv
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, instead of printing them its own way
            register_resolvers()
            go_on_unread()
            with errors_in_plain_words(_place(typed)):
                words = rewritten(sys.argv[1:])
                if words is None:
                    return
                words = with_folder(words)
                _refuse_sweeps_of_help(words)
                _require_engines(words)
                sys.argv[1:] = map(quoted, _with_run(words, config_name))
                # Made here and not above, since that sets the version of Hydra's behaviour for the whole process.
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
                if failed:
                    raise failed[0]

        return run

    return decorate


@contextmanager
def interruption_explained(command: str, run: Run) -> Iterator[None]:
    """Says after Ctrl-C how the work in the run's directory goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if first_process():
            again = f"imgbench {command} --resume {shlex.quote(str(run.shown))}"
            begun = (run.path / "config.yaml").is_file()
            print(f"\nInterrupted. {f'To go on: {again}' if begun else 'Nothing was begun: repeat the command.'}")
        raise


def _place(words: list[str]) -> str:
    """The option that puts the results elsewhere."""
    return "hydra.sweep.dir=DIR" if _is_sweep(words) else "hydra.run.dir=DIR"


def _is_sweep(words: list[str]) -> bool:
    return bool({"-m", "--multirun"} & set(words))


def _refuse_sweeps_of_help(words: list[str]) -> None:
    """Refuses `-m` beside what shows one configuration and runs nothing."""
    shown = next((word for word in words if word.partition("=")[0] in SHOWING), None)
    if shown and _is_sweep(words):
        raise UserError(f"{shown} shows one configuration, and -m runs several. Leave one of them out.")


def _require_engines(words: list[str]) -> None:
    """Refuses a launcher or a sweeper whose package is not installed, or that has no sweep to run."""
    for word in words:
        key, _, name = word.partition("=")
        if key not in ENGINES or name not in choices(key):
            continue
        extra = {"submitit_local": "slurm", "ray": "hydra-ray"}.get(name, name)
        plugin = f"hydra_plugins.hydra_{'submitit' if extra == 'slurm' else name}_launcher"
        if not _is_installed("optuna" if key == "sweeper" else plugin):
            raise UserError(f'{word}: the package is not installed. Mend it with: pip install "imgbench[{extra}]"')
        if not _is_sweep(words):
            raise UserError(f"{word} runs a sweep: add -m, and a value with several choices, such as model=cnn,vgg13.")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would lie in
        return False


def _with_run(words: list[str], config_name: str) -> list[str]:
    """A command line in which `--config-dir RUN --config-name config` is a configuration made of the run's.

    Hydra would take whatever lies there, and a run may come from anybody.
    """
    options: dict[str, str] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        name = CONFIG_OPTIONS.get(name, name)
        if name in CONFIG_OPTIONS.values():
            options[name] = value if equals else next(rest, "")
        else:
            others.append(word)
    folder = options.get("--config-dir") or options.get("--config-path")
    if folder is None or options.get("--config-name", "config").removesuffix(".yaml") != "config":
        return words
    if "--config-name" not in options and not (Path(folder) / "run.json").is_file():
        return words  # a folder with further choices
    store = ConfigStore.instance()
    for name, content in files_of(Run.open(folder), others, config_name).items():
        group, _, choice = name.rpartition("/")
        store.store(choice, content, group or None)
    return [f"--config-name={RUN_CHOICE}", *others]
