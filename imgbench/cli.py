"""What commands share: the way into Hydra, the command line of those that read runs, errors without stack traces."""

import argparse
import errno
import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import UserError
from imgbench.experiment.compose import quoted, register_resolvers
from imgbench.run import CONF, NO_PLACE, Run

# What the user can mend, by whatever library it was noticed.
MENDABLE = (UserError, HydraException, OmegaConfBaseException)


def fail(message: object) -> None:
    """Ends the command with a message and exit code 2."""
    print(f"\nError: {message}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def _errors_in_plain_words(place: str) -> Iterator[None]:
    """Ends the command with one message where the user can mend the error; `place` is the option of the output."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` shall end a command without a stack trace
    # Imported for the first time, matplotlib reports that it "generated new fontManager".
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their developers; what a user must know, imgbench says itself
    try:
        yield
    except OverrideParseException as error:
        fail(
            f"{error.override!r} is not understood: {error}\n"
            "A value with = , blanks or brackets needs double quotes inside single ones: 'key=\"a value\"'"
        )
    except MENDABLE as error:
        fail(error)
    except OSError as error:
        if error.filename is None and error.errno not in NO_PLACE:
            raise
        hint = f"\n{place} puts the results elsewhere." if error.errno in (*NO_PLACE, errno.ENOTDIR) else ""
        fail(f"{error.strerror}{f': {error.filename}' if error.filename else ''}{hint}")
    except KeyboardInterrupt:
        sys.exit(130)


def hydra_command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes `main(config)` a command configured by `conf/<config_name>.yaml` and `key=value` words."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failed: list[Exception] = []

        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            try:
                return function(config)
            except (*MENDABLE, OSError) as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    print(f"\nError: {error}\nThe sweep goes on without this run.", file=sys.stderr)
                else:
                    failed.append(error)  # raised within a task, Hydra would print a line of its own before it
                return None

        command = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)

        @functools.wraps(function)
        def run() -> None:
            sys.argv[1:] = map(quoted, sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, instead of printing them its own way
            register_resolvers()
            with _errors_in_plain_words("hydra.run.dir=DIR"):
                _check_foreign_run(sys.argv[1:])
                command()
                if failed:
                    raise failed[0]

        return run

    return decorate


def _check_foreign_run(words: list[str]) -> None:
    """A run's configuration may come from somebody else: with `--config-dir RUN`, what it names is checked first."""
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            run = Run(Path(value if equals else next(iter(words[position + 1 :]), "")))
            if (run.path / "run.json").is_file():
                assert run.config


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
    with _errors_in_plain_words("--output DIR"):
        sys.exit(function() or 0)
