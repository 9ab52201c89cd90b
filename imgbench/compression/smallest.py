"""The smallest model that is as good as a run's: from the smallest upwards, the first that meets a target."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgbench.compression.ladder import TEACHER, LadderRow, make_ladder, measure_runs, points, write_ladder
from imgbench.compression.lifecycle import effective
from imgbench.compression.measure import onnx_latency_ms, size_mb
from imgbench.compression.options import Distill, Quantize, Train
from imgbench.compression.plan import ANEW, LadderEntry
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.build import build_data_of
from imgbench.experiment.compose import override
from imgbench.experiment.train import Conclude, Experiment, epoch_seconds, first_batch, resolve
from imgbench.files import copy_atomically
from imgbench.inference import parity
from imgbench.inference.acceptance import VALIDATION
from imgbench.inference.onnx_model import OnnxModel
from imgbench.number import Number, group_codes, grouped_difference, read_metrics
from imgbench.progress import FACTS, Step, quiet
from imgbench.report.charts import read_epochs
from imgbench.report.conclude import evaluate_run
from imgbench.report.content import EvaluatedRun, compared_networks, write_report
from imgbench.report.study_file import SMALL, end_study
from imgbench.run import Run
from imgbench.training import fast
from imgbench.training.distillation import load_teacher

log = logging.getLogger(__name__)

FLOAT = "float"  # the run itself, not quantised
ITS_OWN = ("data.image_size=null", "data.normalize=null", *ANEW)  # what suits the network
COMPACT = ("model=compact", *ITS_OWN)
TRUNCATED = ("model=truncated", "model.freeze_backbone=true", *ITS_OWN)  # to let it learn on takes minutes
PATIENCE = 3  # times the epochs of learning from labels: a student gains for long (https://arxiv.org/abs/2106.05237)
TEACHING = 0.3  # share of the time of distillation in which the teacher may answer
FEWEST = 4  # a student that has time for less than a quarter of the usual epochs is left out
COMPARED = 50  # images on which the file in float is held against the run
ATTEMPT = 15  # seconds that one takes at least on two idle cores: it is not begun where there are fewer
TOO_LITTLE_TIME = "there was too little time to make it"


@dataclass(frozen=True)
class Smallest:
    """What was tried, on the scale of a ladder, and which of it was taken; None where nothing meets the target."""

    name: str | None
    rows: list[LadderRow]
    unmet: dict[str, list[str]]  # by what was tried, why it was not taken
    doubt: str | None = None  # why it is not certain that what was taken meets the target

    def to_dict(self) -> dict[str, Any]:
        """As `study.json` holds it."""
        return {**vars(self), "rows": [row.to_dict() for row in self.rows]}

    def lines(self, file: Path) -> list[str]:
        """What was taken, and why what is smaller was not; how to have it otherwise."""
        lines = [f"Not taken      {name}: {'; '.join(reasons)}" for name, reasons in self.unmet.items()]
        row = next((row for row in self.rows if row.name == self.name), None)
        if row is None:
            return [
                *lines,
                "Small model    none meets the target; for example, 'target=\"drop<=3pt\"' allows more",
            ]
        facts = (
            f"{size_mb(file):.2f} MB, {row.latency_ms:.3g} ms per photograph, test accuracy {describe(row.accuracy)}"
        )
        lines.append(f"Small model    {file} ({self.name}): {facts}")
        if row.name != TEACHER:
            lines.append(f"               {points(row.difference)} percentage points compared with the trained model")
        if self.doubt:
            lines.append(f"               {self.doubt}")
        return lines


def add_smallest(run: Run, target: Target, seconds: float, slowdown: float) -> Smallest:
    """Adds the smallest model to a run that is a study: the file, and what was tried, for the report to show it.

    Args:
        seconds, slowdown: as of `make_smallest`.

    Raises:
        UserError: as of `make_smallest`.
    """
    with quiet(*FACTS):
        small = make_smallest(run, run.path / SMALL, target, seconds, slowdown)
    end_study(run, small.to_dict())
    return small


@contextmanager
def one_page(run: Run) -> Iterator[Conclude]:
    """Yields what evaluates the run after its training, and draws its page once, at the end or at an interruption.

    A run that was trained before is evaluated at the end.
    """
    found: list[EvaluatedRun | None] = []
    try:
        yield lambda run, data: found.append(evaluate_run(run, data))
        if not found:
            with quiet(*FACTS):
                found.append(evaluate_run(run, build_data_of(run), announce=False))
    finally:
        if found and found[0]:
            write_report(found[0])


def make_smallest(run: Run, file: Path, target: Target, seconds: float, slowdown: float = 1) -> Smallest:
    """Writes `file`, the ONNX file of the smallest model tried that meets the target; a finished attempt is taken up.

    A bound on accuracy is kept to if the whole interval of the difference on validation images is within it. Where that
    holds of nothing that was tried, the one whose interval is nearest to it is taken, and the doubt is said.

    The runs of the attempts, and a table of them, lie in the directory `small` of the run.

    Args:
        seconds: that all attempts may take, about.
        slowdown: how many times as long as on an idle machine one takes.

    Raises:
        UserError: the run has no checkpoint, or not its images any more.
    """
    made: dict[str, Run] = {}
    unmet: dict[str, list[str]] = {}
    doubtful: dict[str, Number] = {}
    name = None
    folder = run.path / "small"
    folder.mkdir(exist_ok=True)
    end = time.monotonic() + seconds
    for attempt, parent, entries in _attempts(run, target, end):
        try:
            made[attempt] = _made(entries, parent, folder, run, target, end - ATTEMPT * slowdown)
        except UserError as error:  # too few images to calibrate on, for example; there are other ways
            if isinstance(error.__cause__, OSError):  # the attempt goes on once the disk does
                raise
            unmet[attempt] = [str(error).splitlines()[0]]
            continue
        if reasons := _unmet(target, made[attempt].path / "model.onnx", run, made[attempt]):
            unmet[attempt] = reasons
        elif target.doubt(difference := _validation_difference(run, made[attempt])):
            doubtful[attempt] = difference
        else:
            name = attempt
            break
    name = name or max(doubtful, key=lambda attempt: doubtful[attempt].low, default=None)
    doubts = {attempt: str(target.doubt(difference)) for attempt, difference in doubtful.items()}
    unmet |= {attempt: [doubt] for attempt, doubt in doubts.items() if attempt != name}
    if name is not None:
        copy_atomically(made[name].path / "model.onnx", file)
    else:
        facts = parity.export_onnx(run.path, file, COMPARED)
        log.info("%s", parity.describe(facts))
    rows = measure_runs({TEACHER: run, **made}, threads=1, teacher_file=None if name else file)
    if name is None:
        if reasons := _unmet(target, file, run, run):
            unmet[FLOAT] = reasons
            file.unlink()
        else:
            name = TEACHER
    write_ladder(rows, folder, threads=1)
    return Smallest(name, rows, unmet, doubts.get(str(name)))


def _attempts(run: Run, target: Target, end: float) -> Iterator[tuple[str, Run, Sequence[LadderEntry]]]:
    """The name of an attempt, the run it starts from, and what is to be made of that in turn, nothing without time.

    Each is looked at only if those before it do not do.
    """
    compact = Run(run.path / "candidates" / "compact")  # trained when the network was chosen
    drop = _drop_of_candidate(run, "compact")
    if compact.best.is_file() and drop is not None and not target.unmet(drop=drop):
        yield "compact_int8", compact, [LadderEntry("compact_int8", Quantize())]
    if run.config["model"].get("pretrained"):
        # What photographs teach a network of half a million weights, ImageNet has taught these already.
        entries = [
            LadderEntry("truncated", Train(), TRUNCATED),
            LadderEntry("truncated_int8", Quantize()),
        ]
        yield "truncated_int8", run, entries
    elif run.config["model_name"] != "compact":
        left = end - time.monotonic()
        words = _words_of_begun(run, left) or student_words(run, left)
        entries = [
            LadderEntry("distilled", Distill(), tuple(words or ())),
            LadderEntry("distilled_int8", Quantize()),
        ]
        yield "distilled_int8", run, entries if words else []
    yield "int8", run, [LadderEntry("int8", Quantize())]


def _made(entries: Sequence[LadderEntry], parent: Run, folder: Path, run: Run, target: Target, latest: float) -> Run:
    """The last of the entries, each made of the one before, the first of the parent; none is begun after `latest`.

    Raises:
        UserError: why there is none: the time, or one is less accurate than allowed, and no int8 of it will be better.
    """
    made = parent
    for entry in entries:
        if made is not parent and (reasons := target.unmet(drop=_drop(run, made))):
            raise UserError(f"in float already: {reasons[0]}")
        if time.monotonic() > latest and Run(folder / entry.name).status != "finished":
            raise UserError(TOO_LITTLE_TIME)
        made = make_ladder([entry], made, folder, ())[entry.name]
    if made is parent:
        raise UserError(TOO_LITTLE_TIME)
    return made


def _unmet(target: Target, file: Path, run: Run, made: Run) -> list[str]:
    latency = None if target.latency is None else onnx_latency_ms(OnnxModel(file, threads=1))
    return target.unmet(size_mb(file), latency, _drop(run, made))


def _drop(run: Run, made: Run) -> float:
    """Points of validation accuracy that `made` is below the run."""
    return 100 * (_validation_accuracy(run) - _validation_accuracy(made))


def _validation_difference(run: Run, made: Run) -> Number:
    """The accuracy of `made` minus that of `run` on the same validation images; of runs selected on others, on those.

    A run of an earlier imgbench may not have kept its predictions: then nothing is known.
    """
    files = [one.path / ("predictions.csv" if one.info["selected_on_test"] else VALIDATION) for one in (made, run)]
    if not all(file.is_file() for file in files):
        return Number(0.0, -1.0, 1.0, 0, 0)
    ours, theirs = map(Predictions.read_csv, files)
    place = {path: row for row, path in enumerate(theirs.paths)}
    rows = [row for row, path in enumerate(ours.paths) if path in place]
    if not rows:
        return Number(0.0, -1.0, 1.0, 0, 0)
    reference = np.array([place[ours.paths[row]] for row in rows])
    return grouped_difference(
        (ours.predicted == ours.targets)[rows],
        (theirs.predicted == theirs.targets)[reference],
        group_codes([ours.groups[row] for row in rows]),
    )


def _drop_of_candidate(run: Run, name: str) -> float | None:
    """Points of validation accuracy below the network that was chosen; None where they were not compared."""
    accuracies = {one.name: one.accuracy.value for one in compared_networks(run) if one.accuracy}
    return 100 * (accuracies[run.config["model_name"]] - accuracies[name]) if name in accuracies else None


def _validation_accuracy(run: Run) -> float:
    """That of a finished run; of the test images, where they are what it was selected on."""
    metrics = read_metrics(run.path / "metrics.json")
    return metrics.get("val/acc", metrics["test/acc"]).value


def _words_of_begun(run: Run, seconds: float) -> list[str] | None:
    """The words of the student that is finished, or can be within these seconds: its length is not decided again."""
    student = Run(run.path / "small" / "distilled")
    if not student.last.is_file() and student.status != "finished":
        return None
    words = student.info.get("asked", {}).get("words")
    if words is None or student.status == "finished":
        return words
    epochs = read_epochs(student)
    planned = next(int(word.partition("=")[2]) for word in effective(words) if word.startswith("trainer.max_epochs="))
    took = sum(float(row.get("epoch_seconds") or 0) for row in epochs)
    return words if took * (planned - len(epochs)) <= seconds * len(epochs) else None


def student_words(teacher: Run, seconds: float) -> list[str] | None:
    """The words of a compact student that learns from the teacher for these seconds; None if they are too few."""
    experiment = resolve(override(teacher, ["objective=classify", *COMPACT]))
    answers = len(experiment.data.rows("train")) * _answer_seconds(teacher, experiment)
    views = int(min(8, TEACHING * seconds / answers))
    usual = experiment.config.trainer.max_epochs
    epochs = int(min(PATIENCE * usual, (seconds - views * answers) / epoch_seconds(experiment)))
    if views < 1 or epochs < usual / FEWEST:
        return None
    return [*COMPACT, f"trainer.max_epochs={epochs}", f"objective.views={views}"]


def _answer_seconds(run: Run, experiment: Experiment) -> float:
    """About how long the teacher thinks of an image; the first batch does not count, since it is slower."""
    teacher = load_teacher(run.best)
    teacher.to(experiment.device)
    images, _ = first_batch(experiment)
    start = 0.0
    with Step("Timing the teacher"), fast.autocast(experiment.settings, experiment.device):
        for _ in range(2):
            start = time.perf_counter()
            teacher.logits(images).sum().item()  # waits for the device
    return (time.perf_counter() - start) / len(images)
