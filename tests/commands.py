"""Commands as a user starts them, without the seconds of imports that each start of Python costs."""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

STARTER = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
if os.name != "nt":  # a process that has imported much and computed nothing, of which each command is a copy
    STARTER.set_forkserver_preload(["imgbench.experiment.train", "matplotlib.pyplot", "timm", "onnxruntime"])


def command(name: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m imgbench.<name> <words>`, or `python -m imgbench`, in a process of its own, when it has ended."""
    line = [f"imgbench.{name}" if name else "imgbench", *map(str, words)]
    with TemporaryDirectory() as folder:
        output, error = (Path(folder) / stream for stream in ("output", "error"))
        process = STARTER.Process(target=_run, args=(line, cwd or Path.cwd(), dict(os.environ), output, error))
        process.start()
        process.join()
        return subprocess.CompletedProcess(line, process.exitcode or 0, output.read_text(), error.read_text())


def start_anew(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As `command`, from a start of Python: joblib ends its workers only at the end of a process that began so."""
    line = [sys.executable, "-m", f"imgbench.{name}", *map(str, words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def _run(line: list[str], cwd: Path, environment: dict[str, str], *streams: Path) -> None:
    gc.freeze()  # it need not look through what was imported
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = list(line)
    sys.path[0] = ""
    runpy.run_module(line[0], run_name="__main__", alter_sys=True)
