"""Rebuilds a pruned network: a model with some of its layers narrower than its class makes them."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from imgbench.errors import UserError

Layer = nn.Conv2d | nn.Linear | _BatchNorm


def layer_widths(model: nn.Module) -> dict[str, list[int]]:
    """The shape of the weight of each layer that can be narrowed, by the layer's name."""
    return {
        name: list(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, Layer) and layer.weight is not None
    }


def narrow(model: nn.Module, widths: Mapping[str, Sequence[int]]) -> None:
    """Cuts the layers named in `widths` to the weights' shapes given there, keeping the first channels.

    Which channels are kept does not matter where a checkpoint's weights follow.

    Raises:
        UserError: there is no such layer, or none of such a shape can be cut out of it.
    """
    for name, shape in widths.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError as error:
            raise UserError(f"widths names the layer {name!r}, which the model does not have.") from error
        if not isinstance(layer, Layer):
            raise UserError(f"widths names the layer {name!r}, but a {type(layer).__name__} is not narrowed.")
        _cut(layer, name, list(shape))


def _cut(layer: Layer, name: str, shape: list[int]) -> None:
    old = layer.weight.shape
    if len(shape) != len(old) or any(not 0 < new <= known for new, known in zip(shape, old, strict=True)):
        raise UserError(f"widths gives the layer {name!r} weights of shape {shape}, but they are cut from {list(old)}.")

    def kept(name: str, value: Tensor) -> Tensor:
        return value.data[tuple(slice(size) for size in (shape if name == "weight" else shape[:1]))].clone()

    for key, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, key, nn.Parameter(kept(key, parameter), parameter.requires_grad))
    for key, buffer in list(layer.named_buffers(recurse=False)):
        if buffer.dim() > 0:  # the number of batches has no channels
            setattr(layer, key, kept(key, buffer))
    if isinstance(layer, nn.Conv2d):
        if 1 < layer.groups == layer.in_channels:  # depthwise
            layer.groups = shape[0] // (layer.out_channels // layer.in_channels)
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    else:
        layer.num_features = shape[0]
