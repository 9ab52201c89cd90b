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


def write_audit(result: "Audit", folder: Path) -> None:
    """Writes audit.json, a picture of the pairs of duplicates, and a page with both."""
    from imgbench.evaluation.plots import draw_pairs
    from imgbench.inspection.audit import shown_pairs
    from imgbench.inspection.page import audit_page

    write_atomically(folder / "audit.json", result.to_json(), errors="surrogateescape")
    picture = folder / "pairs.png" if result.pairs else None
    if picture:
        draw_pairs(*shown_pairs(result), picture)
    write_atomically(folder / "audit.html", audit_page(result, picture), errors="replace")


@hydra_command("audit")
def main(config: DictConfig) -> None:
    result = audit(config)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    write_audit(result, run.path)
    print(f"{result.summary()}\nWritten to {run.shown}: audit.html, audit.json{', pairs.png' if result.pairs else ''}")
    sys.exit(EXIT_CODES[result.verdict])


if __name__ == "__main__":
    main()
