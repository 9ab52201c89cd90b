"""Learning-rate schedules: functions `(optimizer, total_steps, total_epochs, mode, ...)` named by `conf/scheduler`.

Each returns the `scheduler` and its `interval` (per optimizer step or per epoch) as Lightning takes them.
"""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

Schedule = dict[str, Any]


def _by_factor(optimizer: Optimizer, factor: Callable[[int], float], interval: str) -> Schedule:
    """`factor` of the step (or epoch) counted from zero multiplies the optimizer's learning rate."""
    return {"scheduler": LambdaLR(optimizer, factor), "interval": interval}


def constant(optimizer: Optimizer, **_: Any) -> Schedule:
    return _by_factor(optimizer, lambda step: 1.0, "step")


def exponential(
    optimizer: Optimizer, rate: float = 0.98, every: int = 50, staircase: bool = True, **_: Any
) -> Schedule:
    """`rate ** (step / every)`, in whole steps of the exponent if `staircase` (Keras' ExponentialDecay)."""
    return _by_factor(optimizer, lambda step: rate ** (step // every if staircase else step / every), "step")


def cosine(optimizer: Optimizer, total_steps: int, **_: Any) -> Schedule:
    """Half a cosine from the learning rate to zero (https://arxiv.org/abs/1608.03983, without restarts)."""
    return warmup_cosine(optimizer, total_steps, warmup=0.0)


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, **_: Any) -> Schedule:
    """Rises linearly over the share `warmup` of all steps, then falls along half a cosine to zero."""
    rise = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = min((step - rise) / max(total_steps - rise, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return _by_factor(optimizer, factor, "step")


def one_cycle(optimizer: Optimizer, total_steps: int, warmup: float = 0.3, start: float = 25.0, **_: Any) -> Schedule:
    """Up to the learning rate from a `start`-th of it within the share `warmup`, then down to nearly zero.

    Smith and Topin 2018, https://arxiv.org/abs/1708.07120; the momentum runs the other way.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler = _OneCycleLR(optimizer, rates, total_steps=max(total_steps, 1), pct_start=warmup, div_factor=start)
    return {"scheduler": scheduler, "interval": "step"}


class _OneCycleLR(OneCycleLR):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A resumed run may have more epochs than the one it resumes: its length is its own.
        length = ("total_steps", "_schedule_phases")
        super().load_state_dict({name: value for name, value in state_dict.items() if name not in length})


def step(optimizer: Optimizer, rate: float = 0.1, every: int = 10, **_: Any) -> Schedule:
    """Multiplies by `rate` every so many epochs."""
    return _by_factor(optimizer, lambda epoch: rate ** (epoch // every), "epoch")


def plateau(optimizer: Optimizer, mode: str, rate: float = 0.1, patience: int = 5, **_: Any) -> Schedule:
    """Multiplies by `rate` when the monitored metric has not improved for more than `patience` epochs."""
    scheduler = ReduceLROnPlateau(optimizer, mode="max" if mode == "max" else "min", factor=rate, patience=patience)
    return {"scheduler": scheduler, "interval": "epoch"}
