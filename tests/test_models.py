import socket
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from imgbench.errors import UserError
from imgbench.experiment.build import plain
from imgbench.experiment.compose import choices, compose
from imgbench.models.cnn import CNN
from imgbench.models.layers import Dropout
from imgbench.models.pretrained import TorchvisionClassifier, pretrained_cfg, torchvision_classifier
from imgbench.models.summary import multiply_adds
from imgbench.models.vgg import VGG
from imgbench.run import CONF
from imgbench.training.network import build_model

MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {"auto"})  # which is one of the others


composed = cache(compose)  # which takes longer than building most networks without numbers


def model_config(*overrides, **data):
    """Of the network in the configuration of these words, in which entries of `data` are put in place."""
    words = (*overrides, "data.num_classes=3") if "data=potato" in overrides else overrides
    config = composed(words).copy()
    config.data.update(data)
    model = plain(config.model)
    return {**model, "pretrained": False} if "pretrained" in model else model  # nothing is fetched


def number_of_parameters(config):
    with torch.device("meta"):  # shapes without memory
        return sum(p.numel() for p in build_model(config).parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_size", [32, 75])
def test_every_model_config_gives_one_logit_per_class(name, image_size):
    with torch.device("meta"):
        model = build_model(model_config(f"model={name}", num_classes=5, image_size=image_size))
        assert model(torch.empty(2, 3, image_size, image_size)).shape == (2, 5)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_config_has_finite_gradients(name):
    config = model_config(f"model={name}", num_classes=2, image_size=32)
    large = number_of_parameters(config) > 20e6  # without numbers: that each parameter has a gradient must do
    torch.manual_seed(0)
    with torch.device("meta" if large else "cpu"):
        model = build_model(config)
        model(torch.rand(2, 3, 32, 32)).logsumexp(1).sum().backward()
    learning = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning
    for parameter_name, parameter in learning:
        assert parameter.grad is not None, parameter_name
        assert large or parameter.grad.isfinite().all(), parameter_name


EXPERIMENTS = {
    "cifar100_fast": 9_462_180,
    **dict.fromkeys(["cifar100_vgg13", "cifar100_vgg13_honest"], 9_582_116),
    **dict.fromkeys(["monkeypox_cnn", "monkeypox_cnn_grouped", "sneakers_cnn", "sneakers_cnn_honest"], 22_175_138),
    "potato_fast": 292_051,
    **dict.fromkeys(["potato_vgg16", "potato_vgg16_optimized", "potato_vgg16_torchvision"], 134_272_835),
    "potato_vgg16_gap_honest": 14_724_675,
    "weather_cnn": 13_794_980,
}


def test_every_experiment_has_its_number_of_parameters():
    assert EXPERIMENTS.keys() == set(choices("experiment"))


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        *((["experiment=" + name], number) for name, number in EXPERIMENTS.items()),
        (["model=vgg16_torchvision", "data.num_classes=1000"], 138_357_544),
        (["model=vgg16", "data.num_classes=1000"], 138_357_544),
        (["data=potato", "model=vgg16", "head=slim"], 40_668_995),
        (["data=potato", "model=vgg16", "head=gap"], 14_716_227),
        (["data=potato", "model=vgg16_separable"], 27_630_177),
        (["data=potato", "model=vgg16_separable", "head=gap"], 1_677_409),
        (["data=potato", "model=student"], 51_400_643),
    ],
)
def test_models_have_as_many_parameters_as_published(overrides, number):
    assert number_of_parameters(model_config(*overrides)) == number


def test_default_network_is_small():
    assert number_of_parameters(model_config("data=potato", "model=compact")) < 300_000


@pytest.mark.parametrize("head", ["full", "slim", "gap"])
@pytest.mark.parametrize("name", ["vgg13", "vgg16", "vgg16_separable", "cnn", "student", "compact"])
def test_any_head_goes_with_any_body(name, head):
    with torch.device("meta"):
        model = build_model(model_config(f"model={name}", f"head={head}", "data.num_classes=5"))
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 5)
    dense = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert dense == {"full": [4096, 4096, 5], "slim": [1024, 256, 5], "gap": [5]}[head]


def test_model_that_keeps_its_head_says_so():
    with pytest.raises(UserError, match=r"torchvision_classifier keeps the head it has.*hidden or pool_size"):
        build_model(model_config("model=torchvision", "head=slim"))


def test_head_without_pooling_takes_the_feature_map_as_it_is():
    model = VGG(3, blocks=[[4], [8]], hidden=[6], pool_size=None, image_size=20)
    assert model.classifier[0].in_features == 8 * 5 * 5
    assert model(torch.rand(2, 3, 20, 20)).shape == (2, 3)


def test_head_of_the_cnn_has_dropout_unless_it_is_the_posts():
    assert [layer.p for layer in CNN(2, 18).classifier if isinstance(layer, Dropout)] == [0]
    assert [layer.p for layer in CNN(2, 18, hidden=[8, 4]).classifier if isinstance(layer, Dropout)] == [0.3, 0.3]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_separable_vgg_keeps_the_scale_of_its_input(batch_norm):
    torch.manual_seed(0)
    model = VGG(3, hidden=[], pool_size=1, separable=True, batch_norm=batch_norm)
    features = model.features(torch.randn(2, 3, 64, 64))
    assert 0.1 < features.square().mean().sqrt() < 10
    norms = [layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == (13 if batch_norm else 0)  # one after each pair


@pytest.mark.parametrize("name", ["vgg13", "vgg16", "vgg16_separable", "student"])
def test_batch_normalisation_is_a_switch(name):
    with torch.device("meta"):
        model = build_model(model_config(f"model={name}", "model.batch_norm=true"))
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def test_experiments_pool_as_the_posts_did():
    assert model_config("experiment=monkeypox_cnn")["pool2"] == "avg"
    assert model_config("experiment=sneakers_cnn")["pool2"] == "max"
    assert model_config("experiment=weather_cnn")["early_dropout"] is False


@pytest.mark.parametrize("pool2", ["avg", "max"])
def test_cnn_takes_images_from_18_pixels(pool2):
    assert CNN(2, image_size=18, in_chans=1, pool2=pool2)(torch.rand(3, 1, 18, 18)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"image_size=17.*18 or more"):
        CNN(2, image_size=17)


@pytest.mark.parametrize(("model", "options"), [(CNN, {"pool2": "min"}), (VGG, {"init": "torch"})])
def test_unknown_options_are_refused_with_the_choices(model, options):
    with pytest.raises(ValueError, match=r"'min', but it is one of avg, max|'torch', but it is kaiming or keras"):
        model(2, **options)


def keras_vgg():
    return VGG(10, blocks=[[16], [32]], hidden=[64], pool_size=2, init="keras")


@pytest.mark.parametrize("build", [lambda: CNN(10, image_size=32), keras_vgg])
def test_keras_initialisation_is_glorot_uniform_with_zero_biases(build):
    torch.manual_seed(0)
    for layer in build().modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            field = layer.weight[0, 0].numel()  # 9 for a convolution, 1 for a dense layer
            limit = (6 / (field * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert 0.97 * limit < layer.weight.abs().max() <= limit
            assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
            assert layer.bias is not None
            assert not layer.bias.any()


def test_vgg_is_initialised_like_torchvisions():
    torch.manual_seed(0)
    model = VGG(10, blocks=[[32], [64, 64]], hidden=[64], pool_size=2)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std = 0.01 if isinstance(layer, nn.Linear) else (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_hand_built_vgg16_shares_its_state_dict_with_torchvisions(batch_norm):
    with torch.device("meta"):
        own = VGG(7, batch_norm=batch_norm).state_dict()
        other = torchvision_classifier("vgg16_bn" if batch_norm else "vgg16", 7).state_dict()
    assert [(name, value.shape) for name, value in own.items()] == [(name, v.shape) for name, v in other.items()]


def test_hand_built_vgg16_computes_what_torchvisions_does():
    torch.manual_seed(0)
    own = VGG(3, hidden=(8, 8)).eval()
    with torch.device("meta"):
        other = torchvision_classifier("vgg16", 3).eval()
        for layer, size in (("0", (25088, 8)), ("3", (8, 8)), ("6", (8, 3))):  # few parameters for 120 million
            other.set_submodule(f"classifier.{layer}", nn.Linear(*size))
    other.load_state_dict(own.state_dict(), assign=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(own(images), other(images))


FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5",
    "mobilenet_v2", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vit_b_16",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_torchvision_gets_a_new_last_layer_and_trains_only_that_if_frozen(name):
    size = {"inception_v3": 299, "regnet_y_400mf": 64}.get(name, 224)
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # RegNet's builder needs numbers
        model = torchvision_classifier(name, 7, freeze_backbone=True)
        assert model.train()(torch.empty(2, 3, size, size)).shape == (2, 7)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [len(parameter) for parameter in trained] == [7, 7]
    assert [id(parameter) for parameter in trained] == [id(parameter) for parameter in list(model.parameters())[-2:]]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inception_transforms_its_input_with_and_without_pretrained_weights(name):
    # Its checkpoint is loaded without them, and must compute the same.
    with torch.device("meta"):
        model = torchvision_classifier(name, 2)
    white = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(model.get_submodule("transform_input")(white), torch.ones(1, 3, 1, 1))


def test_unknown_torchvision_name_lists_the_choices():
    with pytest.raises(UserError, match=r"model.name='resnet19' .*resnet18, resnet34"):
        torchvision_classifier("resnet19", 2)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache of torch: the directory that is returned."""

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def test_pretrained_weights_that_cannot_be_had_are_a_clear_error(offline):
    with pytest.raises(UserError, match=r"(?s)model.pretrained=true: .*squeezenet1_1.*unreachable.*TORCH_HOME"):
        torchvision_classifier("squeezenet1_1", 2, pretrained=True)


def test_pretrained_weights_come_from_torchs_cache(offline):
    torch.manual_seed(0)
    saved = torchvision.models.squeezenet1_1().state_dict()
    url = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"].url
    cached = offline / "hub" / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    torch.save(saved, cached)
    model = torchvision_classifier("squeezenet1_1", 2, pretrained=True)
    assert torch.equal(model.state_dict()["features.0.weight"], saved["features.0.weight"])
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["vit_b_16", "maxvit_t"])
def test_transformer_is_built_for_the_size_of_the_images(name):
    with torch.device("meta"):
        model = torchvision_classifier(name, 3, image_size=448).eval()
        assert model(torch.empty(1, 3, 448, 448)).shape == (1, 3)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_speaks_timms_language(name):
    with torch.device("meta"):
        model: Any = build_model(model_config(f"model={name}", num_classes=5, image_size=64)).eval()
        images = torch.empty(2, 3, 64, 64)
        maps = model.forward_features(images)
        hidden = model.forward_head(maps, pre_logits=True)
        assert (model.num_classes, model.in_chans, model.drop_rate >= 0) == (5, 3, True)
        assert maps.shape[:2] == (2, model.num_features)
        assert maps.dim() == 4
        assert hidden.shape == (2, model.head_hidden_size)
        assert model.forward_head(maps).shape == (2, 5)
        model.reset_classifier(7)
        assert model(images).shape == (2, 7)
        assert model.num_classes == len(model.get_classifier().weight) == 7
    assert model.pretrained_cfg["input_size"][0] == 3


def test_logits_are_the_last_layers_of_the_pre_logits():
    torch.manual_seed(0)
    model = VGG(3, blocks=[[4], [8]], hidden=[6], pool_size=2).eval()
    images = torch.rand(2, 3, 20, 20)
    hidden = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(model.get_classifier()(hidden), model(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_torchvision_compute_what_torchvisions_do(name):
    options = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    for auxiliary in {"aux1", "aux2", "AuxLogits"} & {child for child, _ in net.named_children()}:
        setattr(net, auxiliary, None)
    model = TorchvisionClassifier(net, {}).eval()
    size = {"inception_v3": 80, "vit_b_16": 224, "maxvit_t": 224}.get(name, 64)
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        expected, maps = net(images), model.forward_features(images)
        torch.testing.assert_close(model(images), expected)
        hidden = model.forward_head(maps, pre_logits=True)
        if name != "squeezenet1_1":  # whose last layer comes before the pooling
            torch.testing.assert_close(model.get_classifier()(hidden), expected)
    assert maps.shape[-1 if maps.dim() == 3 else 1] == model.num_features
    assert hidden.shape == (1, model.head_hidden_size)
    assert list(model.state_dict()) == list(net.state_dict())  # so that weights go from the one to the other


def test_what_pretrained_weights_expect_is_known_without_them():
    with torch.device("meta"):
        known = torchvision_classifier("efficientnet_v2_s", 2).pretrained_cfg
    assert known["input_size"] == (3, 384, 384)
    assert known["interpolation"] == "bilinear"
    assert known["mean"] == (0.485, 0.456, 0.406)
    assert known["std"] == (0.229, 0.224, 0.225)
    assert known["license"] == "bsd-3-clause"
    assert "SWAG" in pretrained_cfg("vit_h_14")["license"]


def test_counting_operations_leaves_the_network_on_its_device():
    network = CNN(num_classes=2, image_size=20)
    expected = multiply_adds(network, 20)
    elsewhere = network.to("meta")  # as good as a GPU: what is brought back from there is noticed
    assert multiply_adds(elsewhere, 20) == expected
    assert all(parameter.device.type == "meta" for parameter in elsewhere.parameters())
