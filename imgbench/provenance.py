"""How a run came about: the command, versions, the machine and the commit."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def first_process() -> bool:
    """Whether this process writes the files of its run: of several that train one model, the first does."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return int(next((rank for rank in ranks if rank), 0)) == 0


def command_line() -> str:
    """The line that this process was started with."""
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None)  # set by `python -m`
    return shlex.join(["python", *(["-m", module] if module else sys.argv[:1]), *sys.argv[1:]])


def provenance() -> dict[str, Any]:
    """Versions, machine and, in a checkout, the git commit."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy", "pillow")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
