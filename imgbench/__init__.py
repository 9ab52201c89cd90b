"""imgbench: from a folder of photographs to an image classifier whose accuracy can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgbench.inference.predictor import Predictor

__version__ = "0.1.0"


def load(path: str | Path) -> "Predictor":
    """The trained classifier of a run directory, a checkpoint or an ONNX file: `inference.predictor.Predictor`."""
    # Imported here, since torch takes seconds to import and `--help` does not need it.
    from imgbench.inference.predictor import Predictor

    return Predictor.load(path)
