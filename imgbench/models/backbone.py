"""Any network of timm by name, with pretrained weights; and one that only learns a last layer on all of its blocks."""

import difflib
import logging
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from imgbench.errors import UserError
from imgbench.models.layers import freeze_norms
from imgbench.models.weights import PACKAGES, describe_difference, find_weights, fit_names, read_weights
from imgbench.progress import quiet


def timm_classifier(
    name: str,
    num_classes: int,
    image_size: int | None = None,
    pretrained: bool = False,
    weights: str = "hub",
    freeze_backbone: bool = False,
    in_chans: int = 3,
) -> Any:
    """timm's network `name` for `num_classes` classes; timm's networks speak timm's language themselves.

    Args:
        image_size: transformers are built for one size; None takes that of the weights.
        pretrained: start from the weights.
        weights: where they come from: `hub` (https://huggingface.co/timm, or the mirror that the environment variable
            HF_ENDPOINT names), `package` (of the Python Package Index), or the path of a safetensors file or a state
            dict.
        freeze_backbone: train the new last layer only.
        in_chans: three; images are shown as red, green and blue, grey ones with three equal channels.

    Raises:
        UserError: timm has no such network, the weights cannot be had or are those of another, or the network takes no
            images of this size or of three channels.
    """
    import timm  # takes seconds

    if in_chans != 3:
        raise UserError(
            f"model.in_chans={in_chans}, but images are shown as red, green and blue, grey ones too: leave it at 3."
        )
    cfg = _config(name)
    overlay: dict[str, Any] = PACKAGES[name][2] if weights == "package" and name in PACKAGES else {}
    options: dict[str, Any] = {"in_chans": 3, "pretrained_cfg_overlay": overlay}
    if cfg.fixed_input_size and image_size:
        options["img_size"] = image_size
    _refuse_size(name, cfg, image_size)
    shapes_only = torch.empty(0).device.type == "meta"
    wanted = pretrained and not shapes_only
    model: Any = _with_weights(name, weights, cfg, options) if wanted else timm.create_model(name, **options)
    if freeze_backbone:
        model.requires_grad_(False)
    elif wanted:
        freeze_norms(model)
    model.reset_classifier(num_classes)
    model.in_chans = 3
    if not hasattr(model, "drop_rate"):
        model.drop_rate = 0.0
    return model


def _config(name: str) -> Any:
    """timm's `PretrainedCfg` of a name, without anything being looked up on the hub."""
    import timm

    plain, _, tag = name.partition(".")
    tags = {known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")} if timm.is_model(plain) else set()
    if not timm.is_model(plain) or (tag and tag not in tags):
        known = [f"{plain}.{tag}" for tag in sorted(tags)] if tags else timm.list_models()
        near = [other for other in known if other.startswith(name)] + difflib.get_close_matches(name, known, 5, 0.4)
        raise UserError(
            f"model.name={name!r} is no network of timm; the nearest names are {', '.join(near[:5])}.\nAll names: "
            'python -c "import timm; print(*timm.list_models())"'
        )
    cfg: Any = timm.get_pretrained_cfg(name)
    channels = cfg.input_size[0]
    if channels != 3:
        raise UserError(
            f"model.name={name} takes images of {channels} channels, but here they have three: red, green and blue."
        )
    return cfg


def _refuse_size(name: str, cfg: Any, image_size: int | None) -> None:
    """Builds the network without numbers, and shows it an image of this size."""
    import timm

    if image_size is None or not cfg.fixed_input_size:
        return
    own = cfg.input_size[-1]
    try:
        with torch.device("meta"):
            outline = timm.create_model(name, img_size=image_size).eval()
            patch = getattr(getattr(outline, "patch_embed", None), "patch_size", (1, 1))
            step = patch[0] if isinstance(patch, tuple) else int(patch)
            assert image_size % step == 0, f"its patches have {step} pixels a side"
            outline(torch.empty(1, 3, image_size, image_size))
    except Exception as error:  # each family says it in its own way
        raise UserError(
            f"data.image_size={image_size}: {name} cannot take images of this size ({error or type(error).__name__}). "
            f"Its weights were trained at data.image_size={own}."
        ) from error


@lru_cache(maxsize=8)
def _shapes(name: str) -> dict[str, Tensor]:
    """The state of a network with its own last layer, without numbers."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, in_chans=3).state_dict()


def _with_weights(name: str, source: str, cfg: Any, options: dict[str, Any]) -> Any:
    """The network with the weights, its own last layer included."""
    import timm

    path = find_weights(name, source, cfg)
    found = read_weights(path)
    expected = _shapes(name)
    found = fit_names(found, expected)
    overlay = {**options["pretrained_cfg_overlay"], "state_dict": found}
    last = found.get(f"{cfg.classifier}.weight")
    if last is not None and last.dim() > 0:  # trained for other classes than the hub's were
        overlay["num_classes"] = len(last)
    try:
        with quiet("timm", least=logging.ERROR):
            return timm.create_model(name, True, **{**options, "pretrained_cfg_overlay": overlay})
    except Exception as error:  # of timm's filters, which know the names of weights of other libraries
        raise UserError(
            f"model.weights={path} is not of model.name={name}: {describe_difference(found, expected)}."
        ) from error


_collected: ContextVar[list[Tensor] | None] = ContextVar("_collected", default=None)


_counted: dict[tuple[Any, ...], int] = {}  # features of the networks that were built


def _collect(layer: nn.Module, inputs: Any, output: Any) -> None:
    """A forward hook: keeps the output, if somebody asked for it in this thread."""
    found = _collected.get()
    if found is not None and isinstance(output, Tensor) and output.dim() in (3, 4):
        found.append(output)


class PooledFeatures(nn.Module):
    """A backbone, whose blocks' outputs are averaged over the image, and a linear layer on all of them.

    What early blocks see helps where photographs are unlike those of ImageNet: Head2Toe (Evci et al. 2022,
    https://arxiv.org/abs/2201.03529). The linear layer is solved for: see `imgbench.experiment.last_layer`.

    Args:
        backbone: a network of timm.
        image_size: that the backbone was built for.
        freeze_backbone: nothing but the linear layer learns.
    """

    def __init__(
        self, backbone: Any, num_classes: int, image_size: int | None = None, freeze_backbone: bool = True
    ) -> None:
        super().__init__()
        backbone.reset_classifier(0)
        self.is_frozen = freeze_backbone
        self.backbone = backbone.requires_grad_(not freeze_backbone).eval()
        freeze_norms(backbone)
        self.in_chans, self.drop_rate = backbone.in_chans, 0.0
        self.pretrained_cfg = backbone.pretrained_cfg
        self._channels_last = getattr(backbone, "output_fmt", None) == "NHWC"
        for name in blocks(backbone):
            backbone.get_submodule(name).register_forward_hook(_collect)
        self.num_features = self._count(image_size or self.pretrained_cfg["input_size"][-1])
        self.classifier = nn.Linear(self.num_features, num_classes)

    def _count(self, size: int) -> int:
        weights = self.state_dict()
        key = (type(self.backbone), size, *((name, value.shape) for name, value in weights.items()))
        if key not in _counted:  # a study builds the same network twenty times
            _counted[key] = self._counted_by_shapes(weights, size)
        return _counted[key]

    def _counted_by_shapes(self, weights: dict[str, Tensor], size: int) -> int:
        on_meta = {name: torch.empty_like(value, device="meta") for name, value in weights.items()}
        images = torch.empty(2, 3, size, size, device="meta")  # shapes without arithmetic
        return torch.func.functional_call(self, on_meta, images, {"classify": False}).shape[1]

    @property
    def num_classes(self) -> int:
        return self.classifier.out_features

    @property
    def head_hidden_size(self) -> int:
        return self.num_features

    def get_classifier(self) -> nn.Linear:
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_features, 1, 1): the blocks', and last what the backbone's own last layer takes."""
        found, last = self._collected(self.backbone, x)
        return self._joined(found, last)[:, :, None, None]

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of the blocks, and last the backbone's feature map: what the features are averages of."""
        found, last = self._collected(self.backbone.forward_features, x)
        return [*found, last]

    def forward_maps(self, maps: list[Tensor]) -> Tensor:
        """The `feature_maps` -> (N, num_classes)."""
        return self.classifier(self._joined(maps[:-1], self.backbone.forward_head(maps[-1], pre_logits=True)))

    def _collected(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the blocks give while the function is called, and what it returns."""
        token = _collected.set([])
        try:
            last = function(x)
            found = _collected.get() or []
        finally:
            _collected.reset(token)
        return [output for output in found if output.shape[0] == x.shape[0]], last

    def _joined(self, found: list[Tensor], last: Tensor) -> Tensor:
        return torch.cat([*map(self._average, found), last.flatten(1)], 1)

    def _average(self, output: Tensor) -> Tensor:
        if output.dim() == 3:  # tokens (N, T, C)
            return output.mean(1)
        return output.mean((1, 2) if self._channels_last else (2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.flatten(1)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor, classify: bool = True) -> Tensor:  # (N, 3, H, W) -> (N, num_classes)
        return self.forward_head(self.forward_features(x), pre_logits=not classify)


def blocks(backbone: nn.Module) -> list[str]:
    """The names of the blocks that the stages of a network are chains of.

    A block is a link of a chain that has several layers with weights, and no such chain in it; timm's residual
    networks, mobile networks and transformers are built so. Of others there may be none.
    """
    found = [
        f"{name}.{link}" if name else link
        for name, chain in backbone.named_modules()
        if isinstance(chain, nn.Sequential | nn.ModuleList)
        for link, layer in chain.named_children()
        if sum(isinstance(inner, nn.Conv2d | nn.Linear) for inner in layer.modules()) > 1
    ]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def pooled_features(
    name: str,
    num_classes: int,
    image_size: int | None = None,
    pretrained: bool = False,
    weights: str = "hub",
    freeze_backbone: bool = True,
    in_chans: int = 3,
    levels: int | None = None,
    frozen_stride: int | None = None,
) -> PooledFeatures:
    """`PooledFeatures` of timm's network `name`; arguments and errors are those of `timm_classifier`, and:

    Args:
        levels: keep the first of the levels between which the feature map is halved, and leave out what follows: most
            of the weights. None: keep all.
        frozen_stride: the levels whose feature map is at most so many times smaller than the image do not learn. They
            see edges and textures, which are the same everywhere, and have most of the pixels. None: all learn.
    """
    backbone = timm_classifier(name, 1, image_size, pretrained, weights, in_chans=in_chans)
    if levels is not None:
        _keep_levels(backbone, name, levels)
    model = PooledFeatures(backbone, num_classes, image_size, freeze_backbone)
    if frozen_stride is not None:
        _freeze_levels(backbone, frozen_stride)
    return model


def _keep_levels(backbone: Any, name: str, levels: int) -> None:
    """Leaves the first levels of a network, and the layers before them."""
    known = len(getattr(backbone, "feature_info", ()))
    if not known or not hasattr(backbone, "prune_intermediate_layers"):
        raise UserError(f"model.levels={levels}, but timm cannot shorten {name}: leave it out.")
    if not 1 <= levels <= known:
        raise UserError(f"model.levels={levels}, but {name} has {known}: take 1 to {known}.")
    backbone.prune_intermediate_layers([levels - 1])
    backbone.reset_classifier(0, "avg")  # it is left without pooling


def _freeze_levels(backbone: Any, stride: int) -> None:
    """Keeps as they are the levels up to a stride, and the layers before them."""
    levels = [level["module"] for level in getattr(backbone, "feature_info", ()) if level["reduction"] <= stride]
    if not levels:
        return
    reached = False
    for name, module in backbone.named_modules():  # in the order in which images pass through them
        inside = f"{name}.".startswith(f"{levels[-1]}.")
        if reached and not inside:
            return
        reached = inside
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
