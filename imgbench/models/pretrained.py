"""Any classifier of torchvision by name, its last layer replaced, optionally with ImageNet weights."""

from typing import Any
from urllib.error import URLError

import torchvision
from torch import nn

from imgbench.errors import UserError


def torchvision_classifier(
    name: str, num_classes: int, image_size: int = 224, pretrained: bool = False, freeze_backbone: bool = False
) -> nn.Module:
    """`torchvision.models.<name>` for `num_classes` classes.

    Args:
        image_size: vision transformers are built for one size; all others take any.
        pretrained: start from the default ImageNet weights, from torch's cache or downloaded into it.
        freeze_backbone: train the new last layer only.

    Raises:
        UserError: torchvision has no such classifier, or the weights cannot be had.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"model.name={name!r} is no classifier of torchvision; there are: {', '.join(known)}.")
    # Built for ImageNet's classes even without weights: not every builder takes num_classes as it is meant here.
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if name in ("googlenet", "inception_v3"):
        # As ImageNet's weights expect their input; a checkpoint of such a model is loaded without them.
        options |= {"transform_input": True, "init_weights": False}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    try:
        model = torchvision.models.get_model(name, **options)
    except (URLError, OSError) as error:
        raise UserError(
            f"model.pretrained=true: the ImageNet weights of {name} are not in torch's cache and could not be "
            f"downloaded ({error}).\nConnect to the network once, copy them into $TORCH_HOME/hub/checkpoints from a "
            "machine that has them, or train from scratch with model.pretrained=false."
        ) from error
    if freeze_backbone:
        model.requires_grad_(False)
    if hasattr(model, "aux_logits"):  # the auxiliary heads of GoogLeNet and Inception know only ImageNet's classes
        model.aux_logits = False  # pyright: ignore[reportArgumentType]
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, head):
                setattr(model, head, None)
    replace_last_layer(model, num_classes)
    return model


def replace_last_layer(model: nn.Module, num_classes: int) -> None:
    """Puts a new trainable layer for `num_classes` in place of the last dense layer (of SqueezeNet: convolution)."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    parent_name, _, attribute = names[-1].rpartition(".")
    parent = model.get_submodule(parent_name)
    old = model.get_submodule(names[-1])
    if isinstance(old, nn.Linear):
        setattr(parent, attribute, nn.Linear(old.in_features, num_classes))
    else:
        assert isinstance(old, nn.Conv2d)
        setattr(parent, attribute, nn.Conv2d(old.in_channels, num_classes, 1))
