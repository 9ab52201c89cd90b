"""Layers and initialisations that several models share."""

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout (https://jmlr.org/papers/v15/srivastava14a.html) whose mask costs little on the CPU.

    There each 64-bit random number serves four elements, 16 bits each, and comes from SFC64, seeded by PyTorch's own
    generator; PyTorch draws one number per element from a slower one, on a single thread. The rate is therefore a
    multiple of 2**-16, and the scale that of the rate really used.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p={p}, but a dropout rate lies between 0 and below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.dropout(x, self.p)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
        numbers = torch.from_numpy(generator.random_raw((x.numel() + 3) // 4).view(np.int16))[: x.numel()]
        # In place 0 or 1 as integers: torch converts booleans an order of magnitude more slowly.
        mask = numbers.ge_(dropped - 2**15).to(x.dtype).mul_(2**16 / (2**16 - dropped))
        # The mask takes the memory layout of x, so that channels-last activations stay what they are.
        return x * torch.as_strided(mask, x.shape, x.stride()) if _is_dense(x) else x * mask.view(x.shape)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


class DepthwiseSeparableConv2d(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1 convolution, padded (https://arxiv.org/abs/1704.04861)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=bias),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        )


def normalises_batches(module: nn.Module) -> bool:
    """Whether a batch normalisation is in it."""
    return any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def freeze_norms(model: nn.Module) -> None:
    """Keeps the batch normalisation of a pretrained network as it is, statistics too: few images would spoil them."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)


def evaluate_frozen(model: nn.Module) -> None:
    """Puts the frozen part of a model into evaluation mode: no dropout, and no new statistics of batches.

    Frozen are modules none of whose parameters learn, and those without parameters that come before the first one that
    does. A model that learns as a whole stays as it is.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    learning = False
    for module in model.modules():
        own = list(module.parameters())
        if any(parameter.requires_grad for parameter in own):
            learning |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        elif own or not learning:
            module.eval()


def init_keras(module: nn.Module) -> None:
    """Keras' defaults for dense and convolution layers: Glorot uniform weights and zero biases.

    Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html. Use with `model.apply(init_keras)`.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_kaiming(module: nn.Module) -> None:
    """torchvision's initialisation of VGG (He et al. 2015, https://arxiv.org/abs/1502.01852), zero biases."""
    if isinstance(module, nn.Conv2d):
        if module.groups == 1:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:  # a depthwise filter sees one channel, and no ReLU follows it
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
