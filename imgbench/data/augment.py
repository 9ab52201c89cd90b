"""Augmentation of whole batches on the device, with random parameters of their own for each image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from imgbench.errors import ConfigError

POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


class Augment(nn.Module):
    """Random crop and resize, flip, a colour-and-shape policy, and mixing, in this order.

    Args:
        scale: smallest and largest share of the image's area that a crop keeps.
        ratio: smallest and largest width to height of a crop (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842).
        flip: probability of a left-right flip.
        policy: `randaugment` (https://arxiv.org/abs/1909.13719) or `trivialaugment` (https://arxiv.org/abs/2103.10158).
        mix: mixes each batch by MixUp (https://arxiv.org/abs/1710.09412) or CutMix (https://arxiv.org/abs/1905.04899),
            by turns at random; targets become (N, num_classes) probabilities.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (1.0, 1.0),
        ratio: tuple[float, float] = (1.0, 1.0),
        flip: float = 0.0,
        policy: str | None = None,
        mix: bool = False,
    ) -> None:
        super().__init__()
        if policy not in (None, *POLICIES):
            raise ConfigError(f"augment.policy={policy!r}, but it is one of {', '.join(POLICIES)}, or null.")
        self.scale, self.ratio, self.flip, self.mix = tuple(scale), tuple(ratio), flip, mix
        self.policy = POLICIES[policy]() if policy else None

    @property
    def is_identity(self) -> bool:
        """Whether every epoch gives the same images."""
        return self.scale == self.ratio == (1.0, 1.0) and not self.flip and self.policy is None and not self.mix

    def forward(self, images: Tensor, targets: Tensor, image_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, H, W) and (N,) -> float (N, 3, image_size, image_size) in 0 to 1 and the targets."""
        if self.policy is not None:
            # torchvision draws one operation per call, so each image gets a call of its own.
            images = torch.stack([self.policy(image) for image in images])
        floats = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        floats = self._crop_and_flip(floats, image_size)
        if self.mix:
            mixers = [v2.MixUp(num_classes=num_classes), v2.CutMix(num_classes=num_classes)]
            floats, targets = v2.RandomChoice(mixers)(floats, targets)
        return floats, targets

    def _crop_and_flip(self, images: Tensor, image_size: int) -> Tensor:
        number, side = len(images), images.shape[-1]
        sign = 1.0 - 2.0 * (torch.rand(number, device=images.device) < self.flip)
        if self.scale == self.ratio == (1.0, 1.0):
            margin = round((side - image_size) / 2)
            images = images[:, :, margin : margin + image_size, margin : margin + image_size]
            return torch.where(sign.view(-1, 1, 1, 1) < 0, images.flip(-1), images) if self.flip else images

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(number, device=images.device)

        area = uniform(*self.scale)
        ratio = torch.exp(uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
        left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        theta = torch.zeros(number, 2, 3, device=images.device)
        theta[:, 0, 0], theta[:, 0, 2] = width * sign, left
        theta[:, 1, 1], theta[:, 1, 2] = height, top
        grid = F.affine_grid(theta, [number, 3, image_size, image_size], align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
