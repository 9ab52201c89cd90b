"""The table that ends a sweep: its runs, best first."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table


class SweepTable(Callback):
    """Collects the runs of a `--multirun` and prints them with their overrides and accuracies."""

    def __init__(self) -> None:
        self.rows: list[tuple[list[str], Path, float | None]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if job_return.hydra_cfg is None:
            return
        hydra = job_return.hydra_cfg.hydra
        score = job_return.return_value if job_return.status == JobStatus.COMPLETED else None
        self.rows.append((list(hydra.overrides.task), Path(hydra.runtime.output_dir), score))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        highest_first = config.mode == "max"
        worst = float("-inf") if highest_first else float("inf")
        rows = sorted(self.rows, key=lambda row: worst if row[2] is None else row[2], reverse=highest_first)
        table = Table(title=f"{len(rows)} runs, best {config.monitor} first")
        for name in ("overrides", config.monitor, "test accuracy", "95 % interval", "seconds", "run directory"):
            table.add_column(name, overflow="fold")
        for overrides, path, score in rows:
            table.add_row(
                " ".join(overrides), "failed" if score is None else f"{score:.4f}", *_outcome(path), str(path)
            )
        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # a log file has no width of its own
        console.print(table)
        if sum(score is not None for *_, score in rows) > 1:
            folder = shlex.quote(os.path.commonpath([path for _, path, _ in rows]))
            print(f"Next  python -m imgbench.compare {folder}")
        if any(score is None for *_, score in rows):
            sys.exit(1)


def _outcome(run: Path) -> tuple[str, str, str]:
    try:
        accuracy = json.loads((run / "metrics.json").read_text("utf-8"))["test/acc"]
        seconds = json.loads((run / "run.json").read_text("utf-8"))["seconds"]
    except (OSError, KeyError):
        return "", "", ""
    return f"{accuracy['value']:.4f}", f"{accuracy['low']:.3f} to {accuracy['high']:.3f}", f"{seconds:.0f}"
