"""What a network consists of and what one image costs it, counted by torchinfo."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchinfo import ModelStatistics, summary


@contextmanager
def _one_thread() -> Iterator[None]:
    """For the first look at a single image, threads wait for each other for ten times as long as one computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _counted(model: nn.Module, image_size: int, **options: Any) -> ModelStatistics:
    device = next((parameter.device for parameter in model.parameters()), "cpu")  # torchinfo moves the model there
    with _one_thread():
        return summary(model, (1, 3, image_size, image_size), device=device, verbose=0, **options)


def model_table(model: nn.Module, image_size: int) -> str:
    """The torchinfo table: layers, shapes, parameters, multiply-adds, memory."""
    columns = ("input_size", "output_size", "num_params", "mult_adds")
    return f"{_counted(model, image_size, col_names=columns, depth=4)}\n"


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Of one image."""
    return int(_counted(model, image_size).total_mult_adds)
