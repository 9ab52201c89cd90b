"""The audit of configured images."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from imgbench.data.table import ImageTable
from imgbench.experiment.build import build_data
from imgbench.inspection.audit import Audit, brief
from imgbench.inspection.record import FILE, inspect, write_audit, write_findings
from imgbench.progress import quiet
from imgbench.run import Run
from imgbench.stored_config import switched_on

log = logging.getLogger(__name__)


def inspect_configured(config: DictConfig, folder: Path | None = None) -> Audit:
    """The audit of the configured images; `folder` gets audit.json, audit.html and pairs.png.

    Raises:
        UserError: they cannot be used as they are.
    """
    with quiet("imgbench.data.read"):  # the result says the same
        table = build_data(config).table
    result = inspect(table)
    if folder:
        write_audit(result, folder)
    return result


def audit_before_training(config: DictConfig, table: ImageTable, run: Run) -> None:
    """Leaves `audit.json` in the run and logs the verdict, where that is wanted."""
    (run.path / FILE).unlink(missing_ok=True)
    if switched_on(config, "data.audit"):
        result = inspect(table)
        write_findings(result, run.path)
        log.info("%s", brief(result))
