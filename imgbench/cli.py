"""What commands share: the command line of those that read runs, errors without stack traces."""

import argparse
import errno
import inspect
import io
import logging
import os
import re
import select
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TextIO, Union, get_args, get_origin

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from imgbench.cells import visible
from imgbench.errors import UserError
from imgbench.experiment.compose import explain
from imgbench.files import NO_PLACE, wait_without_spinning
from imgbench.run import Run

# What the user can mend, by whatever library it was noticed.
MENDABLE = (UserError, HydraException, OmegaConfBaseException, OSError)
READER_GONE = 128 + 13  # the exit code that shells give for a broken pipe


def fail(message: object) -> None:
    """Ends the command with a message and exit code 2."""
    print(f"\nError: {visible(message)}", file=sys.stderr)
    sys.exit(2)


def plain_words(error: Exception, place: str) -> str:
    """The message of an error of `MENDABLE`; `place` is the option that names another place for the output.

    Raises:
        Exception: the error itself, where it has nothing to say to a user.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, [word for word in sys.argv[1:] if "=" in word])
    assert isinstance(error, OSError)
    if error.errno is None:
        raise error
    path = error.filename and Path(os.fsdecode(error.filename))
    # What is there and cannot be read is something else than a place where nothing can be written.
    unreadable = path and path.exists() and not os.access(path, os.R_OK)
    elsewhere = error.errno in (*NO_PLACE, errno.ENOTDIR) and not unreadable
    hint = f"\n{place} puts the results elsewhere." if elsewhere else ""
    return f"{f'{path}: ' if path else ''}{error.strerror}.{hint}"


class _VisibleRecord(logging.LogRecord):
    """What is logged may hold the name of a file, which is anybody's."""

    def getMessage(self) -> str:
        return visible(super().getMessage())


@contextmanager
def errors_in_plain_words(place: str) -> Iterator[None]:
    """Ends the command with one message where the user can mend the error; `place` is the option of the output."""
    wait_without_spinning()  # no command has imported PyTorch yet
    # Imported for the first time, matplotlib reports that it "generated new fontManager".
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their developers; what a user must know, imgbench says itself
    logging.setLogRecordFactory(_VisibleRecord)
    try:
        yield
        sys.stdout.flush()
    except MENDABLE as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            sys.exit(READER_GONE)
        fail(plain_words(error, place))
    except KeyboardInterrupt:
        sys.exit(130)


def _reader_is_gone() -> bool:
    """Whether nobody reads the output any more, as after `| head`; then nothing of it is left to be written."""
    output = sys.__stdout__
    if output is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(output.fileno(), select.POLLOUT)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        _discard(output)  # what Python flushes at its exit
    return gone


def _discard(stream: TextIO) -> None:
    """Lets what is written to the descriptor of a stream go nowhere from now on."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class _Unread(io.TextIOWrapper):
    """Standard output or error; what is written after its reader has gone is dropped."""

    # Not in a FileIO: Ctrl-C between its write and its return would have the same bytes written again.
    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        _discard(self)
        super().flush()


def go_on_unread() -> None:
    """Lets a training whose output is cut off, as by `| head`, come to its end."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(io.FileIO(stream.fileno(), "w", closefd=False))
            setattr(sys, name, _Unread(raw, stream.encoding, stream.errors, line_buffering=True))


def run_parser(name: str, description: str | None, examples: str, **run: Any) -> argparse.ArgumentParser:
    """The command line of a command that reads runs: RUN first; `run` are options of that argument."""
    parser = argparse.ArgumentParser(
        f"python -m imgbench.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        **{"help": "a run directory, a checkpoint, or an exported file: .onnx, .xml, .tflite", **run},
    )
    return parser


def add_photographs(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    """What `Collection` takes, one or more of it."""
    kinds = "image files, folders (searched with sub-folders), patterns, tars of WebDataset"
    parser.add_argument(name, metavar=metavar, nargs="+", help=kinds)


# How the value of an option is read, and what stands for it in the help. Of several kinds, the first here counts.
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    Path: (Path, "PATH"),
    float: (float, "X"),
    int: (int, "N"),
    str: (str, "NAME"),
    Sequence[str]: (lambda text: text.split(","), "NAME,..."),
    Run: (Run.open, "RUN"),
}


def add_options(
    parser: argparse._ActionsContainer, function: Callable[..., Any], leave_out: Sequence[str] = ()
) -> None:
    """Makes an option of each parameter of a function that has a default; its help is the docstring's of `Args`.

    The function may be a dataclass. What is annotated with a kind of READERS, `Literal`, or a class with `parse` is
    read as such; a `bool` is a switch. An `argument_default` of the parser is the default of them all.

    Args:
        leave_out: parameters that the command has another option for.
    """
    texts = argument_texts(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in leave_out or parameter.default is parameter.empty:
            continue
        annotation, default = parameter.annotation, parameter.default
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        text = texts[name].rstrip(".").replace("%", "%%")
        settings: dict[str, Any] = {} if parser.argument_default else {"default": default}
        if bool in kinds:
            settings["action"] = "store_true"
        elif words := next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None):
            settings["choices"] = words
        else:
            kind = next((kind for kind in READERS if kind in kinds), kinds[0])
            reader = READERS[kind] if kind in READERS else (kind.parse, kind.__name__.upper())
            settings["type"], settings["metavar"] = reader
        if default is not None and bool not in kinds:
            text += f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **settings)


def argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What the section `Args` of a docstring says of each parameter, on one line."""
    _, _, section = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    entries = re.split(r"^    (\w+): ", section.partition("\n\n")[0], flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


def check_max_error(share: float | None) -> None:
    """Raises:
    UserError: `--max-error` is given, and is no share that could be promised.
    """
    if share is not None and not 0 < share < 1:
        never = "; that nothing is ever wrong is more than any number of images can show" if share == 0 else ""
        raise UserError(f"--max-error {share:g}, but it is a share above 0 and below 1, such as 0.02 for 2 %{never}.")


def output_directory(path: Path) -> Path:
    """Makes the directory of `--output`, and finds out that it can be written to before anything is computed.

    Raises:
        UserError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(
            f"--output {path}: no directory that can be written to ({error.strerror}). Name another one."
        ) from error


def guarded_main(function: Callable[[], int | None]) -> None:
    """Runs a command that reads runs: its return value is the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with errors_in_plain_words("--output DIR"):
        code = function()
    sys.exit(code or 0)
