"""What all commands share: where the configuration lies, and errors without a stack trace."""

import functools
import logging
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import ConfigError
from imgbench.run import CONF


def slug(text: str) -> str:
    """A text as a directory name: blanks, slashes, quotes, brackets and `=` become `-`; at most 100 characters."""
    return re.sub(r"[^\w.,+-]+", "-", text)[:100].strip("-")


OmegaConf.register_new_resolver("imgbench.slug", slug, replace=True)


def fail(message: object) -> None:
    """Ends the command with a message and exit code 2."""
    print(f"\nError: {message}", file=sys.stderr)
    sys.exit(2)


def hydra_command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes `main(config)` a command configured by `conf/<config_name>.yaml` and `key=value` words."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def guarded(config: DictConfig) -> Any:
            try:
                return function(config)
            except (ConfigError, OmegaConfBaseException) as error:
                fail(error)

        command = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)

        @functools.wraps(function)
        def run() -> None:
            try:
                command()
            except OSError as error:  # Hydra makes the run directory before anything of ours runs
                fail(f"{error.strerror}: {error.filename}. hydra.run.dir=DIR puts the run elsewhere.")

        return run

    return decorate


def guarded_main(function: Callable[[], int | None]) -> None:
    """Runs a command that reads runs: its return value is the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends the command without a stack trace
    try:
        sys.exit(function() or 0)
    except ConfigError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
