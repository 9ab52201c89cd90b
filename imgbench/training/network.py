"""A model with the normalisation of its images: all of a classifier that predicts, without what trains it.

Lightning takes seconds to import, and is not needed here.
"""

import hashlib
import importlib
from dataclasses import fields
from inspect import isclass, isfunction, signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from imgbench.errors import UserError
from imgbench.models.head import BodyAndHead, Head
from imgbench.models.narrow import narrow
from imgbench.trust import check_target, is_trusted_by_user


def without_fetching(model: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model that gets its weights from elsewhere: building it must not fetch ImageNet's."""
    return {**model, "pretrained": False} if "pretrained" in model else dict(model)


def build_model(config: dict[str, Any]) -> nn.Module:
    """Calls `config["_target_"]` with the other entries, after making sure that it is a model.

    A checkpoint brings this configuration along, so one of unknown origin must not name `os.system` here: nothing is
    imported that `check_target` does not trust, and only nn.Module classes, and the functions defined in
    `imgbench.models`, are called. Hydra's `instantiate` would also follow interpolations and nested targets.

    Raises:
        UserError: the target is missing, not trusted or no model, or it rejects its arguments.
    """
    arguments = {name: value for name, value in config.items() if name != "_target_"}
    _refuse_nested_targets(arguments)
    target = config.get("_target_")
    check_target(target, "model._target_")
    assert isinstance(target, str)
    module, _, name = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UserError(f"model._target_={target!r} cannot be imported: {error}") from error
    classes = found.__mro__ if isclass(found) else ()
    is_builder = isfunction(found) and found.__module__.startswith("imgbench.models.")
    if not (is_builder or nn.Module in classes):
        raise UserError(f"model._target_={target!r} is no nn.Module class, and nothing else is called as a model.")
    if not is_trusted_by_user(target):  # by where it is defined: modules have much in them that they import
        check_target(f"{found.__module__}.{name}", "model._target_")
    takes = set(signature(found).parameters)
    if BodyAndHead in classes:
        takes |= {field.name for field in fields(Head)}
    head = [name for name in ("hidden", "pool_size") if name in arguments and name not in takes]
    if head:
        raise UserError(
            f"The model {target} keeps the head it has: it takes no {' or '.join(head)}. head=... is for models built "
            "here, such as model=vgg16, cnn or student."
        )
    try:
        model = found(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The model {target} cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model._target_={target} gives no nn.Module, but a {type(model).__name__}.")
    return model


def _refuse_nested_targets(value: Any) -> None:
    if isinstance(value, dict):
        if "_target_" in value:
            raise UserError(f"A model's argument names a _target_ of its own: {value['_target_']!r}. It is not called.")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_nested_targets(item)


class Network(nn.Module):
    """What `assemble` makes of hyper-parameters, which are explained in `imgbench.training.classifier`."""

    offset: Tensor
    factor: Tensor
    class_names: list[str]
    model: nn.Module
    if TYPE_CHECKING:
        hparams: Any

    def assemble(
        self,
        model: dict[str, Any],
        class_names: list[str],
        preprocessing: dict[str, Any],
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        widths: dict[str, list[int]] | None = None,
    ) -> None:
        self.class_names = class_names
        self.model = build_model(model)
        narrow(self.model, widths or {})
        self.loss = nn.CrossEntropyLoss(
            weight=None if class_weights is None else torch.tensor(class_weights), label_smoothing=label_smoothing
        )
        # By numpy: to divide on the meta device, torch imports a compiler, which takes a second.
        mean, std = (np.asarray(preprocessing[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        self.register_buffer("offset", torch.tensor(-mean / std), persistent=False)
        self.register_buffer("factor", torch.tensor(1 / (255 * std)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8, or float in 0 to 1, (N, 3, image_size, image_size) -> logits (N, num_classes)."""
        return self.model(self.normalized(images))

    @property
    def has_features(self) -> bool:
        """Whether the network has a feature map to look at, as all but a user's own have."""
        return all(hasattr(self.model, name) for name in ("forward_features", "forward_head"))

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes), and the means of the feature map's channels (N, num_features), of such images."""
        network: Any = self.model
        features = network.forward_features(self.normalized(images))
        logits = network.forward_head(features)
        if features.dim() > 2:  # a map (N, channels, h, w), or tokens (N, number, channels)
            features = features.mean((2, 3) if features.dim() == 4 else 1)
        return logits, features

    def normalized(self, images: Tensor) -> Tensor:
        """What the model sees of uint8 images, or of floats in 0 to 1."""
        whole = images.dtype == torch.uint8
        factor = self.factor if whole else 255 * self.factor
        pixels = torch.addcmul(self.offset, images.float() if whole else images, factor)  # in one pass
        return pixels.to(self.offset.dtype)  # the model's own, where that is not float32


def weights_hash(network: nn.Module) -> str:
    """Of all weights and their names: by it, what was measured of a network is known to be of this one."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class LoadedNetwork(Network):
    """The network of a checkpoint; `hparams` are all of its hyper-parameters."""

    def __init__(self, **hparams: Any) -> None:
        super().__init__()
        self.hparams = {"provenance": None, **hparams}
        names = ("model", "class_names", "preprocessing", "label_smoothing", "class_weights", "widths")
        self.assemble(**{name: hparams[name] for name in names if name in hparams})
