"""The audit of configured images, and what it leaves in a directory."""

from pathlib import Path

from imgbench.evaluation.plots import draw_pairs
from imgbench.experiment.build import inspect
from imgbench.inspection.audit import Audit, shown_pairs
from imgbench.inspection.page import audit_page
from imgbench.run import write_atomically

__all__ = ["inspect", "write_audit"]


def write_audit(result: Audit, folder: Path) -> None:
    """Writes audit.json, a picture of the pairs of duplicates, and a page with both."""
    write_atomically(folder / "audit.json", result.to_json(), errors="surrogateescape")
    picture = folder / "pairs.png" if result.pairs else None
    if picture:
        draw_pairs(*shown_pairs(result), picture)
    write_atomically(folder / "audit.html", audit_page(result, picture), errors="replace")
