"""What a classifier costs: parameters, multiply-adds, megabytes and milliseconds."""

import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from imgbench.compression.lifecycle import source_checkpoint
from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.experiment.build import build_data_of
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inference.predict_split import predict_split
from imgbench.inference.predictor import Model
from imgbench.models.summary import multiply_adds
from imgbench.number import read_metrics
from imgbench.progress import Step
from imgbench.report.conclude import conclude
from imgbench.run import Run
from imgbench.terminal import print_table
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier

MB = 10**6


@dataclass(frozen=True)
class Cost:
    """Of one image at a time, on the CPU."""

    parameters: int
    multiply_adds: int
    size_mb: float  # of the weights' file; a megabyte is 10^6 bytes
    latency_ms: float
    threads: int  # that the latency was measured with


def measure(classifier: ImageClassifier, file: Path) -> Cost:
    """The cost of a classifier whose weights lie in `file`."""
    classifier.cpu().eval()
    with Step("Measuring milliseconds"):
        return Cost(
            parameters=sum(parameter.numel() for parameter in classifier.model.parameters()),
            multiply_adds=multiply_adds(classifier.model, int(classifier.hparams["preprocessing"]["image_size"])),
            size_mb=size_mb(file),
            latency_ms=latency_ms(one_image(classifier)),
            threads=torch.get_num_threads(),
        )


def size_mb(file: Path) -> float:
    return file.stat().st_size / MB


def gzip_mb(file: Path) -> float:
    """Size of the file once it is compressed as gzip does by default."""
    compressor, total = zlib.compressobj(6), 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            total += len(compressor.compress(block))
    return (total + len(compressor.flush())) / MB


def weights_mb(classifier: ImageClassifier) -> float:
    """Size of all tensors in a checkpoint, which the file exceeds by the names and hyper-parameters."""
    return sum(tensor.numel() * tensor.element_size() for tensor in classifier.state_dict().values()) / MB


def one_image(classifier: ImageClassifier) -> Callable[[], object]:
    """A call that classifies one random uint8 image."""
    size = int(classifier.hparams["preprocessing"]["image_size"])
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)

    def call() -> object:
        with torch.inference_mode():
            return classifier(image).softmax(1)

    return call


def latency_ms(call: Callable[[], object], seconds: float = 0.5, at_least: int = 20) -> float:
    """Median of the milliseconds of many calls, after a few that do not count: of `seconds`, but 500 calls at most."""
    for _ in range(5):
        call()
    times: list[float] = []
    while len(times) < at_least or (len(times) < 500 and sum(times) < seconds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def onnx_latency_ms(model: OnnxModel, batch: int = 1) -> float:
    """Milliseconds of random uint8 images, `batch` of them at once, in onnxruntime."""
    size = model.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    with Step("Measuring milliseconds"):
        return latency_ms(lambda: model.run(pixels), at_least=20 if batch == 1 else 5)


def validation_accuracy(model: Model, data: ImageFolderDataModule) -> float:
    """Share of the validation images that are classified correctly; of the test images in a run selected on them."""
    predictions = predict_split(model, data, "val")
    return float((predictions.predicted == predictions.targets).mean())


def cost_of(run: Run) -> Cost:
    """What a run's model costs; a quantised one has the parameters and multiply-adds of the run it was made of."""
    if run.best.is_file():
        return measure(load_classifier(run.best), run.best)
    file, checkpoint = run.path / "model.onnx", source_checkpoint(run)
    source = measure(load_classifier(checkpoint), checkpoint)
    model = OnnxModel(file, threads=source.threads)
    return replace(source, size_mb=size_mb(file), latency_ms=onnx_latency_ms(model))


def print_costs(runs: Sequence[Run]) -> None:
    """A table of what the runs cost and how accurate they are; the first is the parent, the others store it."""
    costs = [cost_of(run) for run in runs]
    rows = []
    for run, cost in zip(runs, costs, strict=True):
        if run is not runs[0]:
            run.note(cost=asdict(cost), parent_cost=asdict(costs[0]))
        if not run.concluded:  # a candidate that was not chosen, or a run that was killed before its evaluation
            conclude(run, build_data_of(run), announce=False)
        accuracy = read_metrics(run.path / "metrics.json")["test/acc"]
        millions = f"{cost.multiply_adds / 1e6:,.1f} M"
        # Of a quantised run, which is an ONNX file, the time is onnxruntime's.
        latency = f"{cost.latency_ms:.3g}{'' if run.best.is_file() else ' *'}"
        interval = f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %"
        numbers = f"{cost.parameters:,}", millions, f"{cost.size_mb:.3g}", latency
        rows.append([str(run.shown), *numbers, f"{100 * accuracy.value:.1f} %", interval])
    threads = costs[0].threads
    columns = ("run", "parameters", "multiply-adds", "MB", "ms", "test accuracy", "95 % interval")
    title = f"One image at a time, on {threads} thread{'s' * (threads > 1)} of the CPU, in PyTorch (* in onnxruntime)"
    print_table(columns, rows, title)
    facts = runs[-1].info.get("facts", {})
    if "gzip_mb" in facts:
        print(
            f"{facts['zero_share']:.0%} of the weights are zero. They are still stored and multiplied: nothing is "
            f"faster. Compressed with gzip, the checkpoint has {facts['gzip_mb']:.3g} MB, and the parent's "
            f"{facts['parent_gzip_mb']:.3g} MB."
        )
