"""What lies in the directory of a finished run, and a fact of it: sentences, and the file that they stand in."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import ERRORS, Selection, checked, select
from imgbench.evaluation.subgroups import Subgroups, from_json
from imgbench.inference.novelty import FEATURES, read_arrays
from imgbench.inspection.audit import Audit
from imgbench.inspection.record import audit_of
from imgbench.number import Number, read_metrics
from imgbench.report.charts import read_epochs
from imgbench.report.content import compared_networks
from imgbench.report.page import ComparedNetwork
from imgbench.run import ACCEPTANCE_FILES, FOLDS, PREDICTIONS, SUBGROUPS, Run
from imgbench.trust import damage_named

CONFIG, INFO, METRICS, SPLIT, EPOCHS = "config.yaml", "run.json", "metrics.json", "split.csv", "metrics.csv"
# Between these stands the key of what is cited; no text from outside has them, see `plain`.
CITE, ENDCITE = "\x02", "\x03"
SOLVED = "imgbench.models.backbone.pooled_features"


def cite(key: str | None) -> str:
    """The mark of a citation, behind what cites it."""
    return f"{CITE}{key}{ENDCITE}" if key else ""


def plain(text: object) -> str:
    """A text from outside on one line, without signs that mean something here or cannot be printed."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in shown).split())


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


@dataclass(frozen=True)
class Fact:
    """Whole sentences, and the file of the run in which they are recorded.

    Args:
        met: whether what is recorded is as it should be; where it is not, the sentences say why.
    """

    text: str
    file: str
    met: bool = True


class Record:
    """What lies in a finished run's directory, each file read when it is first asked for.

    Raises:
        UserError: the run is not finished, or was not evaluated; and, where a file is read, it is damaged.
    """

    def __init__(self, run: Run) -> None:
        missing = [name for name in (METRICS, PREDICTIONS, SPLIT, INFO) if not (run.path / name).is_file()]
        if run.status != "finished" or missing:
            lacks = f", and it has no {' and no '.join(missing)}" if missing else ""
            raise UserError(
                f"{run.shown} is not finished: its status is {run.status!r}{lacks}. A paper is of a run "
                f"that was trained and evaluated: python -m imgbench.train --resume {run.shown}"
            )
        self.run, self.info, self.config = run, run.info, run.config

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        return self.run.split_rows()

    @cached_property
    def fold_rows(self) -> list[list[dict[str, str]]]:
        """Of each fold of a cross-validation, the rows of its own table."""
        return [Run(self.run.path / FOLDS / str(fold)).split_rows() for fold in range(self.run.folds or 0)]

    @cached_property
    def metrics(self) -> dict[str, Number]:
        return read_metrics(self.run.path / METRICS)

    @cached_property
    def predictions(self) -> Predictions:
        return self._predictions(self.run.path / PREDICTIONS)

    @cached_property
    def fold_predictions(self) -> list[Predictions]:
        return [self._predictions(self.run.path / FOLDS / str(i) / PREDICTIONS) for i in range(self.run.folds or 0)]

    @cached_property
    def audit(self) -> Audit | None:
        return audit_of(self.run)

    @cached_property
    def epochs(self) -> list[dict[str, str]]:
        return read_epochs(self.run)

    @cached_property
    def compared(self) -> list[ComparedNetwork]:
        return compared_networks(self.run)

    @cached_property
    def classes(self) -> list[str]:
        return self.predictions.class_names

    @property
    def data(self) -> dict[str, Any]:
        return self.config["data"]

    @property
    def plan(self) -> dict[str, Any]:
        return self.data.get("split") or {}

    @property
    def model(self) -> dict[str, Any]:
        return self.config.get("model") or {}

    @property
    def solved(self) -> bool:
        """Whether nothing but a linear last layer was learnt."""
        return self.model.get("_target_") == SOLVED and bool(self.model.get("freeze_backbone", True))

    @property
    def trained(self) -> bool:
        """Whether weights were learnt in this run: int8 is made of those of another."""
        return self.info.get("method") != "quantize"

    @property
    def selected_on_test(self) -> bool:
        recorded = self.info.get("selected_on_test", (self.info.get("provenance") or {}).get("selected_on_test"))
        return bool(recorded) or self.plan.get("val") == "test"

    @property
    def tested(self) -> Number | None:
        """The accuracy on test images; None where there are none."""
        accuracy = self.metrics.get("test/acc")
        return accuracy if accuracy is not None and accuracy.n else None

    @cached_property
    def counts(self) -> Counter[str]:
        """Images of each split; of a cross-validation, those of the network that is kept."""
        return Counter(row["split"] for row in self.rows)

    @cached_property
    def selections(self) -> list[Selection]:
        """What can be promised at which error; empty where the validation images were not kept."""
        file = self.run.path / ACCEPTANCE_FILES[0]
        if self.selected_on_test or not file.is_file() or self.tested is None:
            return []
        validation, features = self._predictions(file), self.run.path / FEATURES
        distances = np.zeros(len(validation.paths))
        if features.is_file():
            distances = read_arrays(features).get("distances", distances)
        if len(distances) != len(validation.paths) or not len(distances):
            return []
        return [checked(select(validation, distances, error), self.predictions) for error in ERRORS]

    @cached_property
    def subgroups(self) -> list[Subgroups]:
        """The surest to differ first; none where no table of labels has further columns, or an earlier version ran."""
        file = self.run.path / SUBGROUPS
        if not file.is_file():
            return []
        try:
            return from_json(file.read_text("utf-8"))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(f"{file} is damaged: {error!r}. Restore it from a copy, or delete it.") from error

    def _predictions(self, file: Path) -> Predictions:
        with damage_named(file):
            return Predictions.read_csv(file)
