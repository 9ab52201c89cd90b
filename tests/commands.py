"""Commands as a user starts them, without the seconds of imports that each start of Python costs."""

import ctypes
import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

STARTER = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
if os.name != "nt":  # a process that has imported much and computed nothing, of which each command is a copy
    STARTER.set_forkserver_preload(
        ["imgbench.experiment.choose", "imgbench.report.conclude", "imgbench.compression.apply", "imgbench.hydra_entry",
         "imgbench.sweep.table", "matplotlib.pyplot", "matplotlib.backends.backend_svg", "timm.optim", "onnxruntime",
         "torch.onnx._internal.exporter._compat", "torch_pruning", "torchvision.transforms.v2", "hydra.main",
         "sklearn.feature_extraction"]
    )  # fmt: skip

STREAMS = ("output", "error")
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def forked(
    function: Callable[..., object], *arguments: object, cwd: Path | None = None, read_only: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Calls a function of a test module in a process of its own; what it says, and with what it ended.

    Args:
        read_only: a folder that the process finds mounted so, of which even root's permissions make no exception.
    """
    with TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in STREAMS]
        process = STARTER.Process(
            target=_call, args=(function, arguments, cwd or Path.cwd(), dict(os.environ), streams, read_only)
        )
        process.start()
        process.join()
        said = [path.read_text() if path.is_file() else "" for path in streams]
        return subprocess.CompletedProcess(list(map(str, arguments)), process.exitcode or 0, *said)


def command(
    name: str, *words: object, cwd: Path | None = None, read_only: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m imgbench.<name> <words>`, or `python -m imgbench`, in a process of its own, when it has ended."""
    return forked(_run_module, _line(name, words), cwd=cwd, read_only=read_only)


def commands(*lines: Sequence[object], cwd: Path) -> list[subprocess.CompletedProcess[str]]:
    """As `command` of each line, the name of a command and its words; one process runs them one after another."""
    texts = [_line(str(name), words) for name, *words in lines]
    with TemporaryDirectory() as folder:
        done = forked(_run_modules, texts, Path(folder), cwd=cwd)
        assert done.returncode == 0, done.stderr
        codes = json.loads((Path(folder) / "codes").read_text())
        streams = [[(Path(folder) / f"{i}.{name}").read_text() for name in STREAMS] for i in range(len(texts))]
        ends = zip(texts, codes, streams, strict=True)
        return [subprocess.CompletedProcess(line, code, *said) for line, code, said in ends]


@dataclass
class Running:
    """A command while it runs; once it has ended, `returncode` and `stderr` are those of `subprocess.Popen`."""

    pid: int
    stdout: TextIO
    stderr: str = ""
    returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


@contextmanager
def started(name: str, *words: object, cwd: Path) -> Iterator[Running]:
    """A command whose output is read while it runs; it is left when the command has ended."""
    with TemporaryDirectory() as folder:
        output, error = (Path(folder) / stream for stream in STREAMS)
        os.mkfifo(output)
        arguments = (_run_module, [_line(name, words)], cwd, dict(os.environ), [output, error], None)
        process = STARTER.Process(target=_call, args=arguments)
        process.start()
        assert process.pid is not None
        with output.open() as stdout:
            running = Running(process.pid, stdout)
            yield running
            if not stdout.closed:
                stdout.read()
        process.join()
        running.stderr, running.returncode = error.read_text(), process.exitcode


def start_anew(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As `command`, from a start of Python: joblib ends its workers only at the end of a process that began so."""
    line = [sys.executable, "-m", *_line(name, words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def mount_read_only(folder: Path) -> None:
    """Makes a folder read-only for this process, in a namespace of its own, so that nothing of it is left.

    Raises:
        OSError: this machine lets nobody do so.
    """
    user, group, library = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in {"setgroups": "deny", "uid_map": f"0 {user} 1", "gid_map": f"0 {group} 1"}.items():
        Path("/proc/self", name).write_text(text)
    for options in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
        if said := subprocess.run(["mount", *options], capture_output=True, text=True, check=False).stderr:
            raise OSError(said)


def _line(name: str, words: Sequence[object]) -> list[str]:
    return [f"imgbench.{name}" if name else "imgbench", *map(str, words)]


def _call(
    function: Callable[..., object],
    arguments: Sequence[object],
    cwd: Path,
    environment: dict[str, str],
    streams: Sequence[Path],
    read_only: Path | None,
) -> None:
    gc.freeze()  # it need not look through what was imported
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[0] = ""
    _speak_to(streams)
    if read_only is not None:
        mount_read_only(read_only)
    function(*arguments)


def _speak_to(streams: Sequence[Path]) -> None:
    for number, stream in enumerate(streams, start=1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)


def _run_module(line: Sequence[str]) -> None:
    sys.argv = list(line)
    runpy.run_module(line[0], run_name="__main__", alter_sys=True)


def _run_modules(lines: Sequence[Sequence[str]], folder: Path) -> None:
    codes: list[object] = []
    for i, line in enumerate(lines):
        _speak_to([folder / f"{i}.{name}" for name in STREAMS])
        try:
            _run_module(line)
            codes.append(0)
        except SystemExit as end:
            codes.append(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    (folder / "codes").write_text(json.dumps(codes))
