"""The run directory: what a run leaves behind, and how it is found again.

The files are listed in the README. Everything here reads or writes plain YAML, JSON and CSV.
"""

import csv
import errno
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imgbench.errors import UserError

# In a wheel conf lies inside the package, in a checkout beside it.
CONF = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if path.is_dir())
NO_PLACE = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # nowhere to write
SPLIT_COLUMNS = ["path", "class", "group", "split", "hash"]
REFERENCE = r"\$\{[\w.]+\}"  # to another entry of the configuration
HARMLESS_RESOLVERS = r"\$\{(now|hydra|imgbench\.slug):[^${}]*\}"  # those of conf, which tell nothing of the machine


def write_atomically(path: Path, text: str | Iterable[str], errors: str = "strict") -> None:
    """Writes a text, or its lines, beside `path` and renames: a crash leaves the old file or the new one.

    Raises:
        OSError: with `path` as its file name; what was there before is still there.
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w", encoding="utf-8", errors=errors, newline="") as file:
            file.writelines([text] if isinstance(text, str) else text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def sha256(path: Path) -> str:
    """Of a file's content, read in pieces: a checkpoint may be larger than the memory that is left."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run: `path` is its directory, or a checkpoint or model.onnx in it.

        Raises:
            UserError: there is no run.
        """
        path = Path(path)
        if path.is_file() and path.parent.name == "checkpoints":
            path = path.parent.parent
        elif path.is_file() and path.suffix.lower() == ".onnx":
            path = path.parent
        if not (path / "config.yaml").is_file():
            there = "does not exist" if not path.exists() else "has no config.yaml, which every run directory has"
            raise UserError(
                f"{path} {there}.\nExpected a run directory such as outputs/digits/cnn/<timestamp>{_latest_runs(path)}"
            )
        return cls(path)

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def model(self) -> Path | None:
        """The file that predicts: the best checkpoint, else `model.onnx`; None if there is neither."""
        return next((path for path in (self.best, self.path / "model.onnx") if path.is_file()), None)

    @property
    def stored_config(self) -> dict[str, Any]:
        """The content of `config.yaml`, references such as `${data.num_classes}` as they stand there.

        Raises:
            UserError: it is damaged, or names what a run of unknown origin must not get called or looked up.
        """
        path = self.path / "config.yaml"
        with _damage_named(path):
            content = yaml.safe_load(path.read_text("utf-8"))
            if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
                raise ValueError("it holds no configuration of a run")
        _check_values(content, path)
        return {key: value for key, value in content.items() if key not in ("defaults", "hydra")}

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            UserError: as of `stored_config`.
        """
        with _damage_named(self.path / "config.yaml"):
            resolved = OmegaConf.to_container(OmegaConf.create(self.stored_config), resolve=True)
        assert isinstance(resolved, dict)
        return {str(key): value for key, value in resolved.items()}

    @property
    def info(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: it is damaged.
        """
        path = self.path / "run.json"
        with _damage_named(path):
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
        return content

    @property
    def shown(self) -> Path:
        """The path as a user would type it here: relative if it lies below the working directory."""
        absolute = self.path.resolve()
        return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute

    def write_config(self, config: dict[str, Any]) -> None:
        """`config.yaml`: `config` with what Hydra needs to run it again in a new directory."""
        template = yaml.safe_load((CONF / "train.yaml").read_text("utf-8"))
        template["hydra"]["sweep"]["dir"] = template["hydra"]["run"]["dir"]  # no groups are chosen again
        defaults = ["_self_", *(entry for entry in template["defaults"] if "override" in str(entry))]
        content = {"defaults": defaults, **config, "hydra": template["hydra"]}
        write_atomically(self.path / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def note(self, **facts: Any) -> None:
        """Adds to `run.json`."""
        path = self.path / "run.json"
        known = self.info if path.exists() else {}
        write_atomically(path, json.dumps({**known, **facts}, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def recorded(self, **facts: Any) -> Iterator[None]:
        """Keeps `status` and `seconds` of the work inside in `run.json`; the first process of several does.

        Raises:
            UserError: in place of an OSError, naming what is kept, if the run directory cannot be written.
        """
        if not first_process():
            yield
            return
        start = time.time()
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.note(status="running", command=_command(), started=started, **provenance(), **facts)
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            reason = {} if interrupted else {"error": f"{type(error).__name__}: {error}"}
            status = "interrupted" if interrupted else "failed"
            with suppress(OSError):  # of a full disk, which is why it failed
                self.note(status=status, seconds=round(time.time() - start, 1), **reason)
            if isinstance(error, OSError) and error.errno in NO_PLACE:
                raise UserError(f"{error.filename or self.shown}: {error.strerror}.\n{self._kept()}") from error
            raise
        self.note(status="finished", seconds=round(time.time() - start, 1))

    def _kept(self) -> str:
        if not self.last.is_file():
            return "Nothing of the training was finished. hydra.run.dir=DIR, or --output DIR, puts the run elsewhere."
        return (
            f"Kept: {self.last.parent}. Make room, or let the run go on elsewhere: "
            f"python -m imgbench.train --config-dir {shlex.quote(str(self.shown))} --config-name config "
            f"ckpt_path={shlex.quote(str(self.last))} hydra.run.dir=DIR"
        )

    def split_rows(self, split: str) -> list[dict[str, str]]:
        """The rows of `split.csv` (path, class, group, split, hash) of one split.

        Raises:
            UserError: it is damaged, or names a file outside the data's folder.
        """
        path = self.path / "split.csv"
        with _damage_named(path), path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != SPLIT_COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}, not {SPLIT_COLUMNS}")
            rows = [row for row in reader if row["split"] == split]
            for row in rows:
                if None in row or None in row.values() or not _stays_below(row["path"]):
                    raise ValueError(f"a row is {list(row.values())}")
        return rows


def _stays_below(path: str) -> bool:
    """Whether a path of `split.csv`, of unknown origin, names a file below the root that it is joined to."""
    places = [PurePosixPath(path), PureWindowsPath(path)]
    return all(not place.is_absolute() and not place.drive and ".." not in place.parts for place in places)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist, but every run directory has it.") from error
    except (ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged: {reason}.\nRestore it from a copy, or train again.") from error


def _check_values(value: Any, path: Path) -> None:
    """Refuses in a configuration that may come from anywhere what would look something up or call it.

    Raises:
        UserError: a resolver other than those in `conf`, such as `oc.env`, or a `_target_` outside the allowlist.
    """
    if isinstance(value, dict):
        if "_target_" in value:
            check_target(value["_target_"], f"{path}: _target_")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_values(item, path)
    elif isinstance(value, str) and "${" in value:
        unknown = re.sub(HARMLESS_RESOLVERS, "", re.sub(REFERENCE, "", value))
        if "${" in unknown:
            raise UserError(
                f"{path} holds {value!r}: a run's configuration looks nothing up, and it is not followed. "
                "Write the value itself there, if you trust the file."
            )


def first_process() -> bool:
    """Whether this process writes the files of its run: of several that train one model, the first does."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return int(next((rank for rank in ranks if rank), 0)) == 0


def _latest_runs(near: Path) -> str:
    root = near if near.is_dir() else Path("outputs")
    runs = sorted((p.parent for p in root.glob("**/run.json")), key=lambda p: p.stat().st_mtime)[-3:]
    return "".join(f"\n  {path}" for path in reversed(runs)) and "; the latest are:" + "".join(
        f"\n  {path}" for path in reversed(runs)
    )


def _command() -> str:
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


def check_target(target: Any, option: str) -> None:
    """stub"""
