"""What Python calls: commands as functions, and a run with what a notebook shows of it.

A function does what the command of its name does, prints the same lines, a line per epoch among them, and leaves the
same files. So a run that was made here is one for every command, and the other way round: `imgbench.Run.open(path)`.
"""

import html
import importlib
import io
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imgbench import run as directory
from imgbench.errors import UserError
from imgbench.files import wait_without_spinning
from imgbench.stored_config import switched_on
from imgbench.trust import stays_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig

    from imgbench.evaluation.predictions import Predictions
    from imgbench.inference.inputs import Source
    from imgbench.inference.predictor import Prediction, Predictor
    from imgbench.inspection.audit import Audit
    from imgbench.number import Number
    from imgbench.sweep.comparison import Comparison

RunPath = str | os.PathLike[str]  # a Run, or where one lies


def train(
    data: str | Path | None = None,
    *,
    model: str | None = None,
    budget: float | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: RunPath | None = None,
) -> "Run":
    """Trains a classifier, as `python -m imgbench.train` does.

    Args:
        data: a folder of photographs, a table of labels that lies in or beside it, or the name of a configuration in
            `conf/data`, which a Path never is. None: handwritten digits that come with scikit-learn.
        model: the name of a configuration in `conf/model`; None compares networks and takes the best (of the digits: a
            small network).
        budget: minutes for that comparison; None: 5.
        seed: of the weights, the order of the images and their augmentation; None: 42.
        output: the run directory; None: a new one, `outputs/<data>/<model>/<time>`.
        overrides: any further option in Hydra's words, such as `["trainer.max_epochs=5", "augment=turn"]`; they win.
        resume: a run that was interrupted, to go on with; what else is given changes it.

    Raises:
        UserError: the data or an option cannot be used.
        KeyboardInterrupt: training was interrupted; the run is complete up to there, and `resume` goes on.
    """
    return _made("train", _words(data, {"model": model, "budget": budget, "seed": seed}, overrides), output, resume)


def study(
    data: str | Path | None = None,
    *,
    target: str | None = None,
    budget: float | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: RunPath | None = None,
) -> "Run":
    """An audit, the best network within a budget, one test, and a smaller model, as `python -m imgbench.study` does.

    Args:
        data: as of `train`.
        target: what the smaller model has to keep to, such as `"size<=1MB,drop<=2pt"`; None: `"drop<=1pt"`.
        budget: minutes for all of it; None: 5.
        seed: as of `train`.
        output: the run directory; None: a new one, `outputs/<data>/study/<time>`.
        overrides: any further option in Hydra's words; they win.
        resume: as of `train`.

    Raises:
        UserError: the data, the target or an option cannot be used.
        KeyboardInterrupt: it was interrupted; `resume` goes on.
    """
    named = {"target": None if target is None else _quoted(target), "budget": budget, "seed": seed}
    return _made("study", _words(data, named, overrides), output, resume)


def audit(
    data: str | Path | None = None, *, output: str | Path | None = None, overrides: Sequence[str] = ()
) -> "Audit":
    """Looks for what makes a number untrue before anything is trained, as `python -m imgbench.audit` does.

    Prints what was found; the result has `verdict` ("clean", "suspect" or "leaks") and `findings`.

    Args:
        data: as of `train`.
        output: a directory for audit.html, audit.json and pairs.png; None writes nothing.
        overrides: any further option in Hydra's words, such as `["data.split.group=^(IMG\\\\d+)_"]`.

    Raises:
        UserError: the images cannot be used as they are, or `output` cannot be written.
    """
    words = _words(data, {}, overrides)
    with _as_a_command(words):
        from imgbench.audit import audit  # takes seconds, and importing imgbench shall take none
        from imgbench.cli import output_directory

        folder = None if output is None else output_directory(Path(output))
        result = audit(_composed(words, "audit"), folder)
        print(result.summary())
    return result


def compare(
    runs: Sequence[RunPath] | RunPath,
    *,
    output: str | Path | None = None,
    any_images: bool = False,
    metric: Literal["acc", "balanced_acc", "macro_f1", "auroc"] = "acc",
    names: Sequence[str] | None = None,
) -> "Comparison":
    """Groups runs by their configuration and tests whether these differ, as `python -m imgbench.compare` does.

    Prints the tables; the result has `configurations`, the best first, and `differences`.

    Args:
        runs: two runs or more, or directories of runs such as a sweep's, or globs.
        output: a directory for the tables, figures and the page, or a file that ends in .csv for the table alone; None
            writes nothing.
        any_images: go on where the runs were tested on different images; there is no test of such a pair.
        metric: what is tested, and decides which is the best.
        names: what to call the configurations, in the order in which their first runs are given.

    Raises:
        UserError: fewer than two runs, one that is not finished, different test images, or `output` cannot be written.
    """
    places = [runs] if isinstance(runs, str | os.PathLike) else runs
    with _as_a_command():
        from imgbench.compare import compare  # takes seconds, and importing imgbench shall take none
        from imgbench.sweep.comparison_tables import print_comparison

        result = compare([os.fspath(place) for place in places], output, any_images, metric, names)
        print_comparison(result)
    return result


def load(path: RunPath) -> "Predictor":
    """The trained classifier of a run directory, a checkpoint or an ONNX file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    # Imported here, since torch takes seconds to import and `--help` does not need it.
    from imgbench.inference.predictor import Predictor

    return Predictor.load(Path(path))


class Run(directory.Run):
    """A run directory, with what a notebook shows of it. It can be given wherever its path can."""

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def metrics(self) -> "Metrics":
        """The final numbers by name, such as `run.metrics["test/acc"]`, each with its interval; shown as a table.

        Raises:
            UserError: the run has none yet, or the file is damaged.
        """
        from imgbench.number import read_metrics

        return Metrics(read_metrics(self._result("metrics.json")))

    @property
    def predictions(self) -> "Predictions":
        """What the model says of each test image: `paths`, `targets`, `predicted` and `probabilities`.

        Raises:
            UserError: the run has none yet, or the file is damaged.
        """
        from imgbench.evaluation.predictions import Predictions

        path = self._result("predictions.csv")
        try:
            return Predictions.read_csv(path)
        except (ValueError, IndexError) as error:
            raise UserError(f"{path} is damaged: {error}. Restore it from a copy, or train again.") from error

    @property
    def report(self) -> "Page":
        """The report, which a notebook shows as it is.

        Raises:
            UserError: the run has none yet.
        """
        return Page(self._result("report.html"))

    def mistakes(self, most: int = 12) -> "Mistakes":
        """At most so many test images that are classified wrongly, the most confident first; shown with photographs.

        Raises:
            UserError: the run has no predictions yet, or a file of it is damaged.
        """
        from imgbench.report.mistakes import confident_mistakes

        found = self.predictions
        names = found.class_names
        return Mistakes(
            Mistake(
                found.paths[row],
                self._photograph(found.paths[row]),
                names[found.targets[row]],
                names[found.predicted[row]],
                float(found.probabilities[row].max()),
            )
            for row in confident_mistakes(found, most)
        )

    def predict(self, images: "Source | Iterable[Source]", batch_size: int = 32) -> "list[Prediction]":
        """The classes of one photograph or several: files, PIL images or arrays, as `Predictor.predict` takes them.

        Raises:
            UserError: the run has no model yet, or something is no image.
            DecodeError: naming the first image that cannot be decoded.
        """
        return self._predictor.predict(images, batch_size)

    def curves(self) -> "Picture | None":
        """Loss, accuracy and learning rate by epoch; None of fewer than two epochs, which make no curve.

        Raises:
            UserError: the run has no epochs yet.
        """
        from imgbench.evaluation.plots import draw_charts
        from imgbench.report.catalogue import Texts
        from imgbench.report.charts import curve_charts, read_epochs

        self._result("metrics.csv")
        epochs = read_epochs(self)
        if len(epochs) < 2:
            return None
        return Picture(draw_charts(curve_charts(epochs, self.info.get("best_epoch"), Texts("en")), None, self._title))

    def confusion(self) -> "Picture":
        """How many test images of each class (rows) are taken for each class (columns).

        Raises:
            UserError: the run has no predictions yet, or a file of it is damaged.
        """
        from imgbench.evaluation.metrics import confusion_matrix
        from imgbench.evaluation.plots import draw_confusion

        found = self.predictions
        return Picture(draw_confusion(confusion_matrix(found), found.class_names, None, self._title))

    @cached_property
    def _predictor(self) -> "Predictor":
        return load(self)

    @property
    def _title(self) -> str:
        config = self.config
        return f"{config.get('model_name', 'model')} on {config.get('data_name', 'data')}"

    def _result(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise UserError(
                f"{self.shown} has no {name}; its status is {self.status!r}. "
                f"Train it to its end: python -m imgbench.train --resume {shlex.quote(str(self.shown))}"
            )
        return path

    def _photograph(self, path: str) -> Path | None:
        config = self.config
        shown = stays_below(path) and switched_on(config, "data.thumbnails")
        return Path(config["data"]["root"], path) if shown else None


class Metrics(dict[str, "Number"]):
    """The numbers of `metrics.json`, with a table of those that are not of a single class."""

    def _rows(self) -> list[list[str]]:
        from imgbench.evaluation.metrics import describe

        return [[name, describe(number)] for name, number in self.items() if name.count("/") == 1]

    def __repr__(self) -> str:
        return _text_table(self._rows())

    def _repr_html_(self) -> str:
        return _html_table([[html.escape(cell) for cell in row] for row in self._rows()])


@dataclass(frozen=True)
class Mistake:
    """A test image that is classified wrongly."""

    path: str  # as in predictions.csv
    photograph: Path | None  # None where the run shows no photograph: `data.thumbnails`
    label: str  # what it is
    predicted: str
    probability: float  # of the predicted class


class Mistakes(list[Mistake]):
    """Mistakes, which a notebook shows with their photographs."""

    def __repr__(self) -> str:
        rows = [[m.path, f"{m.label} taken for {m.predicted}", f"{100 * m.probability:.1f} %"] for m in self]
        return _text_table(rows) or "No mistake."

    def _repr_html_(self) -> str:
        cells = [
            [
                _thumbnail(mistake.photograph),
                html.escape(f"{mistake.label} taken for {mistake.predicted}"),
                f"{100 * mistake.probability:.1f} %",
                html.escape(mistake.path),
            ]
            for mistake in self
        ]
        return _html_table(cells) or "No mistake."


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows, and a browser opens at `path`."""

    path: Path

    def _repr_html_(self) -> str:
        # A report may come from anybody: its script runs, but reaches nothing of the notebook.
        page = html.escape(self.path.read_text("utf-8", errors="replace"))
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width:100%; height:40em; border:0"></iframe>'


@dataclass(frozen=True)
class Picture:
    """A drawing that a notebook shows; `figure` is Matplotlib's."""

    figure: "Figure"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=80)
        return file.getvalue()


def _words(data: str | Path | None, named: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """The `key=value` words that a command would get."""
    if isinstance(overrides, str):
        raise UserError(f"overrides={overrides!r}, but it is a list of words: overrides=[{overrides!r}].")
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    return [*_data_words(data), *words, *overrides]


def _data_words(data: str | Path | None) -> list[str]:
    from imgbench.experiment.compose import TABLES, choices

    if data is None:
        return []
    if isinstance(data, str) and data in choices("data"):
        return [f"data={data}"]
    path = Path(data).expanduser()
    if not path.exists():
        raise UserError(
            f"data={str(data)!r}: there is no such folder, seen from {Path.cwd()}, and no such configuration. "
            f"Name a folder of photographs, or one of: {', '.join(choices('data'))}"
        )
    if path.is_file() and path.suffix.lower() in TABLES:
        return ["data=folder", f"data.root={_quoted(str(path.parent))}", f"data.labels={_quoted(str(path))}"]
    return ["data=folder", f"data.root={_quoted(str(path))}"]


def _quoted(text: str) -> str:
    """A text which Hydra takes for no list and no number."""
    return '"' + text.replace('"', '\\"') + '"'


def _composed(words: Sequence[str], name: str) -> "DictConfig":
    from imgbench.experiment.compose import compose

    return compose(words, name)


def _made(name: str, words: list[str], output: str | Path | None, resume: RunPath | None) -> Run:
    """The run that the command `name` makes, or goes on with."""
    with _as_a_command(words):
        if resume is None:
            config = _composed(words, name)
            run = _directory(output, config, "study" if name == "study" else config.model_name)
        else:
            begun, config = _going_on(name, words, Path(resume))
            if config is None:
                return begun
            run = Run(Path(output)) if output is not None else begun
            words = ["--resume", str(begun.shown), *words]
        command = importlib.import_module(f"imgbench.{name}")  # takes seconds, and importing imgbench shall take none
        with _command_noted(run, name, words):
            getattr(command, name)(config, run)
    return run


def _going_on(name: str, words: list[str], path: Path) -> "tuple[Run, DictConfig | None]":
    """A run and the configuration with which it goes on; None where nothing is left to do."""
    from imgbench.experiment.compose import override
    from imgbench.sweep.resume import resumed, resumed_study

    run = Run(directory.Run.open(path).path)
    begun = {"train": resumed, "study": resumed_study}[name](["--resume", str(path), *words])
    if begun is None:
        return run, None
    own = [word for word in begun if word.startswith(("ckpt_path=", "target=", "budget=")) and word not in words]
    return run, override(run, [*own, *words], name, anew=False)


def _directory(output: str | Path | None, config: "DictConfig", name: str) -> Run:
    from imgbench.experiment.compose import new_directory

    if output is not None:
        return Run(Path(output))
    return Run(Path(new_directory(f"outputs/{config.data_name}/{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}")))


@contextmanager
def _command_noted(run: Run, name: str, words: Sequence[str]) -> Iterator[None]:
    """In `run.json`, the command that repeats the run stands in place of that which started the notebook."""
    try:
        yield
    finally:
        if (run.path / "run.json").is_file():
            run.note(command=shlex.join(["python", "-m", f"imgbench.{name}", *words]))


@contextmanager
def _as_a_command(words: Sequence[str] = ()) -> Iterator[None]:
    """Shows what imgbench logs where `print` writes, and no warning of a library: as a command does.

    A caller who has set up the logging of imgbench gets it there. Afterwards all is as it was.
    Hydra's errors become UserError.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from imgbench.experiment.compose import explain

    wait_without_spinning()  # where the notebook has imported PyTorch before, that has its own way
    logger = logging.getLogger("imgbench")
    before = logger.level, logger.propagate
    handler = None
    if not logger.isEnabledFor(logging.INFO):
        handler = logging.StreamHandler(sys.stdout)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # libraries warn their developers
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, words)) from error
    finally:
        if handler:
            logger.removeHandler(handler)
            level, logger.propagate = before
            logger.setLevel(level)


def _thumbnail(path: Path | None) -> str:
    """An image element; nothing where no photograph is to be shown, it is gone, or it cannot be decoded."""
    from imgbench.decode import open_image
    from imgbench.errors import DecodeError
    from imgbench.evaluation.photographs import SIDE, picture_data

    if path is None:
        return ""
    try:
        picture = open_image(path)
    except (OSError, DecodeError):
        return ""
    return f'<img src="{picture_data(picture, SIDE)}" alt="" style="min-width:4em; image-rendering:pixelated">'


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    from rich.cells import cell_len  # a Chinese character is two wide

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """Of cells that are HTML."""
    lines = ["<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""
