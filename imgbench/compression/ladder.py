"""A ladder: ever lighter runs of a run, made by the plan and measured on one scale.

The same test images, the same runtime, the same number of threads.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from imgbench.compression.apply import make_run
from imgbench.compression.lifecycle import effective, fingerprint, source_checkpoint
from imgbench.compression.measure import onnx_latency_ms, size_mb
from imgbench.compression.options import Quantize, name_of
from imgbench.compression.plan import LadderEntry
from imgbench.compression.target import Target
from imgbench.errors import UserError
from imgbench.evaluation.metrics import describe
from imgbench.evaluation.plots import draw_pareto
from imgbench.experiment.build import build_data_of
from imgbench.files import write_atomically
from imgbench.inference.onnx_file import write_onnx
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predict_split import predict_split
from imgbench.models.layers import normalises_batches
from imgbench.models.summary import multiply_adds
from imgbench.number import Number, group_codes, grouped_difference, share
from imgbench.progress import FACTS, quiet
from imgbench.run import Run
from imgbench.terminal import print_table
from imgbench.training.checkpoint import load_classifier

TEACHER = "teacher"


@dataclass(frozen=True)
class LadderRow:
    """One row of the table; all numbers are of its ONNX file in onnxruntime."""

    name: str
    image_size: int
    batch_norm: bool
    parameters: int
    multiply_adds: int
    size_mb: float
    latency_ms: float  # of one image
    latency_32_ms: float  # of 32 images at once
    accuracy: Number  # on the test images
    difference: Number  # test accuracy minus the teacher's, on the same images
    val_drop: float  # points of validation accuracy below the teacher's

    def to_dict(self) -> dict[str, Any]:
        """As `ladder.json` lists it."""
        return {**vars(self), "accuracy": self.accuracy.to_dict(), "difference": self.difference.to_dict()}


def make_ladder(entries: Sequence[LadderEntry], teacher: Run, folder: Path, words: Sequence[str]) -> dict[str, Run]:
    """The runs of all entries, made where they are not finished yet; several processes may work on one ladder.

    Args:
        entries: each after its parent.
        words: `key=value` words that override the configuration of those that are trained.

    Raises:
        UserError: an entry cannot be made, or something else lies in its place.
    """
    runs: dict[str, Run] = {}
    said = False
    for number, entry in enumerate(entries, 1):
        run = Run(folder / entry.name)
        parent = teacher if entry.parent is None else runs[entry.parent]
        own = [*entry.words, *(() if isinstance(entry.method, Quantize) else words)]
        progress = f"[{number}/{len(entries)}] {entry.name}:" if len(entries) > 1 else f"{entry.name}:"
        how = " ".join([name_of(entry.method), *effective(own)])
        with _alone_at(run, progress):
            if run.status == "finished":
                if not run.holds(fingerprint(entry.method, parent, own)):
                    raise UserError(
                        f"{run.shown} was not made from {parent.shown} as it is now with these options: {how}. Name "
                        f"another directory, --output DIR, or remove {run.shown} to have it made again."
                    )
                print(progress, "finished earlier")
            else:
                print(progress, how, flush=True)
                _refuse_others(run)
                with quiet(*FACTS) if said else nullcontext():
                    make_run(entry.method, parent, run, own)
                said = True
        runs[entry.name] = run
    return runs


@contextmanager
def _alone_at(run: Run, progress: str) -> Iterator[None]:
    """Waits while another process makes the same run, which would be cleared away as unfinished otherwise."""
    lock = FileLock(run.path.with_name(f".{run.path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(progress, "waiting for another process that makes it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_others(run: Run) -> None:
    """Refuses a directory in which something else than a run lies."""
    if run.path.exists() and not (run.path / "run.json").is_file() and (run.path.is_file() or any(run.path.iterdir())):
        raise UserError(
            f"{run.path} is not a run directory, and is not overwritten. Name another directory: --output DIR"
        )


def measure_runs(runs: dict[str, Run], threads: int, teacher_file: Path | None = None) -> list[LadderRow]:
    """One row for each run, compared with the run named `teacher`.

    Args:
        teacher_file: the teacher as an ONNX file, where there is one.

    Raises:
        UserError: a run was tested on other images than the teacher.
    """
    rows: dict[str, LadderRow] = {}
    tested: list[str] = []
    teacher: dict[str, np.ndarray] = {}  # which images of each split it has right
    for name in sorted(runs, key=lambda name: name != TEACHER):
        run = runs[name]
        with quiet(*FACTS):
            data = build_data_of(run)
        classifier = load_classifier(source_checkpoint(run))
        with tempfile.TemporaryDirectory() as folder:
            file = run.path / "model.onnx"
            if name == TEACHER and teacher_file is not None:
                file = teacher_file
            elif run.best.is_file():
                file = Path(folder) / "model.onnx"
                write_onnx(classifier, file, run)
            model = OnnxModel(file, threads=threads)
            unbound = OnnxModel(file)  # with all threads: only latency depends on their number
            predictions = {split: predict_split(unbound, data, split) for split in ("test", "val")}
            paths = predictions["test"].paths
            tested = tested or paths
            if paths != tested:
                raise UserError(f"{run.shown} was tested on other images than {runs[TEACHER].shown}.")
            hits = {split: p.predicted == p.targets for split, p in predictions.items()}
            teacher, codes = teacher or hits, group_codes(predictions["test"].groups)
            rows[name] = LadderRow(
                name,
                model.preprocessing.image_size,
                normalises_batches(classifier.model),
                sum(parameter.numel() for parameter in classifier.model.parameters()),
                multiply_adds(classifier.model, model.preprocessing.image_size),
                size_mb(file),
                onnx_latency_ms(model),
                onnx_latency_ms(model, batch=32),
                share(hits["test"], np.ones(len(paths), bool), codes),
                grouped_difference(hits["test"], teacher["test"], codes),
                round(100 * float(teacher["val"].mean() - hits["val"].mean()), 6),
            )
    return [rows[name] for name in runs]


def best_entry(rows: Sequence[LadderRow], target: Target) -> LadderRow:
    """Of those that meet the target, the one most accurate on the validation images, and of several such the smallest.

    Raises:
        UserError: none does.
    """
    reasons = {row.name: target.unmet(row.size_mb, row.latency_ms, row.val_drop) for row in rows}
    meeting = [row for row in rows if not reasons[row.name]]
    if not meeting:
        lines = "\n".join(f"  {name}: {'; '.join(unmet)}" for name, unmet in reasons.items())
        raise UserError(f'--target "{target}": no entry of the ladder meets it.\n{lines}')
    return min(meeting, key=lambda row: (row.val_drop, row.size_mb))


def write_ladder(rows: Sequence[LadderRow], folder: Path, threads: int) -> None:
    """Writes `ladder.json`, `ladder.md` and `ladder.png`."""
    write_atomically(folder / "ladder.json", json.dumps([row.to_dict() for row in rows], indent=2) + "\n")
    write_atomically(folder / "ladder.md", "\n".join(table_lines(rows, threads)) + "\n")
    points = {row.name: (row.size_mb, row.latency_ms, row.accuracy) for row in rows}
    draw_pareto(points, ("MB", "ms for one image"), folder / "ladder.png")


def print_ladder(rows: Sequence[LadderRow], threads: int) -> None:
    """What of the table fits a terminal."""
    columns = ("model", "MB", "times smaller", "ms", "times faster", "test accuracy", "difference, points")
    first = rows[0]
    cells = [
        (
            row.name,
            _short(row.size_mb),
            _short(first.size_mb / row.size_mb),
            _short(row.latency_ms),
            _short(first.latency_ms / row.latency_ms),
            f"{100 * row.accuracy.value:.1f} %",
            points(row.difference),
        )
        for row in rows
    ]
    print_table(columns, cells, notes=[_caption(rows, threads)])


def table_lines(rows: Sequence[LadderRow], threads: int) -> list[str]:
    """The table in Markdown: accuracy against the teacher's, size and speed against the first row's."""
    first = rows[0]
    lines = [
        _caption(rows, threads),
        "",
        "| model | pixels | batch norm | parameters | multiply-adds | MB | times smaller | ms, one image "
        "| times faster | ms, 32 images | test accuracy | difference, points |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.name,
            row.image_size,
            "yes" if row.batch_norm else "no",
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e6:,.1f} M",
            _short(row.size_mb),
            _short(first.size_mb / row.size_mb),
            _short(row.latency_ms),
            _short(first.latency_ms / row.latency_ms),
            _short(row.latency_32_ms),
            describe(row.accuracy),
            points(row.difference),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _caption(rows: Sequence[LadderRow], threads: int) -> str:
    first, some = rows[0], f"{threads} thread{'s' * (threads > 1)}"
    return (
        f"ONNX files in onnxruntime on {some}; float32 unless the name says int8. Milliseconds are medians, for one "
        f"image. Times smaller and faster are relative to `{first.name}`. Accuracies are of {first.accuracy.n} test "
        f"images, and differences are from `{TEACHER}` on the same images. Intervals are 95 %."
    )


def points(difference: Number) -> str:
    """A difference of accuracies with its interval, in percentage points."""
    return f"{100 * difference.value:+.2f} ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"


def _short(number: float) -> str:
    """Three digits, and no exponent."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"
