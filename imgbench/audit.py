"""Inspects a data set before anyone relies on a number: `python -m imgbench.audit data=folder data.root=/my/photos`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from imgbench.cli import hydra_command
from imgbench.run import Run, write_atomically

if TYPE_CHECKING:
    from imgbench.data.table import ImageTable
    from imgbench.inspection.audit import Audit

EXIT_CODES = {"clean": 0, "suspect": 1, "leaks": 3}  # 2 is for errors


def write_audit(table: "ImageTable", result: "Audit", folder: Path) -> None:
    """Writes audit.json, a picture of pairs and a page."""
    from imgbench.evaluation.plots import draw_pairs
    from imgbench.inspection.audit import shown_pairs
    from imgbench.inspection.page import audit_page

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "audit.json", result.to_json(), errors="surrogateescape")
    picture = None
    if result.pairs:
        picture = folder / "pairs.png"
        draw_pairs(*shown_pairs(table, result), picture)
    write_atomically(folder / "audit.html", audit_page(result, picture), errors="replace")


@hydra_command("audit")
def main(config: DictConfig) -> None:
    from imgbench.experiment.build import read_data  # takes seconds, and --help needs no torch
    from imgbench.inspection.audit import audit, summary

    table = read_data(config).table
    result = audit(table)
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    write_audit(table, result, run.path)
    print(f"\n{summary(result)}\nWritten to {run.shown}")
    sys.exit(EXIT_CODES[result.verdict])


if __name__ == "__main__":
    main()
