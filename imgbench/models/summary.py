"""What a network consists of and what one image costs it, counted by torchinfo."""

from typing import Any

from torch import nn
from torchinfo import ModelStatistics, summary

from imgbench.files import one_thread


def _counted(model: nn.Module, image_size: int, **options: Any) -> ModelStatistics:
    device = next((parameter.device for parameter in model.parameters()), "cpu")  # torchinfo moves the model there
    with one_thread():
        return summary(model, (1, 3, image_size, image_size), device=device, verbose=0, **options)


def model_table(model: nn.Module, image_size: int) -> str:
    """The torchinfo table: layers, shapes, parameters, multiply-adds, memory."""
    columns = ("input_size", "output_size", "num_params", "mult_adds")
    # Of its own units, torchinfo prints the name in Python.
    return f"{_counted(model, image_size, col_names=columns, depth=4)}\n".replace("(Units.MEGABYTES)", "(M)")


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Of one image."""
    return int(_counted(model, image_size).total_mult_adds)
