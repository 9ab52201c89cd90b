"""Augmentation of whole batches on the device, with random parameters of its own for each image."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from imgbench.errors import UserError

POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


class Augment(nn.Module):
    """Random flip, quarter turn and shift, crop and resize, colour, a policy, and mixing.

    Flips, turns and shifts move whole pixels, so that images stay as sharp as they are in an evaluation; a crop is
    resampled, and so it blurs what it enlarges.

    Args:
        flip: probability of a left-right flip.
        quarter_turns: turn each image by 0, 90, 180 or 270 degrees.
        shift: largest shift along each axis, as a share of the side; what comes in from outside is mirrored.
        crop: probability of a crop; the other images stay whole.
        scale: smallest and largest share of the image's area that a crop keeps.
        ratio: smallest and largest width to height of a crop (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842).
        color: brightness, contrast and saturation are each multiplied by between 1 - color and 1 + color.
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
        shift: float = 0.0,
        quarter_turns: bool = False,
        color: float = 0.0,
        crop: float = 1.0,
    ) -> None:
        super().__init__()
        if policy not in (None, *POLICIES):
            raise UserError(f"augment.policy={policy!r}, but it is one of {', '.join(POLICIES)}, or null.")
        if not 0 <= shift <= 0.5:
            raise UserError(f"augment.shift={shift}, but it is a share of the side between 0 and 0.5.")
        if not 0 <= color <= 1:
            raise UserError(f"augment.color={color}, but it lies between 0 and 1.")
        self.flip, self.quarter_turns, self.shift, self.crop = flip, quarter_turns, shift, crop
        self.scale, self.ratio, self.color, self.mix = tuple(scale), tuple(ratio), color, mix
        self.policy = POLICIES[policy]() if policy else None

    @property
    def is_identity(self) -> bool:
        """Whether every epoch gives the same images."""
        cropped = self.crop > 0 and not self.scale == self.ratio == (1.0, 1.0)
        return not (cropped or self.flip or self.quarter_turns or self.shift or self.color or self.policy or self.mix)

    def forward(self, images: Tensor, targets: Tensor, image_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, H, W) and (N,) -> float (N, 3, image_size, image_size) in 0 to 1 and the targets."""
        if self.policy is not None:
            # torchvision draws one operation per call, so each image gets a call of its own.
            images = torch.stack([self.policy(image) for image in images])
        if self.flip or self.quarter_turns or self.shift:
            images = self._move(images)
        floats = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        floats = self._crop(floats, image_size)
        if self.color:
            floats = self._recolor(floats)
        if self.mix:
            mixers = [v2.MixUp(num_classes=num_classes), v2.CutMix(num_classes=num_classes)]
            floats, targets = v2.RandomChoice(mixers)(floats, targets)
        return floats, targets

    def _move(self, images: Tensor) -> Tensor:
        number, side = len(images), images.shape[-1]
        most = round(self.shift * side)
        batch = _mirror_pad(images.permute(0, 2, 3, 1), most)
        starts = torch.randint(2 * most + 1, (number, 2)).tolist()
        flips = (torch.rand(number) < self.flip).tolist()
        turns = torch.randint(4 if self.quarter_turns else 1, (number,)).tolist()
        moved = []
        # One image after the other: gathering pixels by their places in the whole batch takes ten times as long.
        for image, (y, x), flip, quarters in zip(batch, starts, flips, turns, strict=True):
            image = image[y : y + side, x : x + side]
            image = image.flip(1) if flip else image
            moved.append(image.rot90(quarters) if quarters else image)
        return torch.stack(moved).permute(0, 3, 1, 2)

    def _crop(self, images: Tensor, image_size: int) -> Tensor:
        number, side = len(images), images.shape[-1]
        margin = round((side - image_size) / 2)
        whole = images[:, :, margin : margin + image_size, margin : margin + image_size]
        if self.scale == self.ratio == (1.0, 1.0):
            return whole
        chosen = torch.nonzero(torch.rand(number) < self.crop).flatten().to(images.device)
        area = self._uniform(chosen, *self.scale)
        ratio = torch.exp(self._uniform(chosen, math.log(self.ratio[0]), math.log(self.ratio[1])))
        size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1.0)  # width and height, (n, 2)
        centre = (1 - size) * (2 * torch.rand(len(chosen), 2, device=images.device) - 1)
        # As `affine_grid` places them, but without a matrix product for each pixel.
        places = (2 * torch.arange(image_size, device=images.device) + 1) / image_size - 1
        columns, rows = (centre[:, i, None] + size[:, i, None] * places for i in (0, 1))
        grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
        crops = F.grid_sample(images[chosen], grid, mode="bilinear", padding_mode="border", align_corners=False)
        return crops if len(chosen) == number else whole.index_copy(0, chosen, crops)

    def _recolor(self, images: Tensor) -> Tensor:
        brightness, contrast, saturation = (
            self._uniform(images, 1 - self.color, 1 + self.color).view(-1, 1, 1, 1) for _ in range(3)
        )
        return recolor(images, brightness, contrast, saturation)

    def _uniform(self, images: Tensor, low: float, high: float) -> Tensor:
        """One number for each image."""
        return low + (high - low) * torch.rand(len(images), device=images.device)


def recolor(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiplies brightness, contrast and saturation of images (N, 3, H, W) in 0 to 1 by factors (N, 1, 1, 1).

    As torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation` one after the other.
    """
    images = (images * brightness).clamp_(0, 1)
    images = torch.lerp(_gray(images).mean((2, 3), keepdim=True), images, contrast).clamp_(0, 1)
    return torch.lerp(_gray(images), images, saturation).clamp_(0, 1)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _mirror_pad(batch: Tensor, width: int) -> Tensor:
    """(N, H, W, C) with a border of `width`, mirrored at the edge pixels.

    torchvision's `pad` does the same by way of floats, which takes five times as long.
    """
    for axis in (1, 2) if width else ():
        last = batch.shape[axis] - 1
        before, after = batch.narrow(axis, 1, width), batch.narrow(axis, last - width, width)
        batch = torch.cat([before.flip(axis), batch, after.flip(axis)], axis)
    return batch
