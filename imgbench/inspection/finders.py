"""The further questions of an audit, as findings: probes for shortcuts, which labels to look at, shifted splits."""

from collections.abc import Iterator, Sequence

from imgbench.data.table import ImageTable
from imgbench.inspection.findings import PROBE, Finding, first_few
from imgbench.inspection.labels import label_suspects
from imgbench.inspection.shift import shift
from imgbench.inspection.shortcuts import probe


def probe_findings(table: ImageTable, groups: Sequence[str]) -> Iterator[Finding]:
    """What each probe reaches; a warning where it knows more than it should."""
    for found in probe(table, groups):
        severity = "warning" if found.warning else "note"
        accuracy = {**found.accuracy.to_dict(), "skill": found.skill}
        yield Finding(f"{PROBE}{found.name}", severity, found.sentence, found.accuracy.n, [], found.warning, accuracy)


def label_findings(table: ImageTable, groups: Sequence[str]) -> Iterator[Finding]:
    """The labels that cross-validated predictions contradict, the most suspicious first."""
    review = label_suspects(table, groups)
    examples = first_few([suspect.sentence for suspect in review])
    yield Finding("label_suspects", "note", review.sentence, len(review), examples, suspects=review.suspects)


def shift_findings(table: ImageTable, groups: Sequence[str]) -> Iterator[Finding]:
    """Whether the splits that the folders give come from elsewhere than the training images."""
    for split in ("val", "test"):
        if split not in table.folder_splits or (found := shift(table, split, groups)) is None:
            continue
        remedy = f"The {split} accuracy is of such photographs. Look at both, and have some of each kind in both."
        number = found.accuracy.to_dict()
        yield Finding(
            f"shift_{split}", "note", found.sentence, found.accuracy.n, [], remedy if found.is_there else None, number
        )
