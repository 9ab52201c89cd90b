"""Networks of timm by name, and the features that all their blocks have in common."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from imgbench.errors import UserError
from imgbench.models.backbone import PooledFeatures, blocks, pooled_features, timm_classifier


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet19", "resnet18"), ("efficientnet_light0", "efficientnet_lite0"), ("vit_tiny", "vit_tiny_patch16_224")],
)
def test_unknown_name_shows_the_nearest(name, nearest):
    with pytest.raises(UserError, match=rf"model\.name='{name}' is no network of timm; .*\b{nearest}\b"):
        timm_classifier(name, 2)


def test_unknown_tag_shows_those_there_are():
    with pytest.raises(UserError, match=r"'resnet18\.a9_in1k' is no network.*resnet18\.a1_in1k"):
        timm_classifier("resnet18.a9_in1k", 2)


@pytest.mark.parametrize("name", ["hf-hub:someone/something", "local-dir:/tmp", "https://a.b/c"])
def test_name_cannot_fetch_what_timm_does_not_know(name):
    with pytest.raises(UserError, match="is no network of timm"):
        timm_classifier(name, 2)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_three_are_refused(channels):
    with pytest.raises(UserError, match=rf"model\.in_chans={channels}, but images are shown as red, green and blue"):
        timm_classifier("resnet10t", 2, in_chans=channels)


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 100), ("swin_tiny_patch4_window7_224", 90)])
def test_size_that_a_transformer_cannot_take_is_named_with_its_own(name, size):
    with pytest.raises(UserError, match=rf"data\.image_size={size}: {name} cannot take .*data\.image_size=224"):
        timm_classifier(name, 2, image_size=size)


def test_transformer_is_built_for_the_size_of_the_images():
    with torch.device("meta"):
        model = timm_classifier("vit_tiny_patch16_224", 3, image_size=96)
        assert model(torch.empty(2, 3, 96, 96)).shape == (2, 3)


def test_shapes_alone_need_no_weights():
    with torch.device("meta"):
        model = timm_classifier("resnet10t", 3, pretrained=True, weights="nowhere.pth")
    assert model.get_classifier().out_features == 3


def test_frozen_backbone_trains_its_last_layer_only():
    with torch.device("meta"):
        model = timm_classifier("resnet10t", 5, freeze_backbone=True)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "number", "first"),
    [
        ("tf_efficientnet_lite0", 16, "blocks.0.0"),
        ("resnet18", 8, "layer1.0"),
        ("convnext_tiny", 18, "stages.0.blocks.0"),
        ("vit_tiny_patch16_224", 12, "blocks.0"),
        ("swin_tiny_patch4_window7_224", 12, "layers.0.blocks.0"),
    ],
)
def test_blocks_are_found_in_every_family(name, number, first):
    with torch.device("meta"):
        found = blocks(timm.create_model(name))
    assert (len(found), found[0]) == (number, first)


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("resnet18", 64, 2 * (64 + 128 + 256 + 512) + 512),
        ("vit_tiny_patch16_224", 96, 12 * 192 + 192),
        ("swin_tiny_patch4_window7_224", 224, 2 * 96 + 2 * 192 + 6 * 384 + 2 * 768 + 768),
        ("mobilevit_xxs", 64, None),
        ("vgg11_bn", 64, 4096),
    ],
)
def test_pooled_features_are_those_of_all_blocks_and_the_last(name, size, features):
    with torch.device("meta"):
        model = pooled_features(name, 3, image_size=size)
        assert model(torch.empty(2, 3, size, size)).shape == (2, 3)
    assert features in (None, model.num_features)


def test_pooled_features_are_averages_of_what_the_blocks_give():
    torch.manual_seed(0)
    backbone: Any = timm_classifier("resnet10t", 1).eval()
    model = PooledFeatures(backbone, 2, 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = model.forward_features(images).flatten(1)
        first = backbone.layer1(backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(images)))))
        torch.testing.assert_close(found[:, :64], first.mean((2, 3)))
        torch.testing.assert_close(found[:, -512:], backbone(images))
        torch.testing.assert_close(model(images), model.get_classifier()(found))


def test_only_the_head_learns_and_the_backbone_stays_in_evaluation():
    model = pooled_features("resnet10t", 2, image_size=32)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize(
    ("name", "frozen", "first"),
    [
        ("tf_efficientnet_lite0", "blocks.2.1", "blocks.3.0"),
        ("resnet10t", "layer2.0", "layer3.0"),
        ("convnext_atto", "stages.1", "stages.2"),
        ("vit_tiny_patch16_224", None, "blocks.0"),
    ],
)
def test_levels_of_large_feature_maps_stay_as_they_are(name, frozen, first):
    with torch.device("meta"):
        backbone: Any = pooled_features(name, 2, freeze_backbone=False, frozen_stride=8).backbone
    norms = {id(p) for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()}
    learns = {path: p.requires_grad for path, p in backbone.named_parameters() if id(p) not in norms}
    start = next(index for index, path in enumerate(learns) if path.startswith(f"{first}."))
    values = list(learns.values())
    assert all(values[start:])
    assert not any(values[:start]) or frozen is None
    assert frozen is None or not any(p.requires_grad for p in backbone.get_submodule(frozen).parameters())


def test_threads_do_not_mix_their_features():
    from concurrent.futures import ThreadPoolExecutor

    torch.manual_seed(0)
    model = pooled_features("resnet10t", 2, image_size=32).eval()
    images = torch.rand(8, 1, 3, 32, 32)
    with torch.no_grad():
        expected = [model(image) for image in images]

    def answer(image):
        with torch.no_grad():
            return model(image)

    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(answer, images), expected, strict=True):
            torch.testing.assert_close(found, alone)


@pytest.mark.parametrize(("name", "levels"), [("tf_efficientnet_lite0", 4), ("mobilenetv3_small_050", 2)])
def test_a_shortened_network_sees_in_its_levels_what_the_whole_sees_there(name, levels):
    whole = pooled_features(name, 2)
    shortened = pooled_features(name, 2, levels=levels)
    shortened.backbone.load_state_dict(whole.backbone.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        kept = shortened.feature_maps(images)[:-1]
        for ours, theirs in zip(kept, whole.feature_maps(images), strict=False):
            assert torch.equal(ours, theirs)
        assert shortened(images).shape == (2, 2)
    assert shortened.num_features < whole.num_features / 3
    assert sum(map(torch.numel, shortened.parameters())) < sum(map(torch.numel, whole.parameters())) / 4


@pytest.mark.parametrize("levels", [0, 6])
def test_levels_that_there_are_not_are_refused(levels):
    with pytest.raises(UserError, match=rf"model\.levels={levels}, but tf_efficientnet_lite0 has 5"):
        pooled_features("tf_efficientnet_lite0", 2, levels=levels)
