"""The run directory: what a run leaves behind, and how it is found again.

The files are listed in the README. Everything here reads or writes plain YAML, JSON and CSV.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbench.errors import UserError
from imgbench.files import write_atomically
from imgbench.fingerprint import fingerprint_of, fingerprint_of_method
from imgbench.recording import is_busy, names_recorded, recorded
from imgbench.split_file import SPLIT_COLUMNS, cross_validating, read_rows
from imgbench.stored_config import resolved, with_resize, yaml_text
from imgbench.trust import (
    CONFIG_TYPES,
    check_types,
    damage_named,
    read_configuration,
    trust_configuration,
)

# In a wheel conf lies inside the package, in a checkout beside it.
CONF = next(path for path in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if path.is_dir())
INFO_TYPES = {
    "status": str,
    "seconds": (int, float),
    **dict.fromkeys(("provenance", "compressed_from", "facts", "pruned", "asked", "corrections"), dict),
}
EXPORTED = (".onnx", ".xml", ".tflite")  # files of ONNX, OpenVINO and LiteRT
PREDICTIONS = "predictions.csv"
RESULTS = ("metrics.json", PREDICTIONS, "report.html")  # of a run that was trained to its end
SUBGROUPS = "subgroups.json"  # the accuracy in parts of the test images, by further columns of a table of labels
LEARNING_CURVE = "learning_curve.json"  # what parts of the training images reach
ACCEPTANCE_FILES = ("validation.csv", "features.npz")  # what `predict --max-error` needs; earlier runs lack them
FOLDS = "folds"  # where the networks of a cross-validation were trained, and what each says of its test images
INIT = "checkpoints/init.ckpt"  # pruned weights that training starts from
# What is made of weights, and what run.json says of them; and what comes before.
OF_RESULTS = (*RESULTS, *ACCEPTANCE_FILES, SUBGROUPS, LEARNING_CURVE, "confusion.png", "reliability.png",
              "model.onnx", "export.json", "small.onnx", "small")  # fmt: skip
FACTS_OF_RESULTS = ("cost", "parent_cost", "best_epoch", "score", "trained")
OF_TRAINING = ("split.csv", "left_out.csv", "audit.json", "audit.html", "pairs.png", "summary.txt", "samples.png",
               "metrics.csv", "curves.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt", INIT, "steps",
               "candidates", FOLDS)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run: `path` is its directory, or a checkpoint or an exported file in it, such as model.onnx.

        Raises:
            UserError: there is no run.
        """
        path = Path(path)
        if path.is_file() and path.parent.name == "checkpoints":
            path = path.parent.parent
        elif path.is_file() and path.suffix.lower() in EXPORTED:
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

    def is_kept(self, file: Path) -> bool:
        """Whether a file is of the model that the run kept: its best checkpoint, or what was exported beside it."""
        kept = [self.best, *(self.path / f"model{ending}" for ending in EXPORTED)]
        return file.resolve() in [path.resolve() for path in kept]

    @property
    def stored_config(self) -> dict[str, Any]:
        """The content of `config.yaml`, references such as `${data.num_classes}` as they stand there.

        Raises:
            UserError: it is missing or damaged, or names what a file of unknown origin must not.
        """
        content = read_configuration(self.path / "config.yaml", CONF)
        return {**content, "data": with_resize(content["data"])}

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            UserError: as of `stored_config`.
        """
        stored = self.stored_config
        with damage_named(self.path / "config.yaml"):
            config = resolved(stored)
            check_types(config, CONFIG_TYPES)
        return config

    @property
    def info(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.path / "run.json"
        with damage_named(path):
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
            check_types(content, INFO_TYPES)
        return content

    @property
    def folds(self) -> int | None:
        """How many networks tested its images by cross-validation, so that all of them could be learnt from; or None.

        Raises:
            UserError: as of `stored_config`.
        """
        folds: Any = cross_validating(self.stored_config["data"].get("split") or {})
        return folds

    @property
    def status(self) -> str | None:
        """`running`, `finished`, `failed` or `interrupted`; None where nothing was begun.

        A training that was killed after its report, before it noted that, is finished.
        """
        info = self.info if (self.path / "run.json").is_file() else {}
        status = info.get("status")
        over = status in ("running", "interrupted", "failed") and "method" not in info and self._has_all_epochs
        return "finished" if over else status

    @property
    def concluded(self) -> bool:
        """Whether its final evaluation is there; the report is the last file that a run writes."""
        return all((self.path / name).is_file() for name in RESULTS)

    @property
    def _has_all_epochs(self) -> bool:
        """Whether all epochs were trained and evaluated: an interrupted run has a report as well."""
        if not (self.concluded and self.last.is_file()):
            return False
        # -1 trains until it is interrupted.
        return 0 < int(self.config["trainer"]["max_epochs"] or 0) <= self.epochs

    @property
    def epochs(self) -> int:
        """How many it was trained for, the last perhaps in part."""
        metrics = self.path / "metrics.csv"
        return len(metrics.read_bytes().splitlines()) - 1 if metrics.is_file() else 0

    def holds(self, fingerprint: str) -> bool:
        """Whether what lies here was made of what a fingerprint is of; `status` says whether it was made to its end.

        That is the configuration that it was begun with, or the networks that it is the best of, or `config.yaml`, in
        which a batch size or a number of epochs was found out (so of an earlier run too, which noted no fingerprint);
        or a method of compression and the weights that it was applied to.
        """
        info = self.info if (self.path / "run.json").is_file() else {}
        if fingerprint in (info.get("fingerprint"), info.get("fingerprint_of_comparison")):
            return True
        if "method" in info and fingerprint == fingerprint_of_method(
            info["method"], info.get("asked", {}), info.get("compressed_from", {}).get("sha256")
        ):
            return True
        images = info.get("provenance", {}).get("split_hash")
        return images is not None and fingerprint == fingerprint_of(self.stored_config, images)

    def forget_results(self) -> None:
        """Removes what was made of the weights, which are trained on."""
        self._remove(OF_RESULTS)
        self._keep_facts(lambda name: name not in FACTS_OF_RESULTS)

    def forget_all(self, *kept: str) -> None:
        """Removes all that an earlier work has left, but for files of these names, and what this one has recorded."""
        known = names_recorded(self.path)
        self._remove(name for name in (*OF_RESULTS, *OF_TRAINING) if name not in kept)
        self._keep_facts(lambda name: name in known)

    def _remove(self, names: Iterable[str]) -> None:
        for path in (self.path / name for name in names):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif any(path.glob("*/run.json")):  # a folder without runs is another's
                shutil.rmtree(path)
        study = self.path / "study.json"  # what a study was asked for stays
        damage = (ValueError, AttributeError, RecursionError)
        with suppress(OSError, *damage):  # not there, or damaged, which is said by who reads it
            content = json.loads(study.read_text("utf-8"))
            if content.pop("small", None) is not None:
                write_atomically(study, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _keep_facts(self, wanted: Callable[[str], bool]) -> None:
        if (self.path / "run.json").is_file():
            self.write_info({name: value for name, value in self.info.items() if wanted(name)})

    @property
    def shown(self) -> Path:
        """The path as a user would type it here: relative if it lies below the working directory."""
        absolute = self.path.resolve()
        return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute

    def write_config(self, config: dict[str, Any]) -> None:
        """`config.yaml`: all that is needed to run it again in a new directory."""
        text = yaml_text(config)
        again = "# RUN is this directory: python -m imgbench.train --config-dir RUN --config-name config\n"
        trust_configuration(again + text)
        write_atomically(self.path / "config.yaml", again + text)

    def note(self, **facts: Any) -> None:
        """Adds to `run.json`."""
        known = self.info if (self.path / "run.json").exists() else {}
        self.write_info({**known, **facts})

    def write_info(self, content: dict[str, Any]) -> None:
        """`run.json`, anew."""
        write_atomically(self.path / "run.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def recorded(self, **facts: Any) -> AbstractContextManager[None]:
        """Keeps `status` and `seconds` of the work inside, and these facts, in `run.json`.

        Work within work that is recorded here adds its facts to it.

        Raises:
            UserError: another process works there; or, in place of an OSError, what is kept, if the run directory
                cannot be written.
        """
        return recorded(self, facts)

    @property
    def is_busy(self) -> bool:
        """Whether another process is at work there."""
        return is_busy(self.path)

    def split_rows(self, split: str | None = None) -> list[dict[str, str]]:
        """The rows of `split.csv` (path, class, group, split, hash) of one split, or of all.

        Raises:
            UserError: it is damaged, or names a file outside the data's folder.
        """
        path = self.path / "split.csv"
        with damage_named(path):
            rows = (dict(zip(SPLIT_COLUMNS, row, strict=True)) for row in read_rows(path, SPLIT_COLUMNS))
            return [row for row in rows if split in (None, row["split"])]


def _latest_runs(near: Path) -> str:
    root = near if near.is_dir() else Path("outputs")
    found = (path for depth in range(5) for path in root.glob("*/" * depth + "run.json"))  # `/` has no end below it
    whole = (path.parent for path in found if Run(path.parent).model and (path.parent / "config.yaml").is_file())
    runs = sorted(whole, key=lambda path: path.stat().st_mtime)[-3:]
    return "".join(f"\n  {path}" for path in reversed(runs)) and "; the latest are:" + "".join(
        f"\n  {path}" for path in reversed(runs)
    )
