"""What a network consists of and what one image costs it, counted by torchinfo."""

from torch import nn
from torchinfo import summary


def model_table(model: nn.Module, image_size: int) -> str:
    """The torchinfo table: layers, shapes, parameters, multiply-adds, memory."""
    columns = ("input_size", "output_size", "num_params", "mult_adds")
    table = summary(model, (1, 3, image_size, image_size), col_names=columns, depth=4, device="cpu", verbose=0)
    return f"{table}\n"


def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Of one image."""
    return int(summary(model, (1, 3, image_size, image_size), device="cpu", verbose=0).total_mult_adds)
