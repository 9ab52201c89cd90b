"""A training step on random images: through imgbench, as a bare loop with the same settings, and as a plain script."""

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import lightning as L
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from imgbench.benchmark.rounds import Timing, alternate, serve
from imgbench.data.batches import Batch
from imgbench.experiment.build import apply_defaults, build_classifier
from imgbench.models.summary import multiply_adds
from imgbench.preprocessing import Preprocessing
from imgbench.training import fast
from imgbench.training.classifier import ImageClassifier


def measure_step(config: dict[str, Any], steps: int, rounds: int) -> dict[str, Timing]:
    """Seconds per step of the three variants, each value the mean of `steps` steps."""
    variants = {"imgbench": _imgbench, "bare loop": _bare, "plain fp32": _plain}
    return alternate(variants, {"config": config, "steps": steps}, rounds)


def _prepare(config: dict[str, Any], settings: fast.FastSettings) -> tuple[ImageClassifier, Batch]:
    composed = OmegaConf.create(config)
    apply_defaults(composed, images=1000)
    classes, size = int(composed.data.num_classes), int(composed.data.image_size)
    names = [str(i) for i in range(classes)]
    classifier = build_classifier(composed, names, Preprocessing(size), settings, class_weights=None)
    images = torch.randint(0, 256, (int(composed.data.batch_size), size, size, 3), dtype=torch.uint8)
    return classifier, (images.permute(0, 3, 1, 2), torch.randint(classes, (len(images),)))


class _GatedBatches:
    """Hands out the same batch; after every `steps` of them it reports their time and waits for the next word."""

    def __init__(self, batch: Batch, steps: int, connection: Connection) -> None:
        self.batch, self.steps, self.connection = batch, steps, connection

    def __len__(self) -> int:
        return 10**9  # with a known length Lightning fetches no batch ahead of the step

    def __iter__(self) -> Iterator[Batch]:
        while self.connection.recv() is not None:
            start = time.perf_counter()
            for _ in range(self.steps):
                yield self.batch
            self.connection.send((time.perf_counter() - start) / self.steps)


def _imgbench(connection: Connection, config: dict[str, Any], steps: int) -> None:
    settings, device = fast.apply(fast.FastSettings(**config["fast"]), config["trainer"]["accelerator"])
    classifier, batch = _prepare(config, settings)
    fast.prepare(classifier, settings)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator=device,
        devices=1,
        precision=settings.precision,  # pyright: ignore[reportArgumentType]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(classifier, _GatedBatches(batch, steps, connection))


def _bare(connection: Connection, config: dict[str, Any], steps: int) -> None:
    settings, device = fast.apply(fast.FastSettings(**config["fast"]), config["trainer"]["accelerator"])
    classifier, (images, targets) = _prepare(config, settings)
    fast.prepare(classifier, settings)
    classifier.to(device).train()
    images, targets = images.to(device), targets.to(device)
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-4, fused=settings.fused_optimizer)
    half = torch.bfloat16 if settings.precision.startswith("bf16") else torch.float16

    def step() -> None:
        with torch.autocast(device, half, enabled=settings.precision.endswith("mixed")):
            loss = cross_entropy(classifier(images), targets)
        _descend(loss, optimizer)

    serve(connection, lambda: _timed(step, steps, device))


def _plain(connection: Connection, config: dict[str, Any], steps: int) -> None:
    model, device = plain_model(config)
    _, (images, targets) = _prepare(config, fast.FastSettings())
    floats, targets = (images.float() / 255).contiguous().to(device), targets.to(device)  # as ToTensor leaves them
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    serve(connection, lambda: _timed(lambda: plain_step(model, floats, targets, optimizer), steps, device))


def plain_model(config: dict[str, Any]) -> tuple[nn.Module, str]:
    """The configured model without any of the fast settings, and the device that it is on."""
    classifier, _ = _prepare(config, fast.FastSettings(fused_optimizer=False))
    device = fast.device_name(config["trainer"]["accelerator"])
    model = classifier.model.to(device).train()
    _with_torch_dropout(model)
    return model, device


def plain_step(model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A training step as the posts write it."""
    _descend(cross_entropy(model(images), targets), optimizer)


def _with_torch_dropout(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child).__name__ == "Dropout":
            setattr(module, name, nn.Dropout(child.p))  # pyright: ignore[reportArgumentType]
        else:
            _with_torch_dropout(child)


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _timed(step: Any, steps: int, device: str) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def step_operations(config: dict[str, Any]) -> float:
    """Floating-point operations of a training step: three forward passes of two operations per multiply-add."""
    classifier, (images, _) = _prepare(config, fast.FastSettings())
    return 3 * 2 * multiply_adds(classifier.model, images.shape[-1]) * len(images)


def matmul_rate(device: str, precision: str, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of square matrix products in the precision that training uses."""
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
