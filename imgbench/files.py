"""Files: written beside their place and renamed, and hashed."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nowhere to write


@contextmanager
def replacing(path: Path, mode: str, **options: Any) -> Iterator[Any]:
    """A file beside `path`, opened for writing, that takes its place at the end: a crash leaves the old or the new one.

    Raises:
        OSError: with `path` as its file name; what was there before is still there.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, mode, **options) as file:
            yield file
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def write_atomically(path: Path, text: str | Iterable[str], errors: str = "strict") -> None:
    """Writes a text, or its lines.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path, "w", encoding="utf-8", errors=errors, newline="") as file:
        file.writelines([text] if isinstance(text, str) else text)


def sha256(path: Path) -> str:
    """Of a file's content, read in pieces: a checkpoint may be larger than the memory that is left."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
