"""What a training step takes of the memory, and what to lower where there is not so much."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from imgbench.errors import UserError
from imgbench.files import memory_left

LARGEST_BATCH = 256  # images; beyond, fewer steps an epoch cost more accuracy than larger ones save time
SHARE = 0.5  # of the free memory that the activations of a batch may take; others are at work, too


@contextmanager
def lack_of_memory_named(batch_size: int) -> Iterator[None]:
    """Raises:
    UserError: in place of the many errors that say that memory was not to be had.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # that of CUDA is a RuntimeError
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error).lower() for word in words):
            raise
        raise UserError(
            f"The memory is full. Less is taken with a smaller data.batch_size={max(1, batch_size // 2)} (or auto), a "
            f"smaller data.image_size, or, on a GPU, fast.precision=bf16-mixed.\n{str(error).splitlines()[0]}"
        ) from error


def free_memory(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return memory_left()


def bytes_per_image(module: nn.Module, image_size: int) -> int:
    """What a training step keeps of each image for its backward pass; in float32. Other precisions need no more."""
    sizes = []
    for number in (2, 4):  # what does not depend on the number of images, such as weights, cancels
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(torch.rand(number, 3, image_size, image_size))
        sizes.append(sum(kept.values()))
    return max(1, (sizes[1] - sizes[0]) // 2)


def largest_batch(module: Any, image_size: int, images: int, device: str) -> int:
    """The largest power of two of images that fits, of LARGEST_BATCH at most and a tenth of the training images.

    A step takes at its height about twice what it keeps: gradients of activations come beside these.

    Raises:
        UserError: not even one image fits.
    """
    state = {name: value.clone() for name, value in module.state_dict().items()}  # of batch normalisation
    each = 2 * bytes_per_image(module, image_size)
    module.load_state_dict(state)
    fitting = int(SHARE * free_memory(device) / each)
    if fitting < 1:
        raise UserError(
            f"data.batch_size=auto: a single image of {image_size} pixels takes {each / 1e9:.1f} GB in training. Lower "
            "data.image_size, or take a smaller model."
        )
    return 2 ** (min(fitting, LARGEST_BATCH, max(1, images // 10)).bit_length() - 1)
