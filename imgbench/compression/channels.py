"""Pruning: channels really removed, or single weights set to zero."""

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from imgbench.errors import UserError
from imgbench.models.narrow import layer_widths
from imgbench.training.classifier import ImageClassifier

MULTIPLE = 8  # of channels, which vector units take at once


def kept_channels(width: int, amount: float) -> int:
    """Channels of `width` that are left when the share `amount` goes: a multiple of 8 where there are so many."""
    left = width * (1 - amount)
    return min(width, max(1, round(left / MULTIPLE) * MULTIPLE if left >= MULTIPLE else round(left)))


def remove_channels(
    classifier: ImageClassifier, amount: float, original: Mapping[str, Sequence[int]] | None = None
) -> ImageClassifier:
    """A copy without the share `amount` of each layer's channels: those whose weights have the least L1 norm.

    The norm is taken over all layers that lose a channel together (https://arxiv.org/abs/2301.12900). The outputs of
    the last layer, the classes, stay.

    Args:
        original: `layer_widths` of the network that `amount` refers to, if this one has been pruned before.

    Raises:
        UserError: torch-pruning is not installed, or it cannot follow how this model's layers depend on each other.
    """
    if importlib.util.find_spec("torch_pruning") is None:
        raise UserError(
            'prune: the package torch-pruning is not installed. Mend it with: pip install "imgbench[prune]"'
        )
    pruned = copy.deepcopy(classifier).cpu().eval()
    before = layer_widths(pruned.model)
    pruned.model.requires_grad_(True)  # the dependencies are read off the graph of gradients
    size = int(classifier.hparams["preprocessing"]["image_size"])
    try:
        _remove(pruned.model, torch.zeros(1, 3, size, size), amount, original or before)
    except Exception as error:
        raise _not_possible(classifier, error) from error
    changed = {name: shape for name, shape in layer_widths(pruned.model).items() if shape != before[name]}
    # What a checkpoint will be rebuilt to, so that a model that cannot be is refused here.
    hparams: dict[str, Any] = {**classifier.hparams, "widths": {**(classifier.hparams["widths"] or {}), **changed}}
    names = ImageClassifier.argument_names()
    try:
        rebuilt = ImageClassifier(**{name: value for name, value in hparams.items() if name in names})
        rebuilt.load_state_dict(pruned.state_dict())
        with torch.no_grad():
            rebuilt.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:
        raise _not_possible(classifier, error) from error
    return rebuilt


def _not_possible(classifier: ImageClassifier, error: Exception) -> UserError:
    model = classifier.hparams["model"]
    return UserError(
        f"Channels of {model['_target_']} {model.get('name', '')} cannot be removed: {error}\n"
        "--unstructured prunes single weights of any model."
    )


def _remove(model: nn.Module, images: Tensor, amount: float, original: Mapping[str, Sequence[int]]) -> None:
    import torch_pruning

    names = {module: name for name, module in model.named_modules()}
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    # A depthwise layer on the image itself has the image's channels.
    kept = [layers[-1], *(layer for layer in layers[:1] if isinstance(layer, nn.Conv2d) and layer.groups > 1)]
    graph = torch_pruning.DependencyGraph().build_dependency(model, images)
    importance = torch_pruning.importance.MagnitudeImportance(p=1)
    for group in graph.get_all_groups(ignored_layers=kept, root_module_types=[nn.Conv2d, nn.Linear]):
        members = [dependency.target.module for dependency, _ in group]
        if any(isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels for layer in members):
            continue  # channels of grouped convolutions go in step only
        layer = members[0]
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        width = layer.weight.shape[0]
        number = width - kept_channels(original[names[layer]][0], amount)
        if number > 0:
            scores = importance(group)
            assert isinstance(scores, Tensor) and len(scores) == width
            group.prune(scores.argsort()[:number].tolist())


def zero_weights(classifier: ImageClassifier, amount: float) -> ImageClassifier:
    """A copy in which the share `amount` of each convolution's and dense layer's weights, the smallest, is zero.

    The tensors keep their shapes: nothing gets faster, and the file shrinks only when it is compressed.
    """
    pruned = copy.deepcopy(classifier).cpu()
    for layer in pruned.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            torch_prune.l1_unstructured(layer, "weight", amount)
            torch_prune.remove(layer, "weight")
    return pruned


def zero_share(classifier: ImageClassifier) -> float:
    """Share of the convolutions' and dense layers' weights that is zero."""
    weights = [layer.weight for layer in classifier.model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
