"""What an audit leaves in a directory, and what it says beside the numbers of a run."""

from collections.abc import Set
from pathlib import Path

from imgbench.data.table import ImageTable
from imgbench.errors import UserError
from imgbench.evaluation.plots import draw_pairs
from imgbench.files import write_atomically
from imgbench.inspection.audit import Audit, audit, read_audit, shown_pairs
from imgbench.inspection.finders import label_findings, probe_findings, shift_findings
from imgbench.inspection.page import audit_page
from imgbench.run import Run

FILE = "audit.json"


def inspect(table: ImageTable) -> Audit:
    """All that is asked of a data set; from the cache, where its images are as they were."""
    return audit(table, [probe_findings, label_findings, shift_findings])


def write_findings(result: Audit, folder: Path) -> None:
    """Writes audit.json."""
    write_atomically(folder / FILE, result.to_json(), errors="surrogateescape")


def write_audit(result: Audit, folder: Path) -> None:
    """Writes audit.json, a picture of the pairs of duplicates, and a page with both."""
    write_findings(result, folder)
    picture = folder / "pairs.png" if result.pairs else None
    if picture:
        draw_pairs(*shown_pairs(result), picture)
    write_atomically(folder / "audit.html", audit_page(result, picture), errors="replace")


def audit_of(run: Run) -> Audit | None:
    """What was found before the run was trained; None where that was not asked for.

    Raises:
        UserError: the file is damaged.
    """
    file = run.path / FILE
    if not file.is_file():
        return None
    try:
        return read_audit(file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}. Restore it from a copy, or delete it.") from error


def related_to_training(run: Run, found: Audit | None) -> Set[str]:
    """The paths of a run's images that have a relative, by the audit or else by `split.csv`, that it was trained on."""
    rows = run.split_rows()
    names = {row["path"]: row["group"] for row in rows} | (found.relatives if found else {})
    trained = {names[row["path"]] for row in rows if row["split"] == "train"} - {""}
    return {path for path, name in names.items() if name in trained}
