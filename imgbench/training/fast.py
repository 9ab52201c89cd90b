"""Settings that make training fast on the device at hand; each can be switched off under `fast:`."""

import ctypes
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from imgbench.errors import UserError
from imgbench.files import core_quota
from imgbench.language import counted

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
# From <malloc.h>; ctypes has no names for them.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class FastSettings:
    """What `fast:` in the configuration asks for; None means: what is best on this device.

    `precision` is one of Lightning's, or `auto`. `keep_heap` lets glibc keep freed memory instead of giving every large
    activation back to the system and faulting it in again at each step.
    """

    precision: str = "auto"
    channels_last: bool | None = None
    fused_optimizer: bool | None = None
    keep_heap: bool = True
    threads: int | None = None
    compile: bool = False


def device_name(accelerator: str) -> str:
    """`cuda`, `mps` or `cpu`: where a Trainer with this accelerator computes."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    if accelerator in ("auto", "cpu"):
        return "cpu"
    raise UserError(f"trainer.accelerator={accelerator}, but this machine has none; use auto or cpu.")


def multiplies_bf16(device: str) -> bool:
    """Whether the hardware multiplies bf16 faster than fp32.

    Of CPUs those with AMX, and AMD's with AVX512-BF16 (Zen 4 and later). Intel's AVX512-BF16 without AMX, as virtual
    machines have it, makes a matrix product take 1.8 times as long as in fp32, and a step of the small CNN 1.4 times.
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _made_by_amd())
    return False  # on MPS fp32 is the safe choice


def _made_by_amd() -> bool:
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        processor = platform.processor()
    return "AuthenticAMD" in processor


def autocast(settings: FastSettings, device: str) -> torch.autocast:
    """What a Trainer of these settings computes in, where they ask for bf16, for work outside of one."""
    return torch.autocast(device, torch.bfloat16, enabled=settings.precision.startswith("bf16"))


def apply(settings: FastSettings, accelerator: str) -> tuple[FastSettings, str]:
    """Puts the process-wide settings into force; returns them resolved, and the device."""
    device = device_name(accelerator)
    precision = settings.precision
    if precision not in PRECISIONS:
        raise UserError(f"fast.precision={precision!r}, but it is one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        precision = "bf16-mixed" if multiplies_bf16(device) else "32-true"
    heap = settings.keep_heap and device == "cpu" and _keep_heap()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    elif "OMP_NUM_THREADS" not in os.environ and (quota := core_quota()) is not None:
        torch.set_num_threads(min(quota, torch.get_num_threads()))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: ten bits of mantissa, as the inputs of bf16 have seven
        # The fastest algorithm of a trial is another one in the next process, and some add in any order: a resumed run
        # would not end with the weights of one that was never killed.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    resolved = FastSettings(
        precision=precision,
        # MPS converts layouts itself; channels-last inputs have had wrong gradients there.
        channels_last=settings.channels_last if settings.channels_last is not None else device != "mps",
        # fp16 gradients are scaled, and one that unscales them itself comes too late for clipping.
        fused_optimizer=settings.fused_optimizer if settings.fused_optimizer is not None else precision != "16-mixed",
        keep_heap=heap,
        threads=torch.get_num_threads(),
        compile=settings.compile,
    )
    where = (
        torch.cuda.get_device_name() if device == "cuda" else f"{device}, {counted(resolved.threads or 1, 'thread')}"
    )
    switched = [
        name for name in ("channels_last", "fused_optimizer", "keep_heap", "compile") if getattr(resolved, name)
    ]
    log.info("%s; precision %s; fast: %s", where, precision, ", ".join(switched) or "none")
    return resolved, device


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Multiplies float32 with all of its digits: with those of TF32, an answer depends on what else is in its batch."""
    if device != "cuda":
        yield
        return
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(earlier)


def _keep_heap() -> bool:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, 2**31 - 1), mallopt(M_TOP_PAD, 256 * 2**20)])


def prepare(module: "L.LightningModule", settings: FastSettings) -> None:
    """Brings the module's model into the memory layout, and compiles it if asked to."""
    model = module.model
    assert isinstance(model, torch.nn.Module)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if settings.compile:
        model.compile()


def supports_fused(optimizer_target: str) -> bool:
    """Adam, AdamW and SGD have fused kernels on CPU, CUDA and MPS."""
    return optimizer_target in ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
