"""What the audit says: a finding."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from imgbench.inspection.labels import Suspect

EXAMPLES = 10
PROBE = "probe: "  # how the kind of a finding of a probe for shortcuts begins

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in `count` images or places. `examples` names the first few.

    A `note` is worth knowing, a `warning` may spoil the result, an `error` makes a reported number untrue. `remedy` is
    what mends it: a command, an option, or what to do by hand. `accuracy` is what a probe reached: a `Number` as a
    dict, and its `skill` (see `imgbench.inspection.shortcuts.Probe`). `suspects` are all labels that are doubted, the
    most suspicious first.
    """

    kind: str
    severity: Severity
    message: str
    count: int
    examples: list[str] = field(default_factory=list)
    remedy: str | None = None
    accuracy: dict[str, Any] | None = None
    suspects: list[Suspect] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Finding":
        """Of an `audit.json`; those of earlier versions have no suspects."""
        return cls(**{**values, "suspects": [Suspect(**suspect) for suspect in values.get("suspects", ())]})


def first_few(paths: Sequence[str]) -> list[str]:
    return list(paths[:EXAMPLES])
