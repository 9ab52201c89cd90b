"""Looks for what makes a number untrue before anything is trained: `python -m imgbench.audit data=potato`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from imgbench.cells import visible
from imgbench.hydra_entry import hydra_command
from imgbench.progress import loading
from imgbench.run import Run

if TYPE_CHECKING:
    from imgbench.inspection.audit import Audit

ON_RAY = "launcher=ray"
EXIT_CODES = {"clean": 0, "suspect": 1, "leaks": 3}  # 2 is for errors


def audit(config: DictConfig, folder: Path | None = None) -> "Audit":
    """Inspects the images of a composed configuration; the result is kept in the cache until they change.

    `folder` gets audit.json, audit.html and pairs.png.

    Raises:
        UserError: the images cannot be used as they are.
    """
    with loading():  # takes seconds, and --help needs no torch
        from imgbench.experiment.inspect import inspect_configured

    return inspect_configured(config, folder)


def as_words(words: list[str]) -> list[str]:
    """`launcher=ray` divides the images of one audit, as it does the audits of a sweep."""
    if ON_RAY not in words or {"-m", "--multirun"} & set(words):
        return words
    return ["+data.launcher=ray" if word == ON_RAY else word for word in words]


@hydra_command("audit", as_words)
def main(config: DictConfig) -> None:
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    result = audit(config, run.path)
    print(visible(result.summary()))
    print(f"Written to {run.shown}: audit.html, audit.json{', pairs.png' if result.pairs else ''}")
    if HydraConfig.get().mode != RunMode.MULTIRUN:  # an exit would end all of them
        sys.exit(EXIT_CODES[result.verdict])


if __name__ == "__main__":
    main()
