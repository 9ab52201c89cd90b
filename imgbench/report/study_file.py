"""`study.json`: what a study was asked for and what it found, in the directory of its run; torch is not needed."""

import json
from typing import Any

from imgbench.errors import UserError
from imgbench.files import write_atomically
from imgbench.run import Run

FILE = "study.json"
SMALL = "small.onnx"  # the file of the smallest model that meets the target


def read_study(run: Run) -> dict[str, Any] | None:
    """`target`, `budget` in minutes, and once all is done, `small`; None where the run is of no study.

    Raises:
        UserError: the file is damaged.
    """
    path = run.path / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        small = content.get("small", {"rows": [], "unmet": {}})
        if (
            not isinstance(content["target"], str)
            or not isinstance(content["budget"], int | float)
            or not isinstance(small["rows"], list)
            or "$" in content["target"]  # that Hydra would look up
        ):
            raise ValueError("its entries are not of the types that a study writes")
        return content
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}. Delete it, and start the study anew.") from error


def begin_study(run: Run, target: str, budget: float) -> None:
    """Writes `study.json`; what an earlier study found, of another target, is none of this one's."""
    _write(run, {"target": target, "budget": budget})
    (run.path / SMALL).unlink(missing_ok=True)


def end_study(run: Run, small: dict[str, Any]) -> None:
    """Adds to `study.json` what the study has found."""
    _write(run, {**(read_study(run) or {}), "small": small})


def _write(run: Run, content: dict[str, Any]) -> None:
    write_atomically(run.path / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
