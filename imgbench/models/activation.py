"""What a network looked at: how much each place of an image speaks for the class that it was given.

Gradient times activation, place by place: where the head averages the feature map and has one layer, this is the class
activation map (Zhou et al. 2016, https://arxiv.org/abs/1512.04150), and for other heads HiResCAM (Draelos and Carin
2020, https://arxiv.org/abs/2011.08891), which unlike Grad-CAM lights up no place that had no say. The package
`grad-cam` would need the name of a layer for each architecture, fails on frozen networks, and brings 70 MB of OpenCV;
every network here tells its feature map itself.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 14  # finer maps are averaged to this: single pixels of a feature map are noise to the eye


@torch.enable_grad()
def class_activation(network: Any, images: Tensor, classes: Tensor) -> Tensor | None:
    """(N, side, side): how much each place adds to the log-odds of its image's class; None where maps have no places.

    The mean over a map is what the image as a whole adds, exactly so where the head is an average and one layer.

    Args:
        network: in evaluation mode, with `forward_features` and `forward_head`, or `feature_maps` and `forward_maps`.
        images: (N, 3, H, W) as the network takes them.
        classes: (N,) the class that is to be explained in each image.
    """
    several = hasattr(network, "feature_maps")  # of all blocks, and not the last alone
    found = network.feature_maps(images) if several else [network.forward_features(images)]
    maps = [values.detach().requires_grad_() for values in found]
    logits = network.forward_maps(maps) if several else network.forward_head(maps[0])
    chosen = F.one_hot(classes, logits.shape[1]).bool()
    others = logits.masked_fill(chosen, -torch.inf).logsumexp(1)  # for two classes, the logit of the other
    gradients = torch.autograd.grad((logits[chosen] - others).sum(), maps)
    pairs = zip(maps, gradients, strict=True)
    products = [_by_place(network, (values * gradient).detach()) for values, gradient in pairs]
    places = [product for product in products if product is not None and product.shape[-1] > 1 and product.any()]
    if not places:
        return None
    side = min(SIDE, max(product.shape[-1] for product in places))
    # As densities, whose mean does not depend on how many places a map has.
    densities = [product * product[0].numel() for product in places]
    return torch.stack([F.adaptive_avg_pool2d(density, side) for density in densities]).sum(0)


def _by_place(network: Any, product: Tensor) -> Tensor | None:
    """(N, h, w), the sum over channels of maps (N, C, h, w) or (N, h, w, C) or of tokens (N, number, C)."""
    if product.dim() == 4:
        return product.sum(3 if getattr(network, "output_fmt", "") == "NHWC" else 1)
    if product.dim() != 3:
        return None
    tokens = product.sum(2)
    side = int(tokens.shape[1] ** 0.5)  # what comes before a square of patches is no place: the class token
    return tokens[:, -(side**2) :].reshape(-1, side, side)
