import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from torchvision.transforms import v2

from imgbench.data.augment import Augment, recolor
from imgbench.data.batches import as_images
from imgbench.errors import UserError
from imgbench.experiment.compose import compose
from imgbench.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def noise(number, side):
    return as_images(np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8))


def augmented(augment, images, size, num_classes=3):
    return augment(images, torch.arange(len(images)) % num_classes, size, num_classes)


def number_of_different(images):
    return len({image.numpy().tobytes() for image in images})


def test_without_crop_and_flip_the_images_are_exact():
    images = noise(5, 16)
    floats, targets = augmented(Augment(), images, 16)
    assert floats.dtype == torch.float32
    assert torch.equal(floats, images / 255)
    assert targets.tolist() == [0, 1, 2, 0, 1]


def test_the_stored_images_are_not_changed():
    images = noise(4, 20)
    before = images.clone()
    augmented(Augment((0.5, 1), (0.8, 1.2), 1.0, "trivialaugment", mix=True), images, 16)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("stored", "size"), [(20, 16), (21, 16), (22, 15)])
def test_a_full_crop_of_a_larger_stored_image_is_its_centre_as_in_evaluation(stored, size):
    images = noise(4, stored)
    floats, _ = augmented(Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0)), images, size)
    assert torch.equal(floats, v2.CenterCrop(size)(images) / 255)


def test_a_flip_equals_torchvisions():
    image = noise(1, 16)
    floats, _ = augmented(Augment(flip=1.0), image, 16)
    assert torch.equal(floats[0], v2.functional.horizontal_flip(image[0]) / 255)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.999999, 1.0)])
@pytest.mark.parametrize(("flip", "low", "high"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_the_flip_has_its_probability(scale, flip, low, high):
    image = noise(1, 4)
    floats, _ = augmented(Augment(scale, flip=flip), image.expand(200, -1, -1, -1), 4)
    flipped = (floats - image.flip(-1) / 255).abs().amax((1, 2, 3)) < 0.01
    assert low <= flipped.sum() <= high
    assert torch.allclose(floats[~flipped], (image / 255).expand(int((~flipped).sum()), -1, -1, -1), atol=0.01)


@pytest.mark.parametrize(
    "augment", [Augment((0.2, 0.9)), Augment(policy="trivialaugment"), Augment(policy="randaugment")], ids=str
)
def test_each_image_of_a_batch_gets_parameters_of_its_own(augment):
    floats, _ = augmented(augment, noise(1, 24).expand(16, -1, -1, -1), 24)
    assert number_of_different(floats) >= 8


def test_a_new_call_draws_anew_and_the_seed_decides():
    augment, images = Augment((0.2, 0.9), (0.75, 1.33), 0.5), noise(4, 16)
    first, second = (augmented(augment, images, 16)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(augmented(augment, images, 16)[0], first)


def boxes_of(floats, side):
    """(N, 4) left, top, right, bottom in pixels, of crops of an image whose red is its x and whose green its y."""
    size = floats.shape[-1]
    coordinates = floats[:, :2] * 255 + 0.5
    a, b = size // 4, size - 1 - size // 4  # away from the border, where sampling repeats the outermost pixels
    x, y = coordinates[:, 0, size // 2], coordinates[:, 1, :, size // 2]
    boxes = []
    for values in (x, y):
        step = (values[:, b] - values[:, a]) / (b - a)
        start = values[:, a] - step * (a + 0.5)
        boxes.append(torch.stack([start, start + step * size]))
    (left, right), (top, bottom) = boxes
    return torch.stack([left, top, right, bottom], 1)


@pytest.mark.parametrize("size", [(64, 1), (1, 64)])
def test_what_the_default_makes_of_a_padded_strip_shows_the_strip(size):
    strip = np.array(Preprocessing(64, "pad").square(Image.new("RGB", size, "white")))
    augment = instantiate(compose(["augment=framing"]).augment)
    torch.manual_seed(0)
    floats, _ = augmented(augment, as_images(strip[None]).expand(300, -1, -1, -1), 64)
    shown = (floats - 114 / 255).abs().amax((1, 2, 3))
    assert shown.min() > 0.2


def test_random_resized_crop_has_the_geometry_it_is_asked_for():
    side, size = 128, 96
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), noise(1, side)[0, 2]])
    augment = Augment(scale=(0.1, 0.2), ratio=(0.25, 4.0), flip=0.5)
    floats, _ = augmented(augment, image.expand(200, -1, -1, -1), size)
    left, top, right, bottom = boxes_of(floats, side).T
    width, height = (right - left).abs() / side, (bottom - top) / side
    assert number_of_different(floats) == 200
    assert (height > 0).all()
    assert 60 <= (right < left).sum() <= 140, "half of them are flipped"
    tolerance = 0.01
    for positions in (left, right, top, bottom):
        assert (positions > -tolerance * side).all()
        assert (positions < (1 + tolerance) * side).all()
    area, ratio = width * height, width / height
    assert 0.1 - tolerance <= area.min() < 0.11 < 0.19 < area.max() <= 0.2 + tolerance
    assert 0.25 - tolerance <= ratio.min() < 0.3 < 3.4 < ratio.max() <= 4 + 4 * tolerance
    assert math.log(ratio.median()) == pytest.approx(0, abs=0.25)  # uniform in the logarithm: wide as often as high
    centres = torch.stack([left + right, top + bottom]) / 2 / side
    assert (centres.mean(1) - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_random_resized_crop_equals_cropping_and_resizing_directly(flip):
    side, size = 128, 96
    ramp = np.arange(side)
    x, y = np.meshgrid(ramp, ramp)
    waves = 127 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7)
    pixels = np.stack([x, y, waves], -1).astype(np.uint8)
    floats, _ = augmented(Augment((0.3, 0.5), (0.75, 1.3333), flip), as_images(pixels[None]), size)
    left, top, right, bottom = boxes_of(floats, side)[0].tolist()
    left, right = min(left, right), max(left, right)
    box = (max(left, 0), max(top, 0), min(right, side), min(bottom, side))
    direct = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box))
    expected = as_images(direct[None])[0]
    expected = expected.flip(-1) if flip else expected
    assert (floats[0] * 255 - expected).abs().max() <= 2


def test_a_crop_does_not_darken_at_the_border():
    white = torch.full((8, 3, 16, 16), 255, dtype=torch.uint8)
    floats, _ = augmented(Augment((0.9, 1.0), (0.9, 1.1)), white, 24)
    assert torch.allclose(floats, torch.ones(()))


def test_mixed_targets_are_probabilities_of_the_mixed_images():
    images = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (0, 255)] * 4)
    seen = set()
    for _ in range(12):
        floats, targets = Augment(mix=True)(images, torch.tensor([0, 1] * 4), 8, 2)
        assert targets.shape == (8, 2)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        assert (targets >= 0).all()
        # White belongs to class 1, so the share of white in an image is the probability of that class.
        assert torch.allclose(floats.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
        seen.add(bool(((floats > 0) & (floats < 1)).any()))
    assert seen == {True, False}, "MixUp blends to grey and CutMix keeps black and white: both take turns"


@pytest.mark.parametrize("stored", [16, 20])
def test_everything_together_gives_images_of_the_size_asked_for_in_0_to_1(stored):
    augment = Augment((0.35, 1.0), (0.75, 1.3333), 0.5, "randaugment", mix=True)
    floats, targets = augmented(augment, noise(6, stored), 16)
    assert floats.shape == (6, 3, 16, 16)
    assert targets.shape == (6, 3)
    assert 0 <= floats.min() < floats.max() <= 1


def test_an_unknown_policy_is_an_error_naming_the_choices():
    with pytest.raises(UserError, match=r"augment\.policy='auto', but it is one of randaugment, trivialaugment"):
        Augment(policy="auto")


def test_a_shift_equals_padding_by_reflection_and_cropping():
    images = noise(64, 16)
    floats, _ = augmented(Augment(shift=0.25), images, 16)
    padded = v2.functional.pad(images, [4], padding_mode="reflect") / 255
    places = [
        next((y, x) for y in range(9) for x in range(9) if torch.equal(padded[i, :, y : y + 16, x : x + 16], floats[i]))
        for i in range(64)
    ]
    assert {y for y, _ in places} | {x for _, x in places} == set(range(9))
    assert len(set(places)) > 30  # each image has its own


def test_quarter_turns_are_exact_and_equally_frequent():
    images = noise(1, 16).expand(400, -1, -1, -1)
    floats, _ = augmented(Augment(quarter_turns=True), images, 16)
    turned = [torch.rot90(images[0], turns, (1, 2)) / 255 for turns in range(4)]
    counts = [sum(torch.equal(floats[i], expected) for i in range(400)) for expected in turned]
    assert sum(counts) == 400
    assert min(counts) > 60


def test_flips_and_quarter_turns_together_give_all_eight_symmetries():
    images = noise(1, 16).expand(400, -1, -1, -1)
    floats, _ = augmented(Augment(flip=0.5, quarter_turns=True), images, 16)
    assert number_of_different(floats) == 8


def test_colours_change_as_torchvision_changes_them():
    images = noise(3, 16) / 255
    brightness, contrast, saturation = torch.tensor([[0.7, 1.0, 1.3], [1.2, 0.6, 0.9], [0.5, 1.4, 1.0]])
    changed = recolor(images, *(factors.view(3, 1, 1, 1) for factors in (brightness, contrast, saturation)))
    for i in range(3):
        expected = v2.functional.adjust_brightness(images[i], float(brightness[i]))
        expected = v2.functional.adjust_contrast(expected, float(contrast[i]))
        expected = v2.functional.adjust_saturation(expected, float(saturation[i]))
        assert torch.allclose(changed[i], expected, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"shift": 0.6}, {"shift": -0.1}, {"color": 1.5}])
def test_an_impossible_strength_is_an_error_that_names_it(wrong):
    with pytest.raises(UserError, match=f"augment.{next(iter(wrong))}="):
        Augment(**wrong)


@pytest.mark.parametrize("stored", [16, 20])
def test_images_that_are_not_cropped_stay_as_they_are_in_evaluation(stored):
    images = noise(200, stored)
    floats, _ = augmented(Augment(scale=(0.3, 0.6), crop=0.5), images, 16)
    unchanged = (floats - v2.CenterCrop(16)(images) / 255).abs().amax((1, 2, 3)) < 1e-4
    assert 60 < unchanged.sum() < 140
