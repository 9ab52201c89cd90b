"""imgbench: from a folder of photographs to an image classifier whose accuracy can be trusted.

    import imgbench

    run = imgbench.train("photos", budget=10)
    run.metrics, run.mistakes(), run.predict("my photo.jpg")

Torch is imported by the first function that needs it.
"""

import sys
from types import ModuleType
from typing import Any

from imgbench.api import Run, audit, compare, load, study, train

__all__ = ["Run", "__version__", "audit", "compare", "load", "study", "train"]
__version__ = "0.1.0"


class _Package(ModuleType):
    """Keeps `imgbench.train` a function when the command's module of that name is imported.

    Python binds an imported submodule to its name in the package, which would replace the function. The module itself
    is found as ever: `python -m imgbench.train`, `from imgbench.train import main`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
