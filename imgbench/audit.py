"""Looks for what makes a number untrue before anything is trained: `python -m imgbench.audit data=potato`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from imgbench.cli import hydra_command
from imgbench.run import Run, write_atomically

if TYPE_CHECKING:
    from imgbench.inspection.audit import Audit

EXIT_CODES = {"clean": 0, "suspect": 1, "leaks": 3}  # 2 is for errors


def audit(config: DictConfig) -> "Audit":
    """Inspects the images of a composed configuration; the result is kept in the cache until they change.

    Raises:
        UserError: the images cannot be used as they are.
    """
    from imgbench.experiment import build  # takes seconds, and --help needs no torch

    return build.inspect(config)


@hydra_command("audit")
def main(config: DictConfig) -> None:
    result = audit(config)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    write_atomically(run.path / "audit.json", result.to_json(), errors="surrogateescape")
    print(f"{result.summary()}\nWritten to {run.shown}/audit.json")
    sys.exit(EXIT_CODES[result.verdict])


if __name__ == "__main__":
    main()
