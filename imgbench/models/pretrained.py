"""Any classifier of torchvision by name, its last layer replaced, optionally with ImageNet weights."""

import math
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from imgbench.errors import UserError

HEADS = ("avgpool", "classifier", "fc", "head", "heads")  # torchvision's names of the first layer after the feature map


class TorchvisionClassifier(nn.Module):
    """The layers of a network of torchvision, under their own names, with timm's methods and attributes.

    Vision transformers have tokens (N, 1 + h * w, num_features) in the place of a feature map, as in timm.

    Args:
        net: without auxiliary heads.
        pretrained_cfg: what weights of this architecture expect, in timm's words.
    """

    def __init__(self, net: nn.Module, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        for name, parameter in net.named_parameters(recurse=False):  # the class token of vision transformers
            self.register_parameter(name, parameter)
        body, head = _body_and_head(net)
        for name, layer in (body | head).items():
            self.add_module(name, layer)
        self._body, self._head = list(body), list(head)
        dense = [name for name, layer in self.named_modules() if isinstance(layer, nn.Linear)]
        convolutions = [name for name, layer in self.named_modules() if isinstance(layer, nn.Conv2d)]
        self._last = (dense or convolutions)[-1]  # SqueezeNet ends in a convolution
        self.in_chans = 3
        in_head = [module for layer in head.values() for module in layer.modules()]
        self.drop_rate = max((layer.p for layer in in_head if isinstance(layer, nn.Dropout)), default=0.0)
        self.pretrained_cfg = pretrained_cfg

    @property
    def num_classes(self) -> int:
        return len(_weight(self.get_classifier()))

    @property
    def num_features(self) -> int:
        """Channels of the feature map."""
        layers = [layer for name in self._head for layer in self.get_submodule(name).modules()]
        first = next(layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))
        size = getattr(layers[0], "output_size", 1)  # of the pooling, if the head begins with one
        return _weight(first).shape[1] // (math.prod(size) if isinstance(size, tuple) else size**2)

    @property
    def head_hidden_size(self) -> int:
        """Inputs of the last layer."""
        return _weight(self.get_classifier()).shape[1]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self._last)

    def reset_classifier(self, num_classes: int) -> None:
        """Puts a new last layer, which is trained, in place of the old."""
        width = self.head_hidden_size
        is_dense = isinstance(self.get_classifier(), nn.Linear)
        new = nn.Linear(width, num_classes) if is_dense else nn.Conv2d(width, num_classes, 1)
        self.set_submodule(self._last, new)

    def forward_features(self, x: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, num_features, h, w)
        for name in self._body:
            x = self.get_submodule(name)(x)
            if name == "conv_proj":  # of a vision transformer, whose encoder takes tokens, that of the class first
                class_token = self.get_parameter("class_token").expand(x.shape[0], -1, -1)
                x = torch.cat([class_token, x.flatten(2).transpose(1, 2)], 1)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The feature map -> (N, num_classes), or the last layer's inputs (N, head_hidden_size)."""
        x = x[:, 0] if x.dim() == 3 else x  # the class token
        layers = [self.get_submodule(name) for name in self._head]
        if pre_logits:
            flat = [item for layer in layers for item in (layer if isinstance(layer, nn.Sequential) else [layer])]
            layers = flat[: flat.index(self.get_classifier())]
        for layer in layers:
            x = layer(x)
        return x.mean((2, 3)) if x.dim() == 4 else x  # SqueezeNet's last layer takes a map

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, H, W) -> (N, num_classes)
        return self.forward_head(self.forward_features(x))


class ImageNetToInception(nn.Module):
    """From the statistics of ImageNet to those that GoogLeNet and Inception were trained with: 0.5 for all."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return x * (std / 0.5) + (mean - 0.5) / 0.5


def _body_and_head(net: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The children of a network, which it calls in their order, and what its `forward` does between them."""
    body: dict[str, nn.Module] = {}
    head: dict[str, nn.Module] = {}
    for name, layer in net.named_children():
        (head if head or name in HEADS else body)[name] = layer
    family = type(net).__name__
    if getattr(net, "transform_input", False):
        body = {"transform_input": ImageNetToInception(), **body}
    if family == "DenseNet":
        body["relu"] = nn.ReLU(inplace=True)
    if isinstance(blocks := body.get("blocks"), nn.ModuleList):  # of MaxViT
        body["blocks"] = nn.Sequential(*blocks)
    if family in ("DenseNet", "MNASNet", "MobileNetV2", "ShuffleNetV2"):
        head = {"avgpool": nn.AdaptiveAvgPool2d(1), **head}
    if family == "SqueezeNet":
        head["flatten"] = nn.Flatten()
    elif "avgpool" in head and family not in ("ConvNeXt", "SwinTransformer"):  # those have a layer for it
        head = {"avgpool": head.pop("avgpool"), "flatten": nn.Flatten(), **head}
    return body, head


def torchvision_classifier(
    name: str, num_classes: int, image_size: int = 224, pretrained: bool = False, freeze_backbone: bool = False
) -> TorchvisionClassifier:
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
        net = torchvision.models.get_model(name, **options)
    except (URLError, OSError) as error:
        raise UserError(
            f"model.pretrained=true: the ImageNet weights of {name} are not in torch's cache and could not be "
            f"downloaded ({error}).\nConnect to the network once, copy them into $TORCH_HOME/hub/checkpoints from a "
            "machine that has them, or train from scratch with model.pretrained=false."
        ) from error
    for auxiliary in ("aux1", "aux2", "AuxLogits"):  # heads of GoogLeNet and Inception, which know ImageNet's classes
        if hasattr(net, auxiliary):
            setattr(net, auxiliary, None)
    model = TorchvisionClassifier(net, pretrained_cfg(name))
    if freeze_backbone:
        model.requires_grad_(False)
    model.reset_classifier(num_classes)
    return model


def pretrained_cfg(name: str) -> dict[str, Any]:
    """What the ImageNet weights of `torchvision.models.<name>` expect of their input, and their licence."""
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    expected = weights.transforms()
    (size,) = expected.crop_size
    return {
        "input_size": (3, size, size),
        "interpolation": expected.interpolation.value,
        "crop_pct": size / expected.resize_size[0],
        "mean": tuple(expected.mean),
        "std": tuple(expected.std),
        "license": weights.meta.get("license", "bsd-3-clause"),
    }


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer.weight
