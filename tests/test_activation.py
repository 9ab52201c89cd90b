"""Where a network looked: the maps are what theory says they are."""

import pytest
import torch
from torch import nn

from imgbench.models.activation import SIDE, class_activation
from imgbench.models.backbone import pooled_features, timm_classifier
from imgbench.models.cnn import CNN
from imgbench.models.compact import CompactCNN


def log_odds(logits, classes):
    rows = torch.arange(len(logits))
    others = logits.clone()
    others[rows, classes] = -torch.inf
    return logits[rows, classes] - others.logsumexp(1)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_of_an_average_and_one_layer_it_is_the_class_activation_map(images):
    network = CompactCNN(2).eval()
    features = network.forward_features(images)
    weights = network.get_classifier().weight
    classes = torch.tensor([0, 1, 1])
    expected = torch.einsum("nchw,nc->nhw", features, weights[classes] - weights[1 - classes])
    found = class_activation(network, images, classes)
    assert found is not None
    torch.testing.assert_close(found, expected.detach())
    bias = network.get_classifier().bias
    whole = found.mean((1, 2)) + bias[classes] - bias[1 - classes]
    torch.testing.assert_close(whole, log_odds(network(images), classes))


def test_only_places_that_have_a_say_light_up(images):
    network = CNN(3, image_size=64).eval()
    first = network.classifier[0]
    assert isinstance(first, nn.Linear)
    side = network.forward_features(images).shape[-1]
    with torch.no_grad():  # the dense layer looks at the left half only
        first.weight.view(len(first.weight), -1, side, side)[..., side // 2 :] = 0
    found = class_activation(network, images, torch.tensor([0, 1, 2]))
    assert found is not None
    assert found.shape == (3, side, side)
    assert found[:, :, side // 2 :].abs().max() == 0
    assert found[:, :, : side // 2].abs().max() > 0


def test_fine_maps_are_averaged_and_keep_their_mean():
    network = CNN(3, image_size=128, hidden=()).eval()
    images = torch.rand(2, 3, 128, 128)
    found = class_activation(network, images, torch.tensor([0, 2]))
    assert found is not None
    assert found.shape == (2, SIDE, SIDE)


def test_a_frozen_network_is_explained_by_the_maps_of_all_its_blocks(images):
    network = pooled_features("tf_efficientnet_lite0", 2, 64).eval()
    torch.testing.assert_close(network.forward_maps(network.feature_maps(images)), network(images))
    classes = torch.tensor([1, 0, 1])
    found = class_activation(network, images, classes)
    assert found is not None
    bias = network.get_classifier().bias
    expected = log_odds(network(images), classes) - bias[classes] + bias[1 - classes]
    # Maps of 4 x 4 places are spread over 14 x 14: not exactly the same mean.
    torch.testing.assert_close(found.mean((1, 2)), expected, rtol=0.05, atol=0.05)


def test_a_head_that_takes_the_class_token_alone_tells_no_places(images):
    network = timm_classifier("vit_tiny_patch16_224", 2, 64).eval()
    assert class_activation(network, images, torch.tensor([0, 0, 1])) is None


def test_maps_with_the_channels_last_are_read_as_such(images):
    network = timm_classifier("swin_tiny_patch4_window7_224", 2, 64).eval()
    found = class_activation(network, images, torch.tensor([0, 0, 1]))
    assert found is not None
    assert found.shape == (3, 2, 2)
