"""Measures the runs of a ladder on one scale: the same test images, the same runtime, the same number of threads."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from imgbench.compression.measure import onnx_latency_ms, size_mb
from imgbench.errors import UserError
from imgbench.evaluation.metrics import Number, describe, paired_difference, proportion
from imgbench.evaluation.plots import draw_pareto
from imgbench.experiment.build import build_data
from imgbench.inference.onnx_file import OnnxModel, write_onnx
from imgbench.inference.predict_split import predict_split
from imgbench.models.layers import normalises_batches
from imgbench.models.summary import multiply_adds
from imgbench.run import Run
from imgbench.training.classifier import load_classifier

TEACHER = "teacher"


@dataclass(frozen=True)
class Rung:
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


def measure_rungs(runs: dict[str, Run], threads: int) -> list[Rung]:
    """One Rung for each run, compared with the run named `teacher`.

    Raises:
        UserError: a run was tested on other images than the teacher.
    """
    rungs: dict[str, Rung] = {}
    tested: list[str] = []
    teacher: dict[str, np.ndarray] = {}  # which images of each split it has right
    for name in sorted(runs, key=lambda name: name != TEACHER):
        run = runs[name]
        data = build_data(OmegaConf.create(run.config))
        classifier = load_classifier(_checkpoint(run))
        with tempfile.TemporaryDirectory() as folder:
            file = run.path / "model.onnx"
            if run.best.is_file():
                file = Path(folder) / "model.onnx"
                write_onnx(classifier, file)
            model = OnnxModel(file, threads=threads)
            unbound = OnnxModel(file)  # with all threads: only latency depends on their number
            predictions = {split: predict_split(unbound, data, split) for split in ("test", "val")}
            paths = predictions["test"].paths
            tested = tested or paths
            if paths != tested:
                raise UserError(f"{run.shown} was tested on other images than {runs[TEACHER].shown}.")
            hits = {split: p.predicted == p.targets for split, p in predictions.items()}
            teacher = teacher or hits
            rungs[name] = Rung(
                name,
                model.preprocessing.image_size,
                normalises_batches(classifier.model),
                sum(parameter.numel() for parameter in classifier.model.parameters()),
                multiply_adds(classifier.model, model.preprocessing.image_size),
                size_mb(file),
                onnx_latency_ms(model),
                onnx_latency_ms(model, batch=32),
                proportion(int(hits["test"].sum()), len(paths)),
                paired_difference(hits["test"], teacher["test"]),
                round(100 * float(teacher["val"].mean() - hits["val"].mean()), 6),
            )
    return [rungs[name] for name in runs]


def _checkpoint(run: Run) -> Path:
    """The run's checkpoint; of a quantised run, that of the run it was made of."""
    return run.best if run.best.is_file() else _checkpoint(Run.open(run.info["compressed_from"]["path"]))


def table_lines(rungs: list[Rung], threads: int) -> list[str]:
    """The table in Markdown: accuracy against the teacher's, size and speed against the first row's."""
    first = rungs[0]
    lines = [
        f"ONNX files in onnxruntime, {threads} thread(s), float32 unless int8; medians. Test accuracy of "
        f"{first.accuracy['n']} images; difference to `{TEACHER}` on the same images. Smaller and faster than "
        f"`{first.name}`. Intervals are 95 %.",
        "",
        "| rung | pixels | batch norm | parameters | multiply-adds | MB | times smaller | ms, one image | times faster "
        "| ms, 32 images | test accuracy | difference, points |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rung in rungs:
        difference = rung.difference
        cells = [
            rung.name,
            rung.image_size,
            "yes" if rung.batch_norm else "no",
            f"{rung.parameters:,}",
            f"{rung.multiply_adds / 1e6:,.1f} M",
            _short(rung.size_mb),
            _short(first.size_mb / rung.size_mb),
            _short(rung.latency_ms),
            _short(first.latency_ms / rung.latency_ms),
            _short(rung.latency_32_ms),
            describe(rung.accuracy),
            f"{100 * difference['value']:+.2f} ({100 * difference['low']:+.2f} to {100 * difference['high']:+.2f})",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _short(number: float) -> str:
    """Three digits, and no exponent."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def draw_ladder(rungs: list[Rung], output: Path) -> None:
    """Accuracy against size and against latency, those rungs marked that no other beats in both."""
    points = {rung.name: (rung.size_mb, rung.latency_ms, rung.accuracy) for rung in rungs}
    draw_pareto(points, ("MB", "ms for one image"), output)
