"""Pruned networks are narrower, and come back from their checkpoints as they were."""

import pytest
import torch
from torch import nn

from imgbench.compression.channels import kept_channels, remove_channels, zero_share, zero_weights
from imgbench.errors import UserError
from imgbench.models.compact import CompactCNN
from imgbench.models.narrow import layer_widths, narrow
from imgbench.training.callbacks import KeepZeros
from imgbench.training.checkpoint import load_classifier
from imgbench.training.classifier import ImageClassifier

VGG = {"_target_": "imgbench.models.vgg.VGG", "blocks": [[16, 16], [32]], "hidden": [32, 16], "pool_size": 2}
MODELS = {
    "vgg": VGG,
    "vgg with batch norm": {**VGG, "batch_norm": True},
    "separable": {**VGG, "separable": True},
    "vgg without pooling": {**VGG, "pool_size": None, "image_size": 32},
    "cnn": {"_target_": "imgbench.models.cnn.CNN", "image_size": 32},
    "student": {"_target_": "imgbench.models.student.Student", "image_size": 32, "hidden": [24]},
    "compact": {"_target_": "imgbench.models.compact.CompactCNN"},
    "resnet18": {"_target_": "imgbench.models.pretrained.torchvision_classifier", "name": "resnet18"},
    "frozen resnet18": {
        "_target_": "imgbench.models.pretrained.torchvision_classifier",
        "name": "resnet18",
        "freeze_backbone": True,
    },
    "mobilenet": {"_target_": "imgbench.models.pretrained.torchvision_classifier", "name": "mobilenet_v3_small"},
}
PREPROCESSING = {"image_size": 32, "resize": "stretch", "mean": [0.5] * 3, "std": [0.25] * 3}


def classifier(name, **options):
    torch.manual_seed(0)
    return ImageClassifier({**MODELS[name], "num_classes": 3}, ["a", "b", "c"], PREPROCESSING, **options)


def save(module, path):
    torch.save({"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}, path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_pruned_network_is_narrower_and_its_checkpoint_gives_the_same_outputs(name, tmp_path):
    whole = classifier(name)
    once = remove_channels(whole, 0.25)
    twice = remove_channels(once, 0.5, layer_widths(whole.model))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for smaller, amount in ((once, 0.25), (twice, 0.5)):
        old, new = layer_widths(whole.model), layer_widths(smaller.model)
        shrunk = [layer for layer in old if new[layer][0] < old[layer][0]]
        assert shrunk
        assert all(new[layer][0] == kept_channels(old[layer][0], amount) for layer in shrunk)
        loaded = load_classifier(save(smaller, tmp_path / "pruned.ckpt")).eval()
        with torch.no_grad():
            assert torch.equal(loaded(images), smaller.eval()(images))
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in (whole, once, twice)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert whole.hparams["widths"] is None


def test_channels_with_the_least_weights_go():
    whole = classifier("compact")
    weights = dict(whole.model.named_parameters())
    weak = [5, 10, 11, 20, 21, 22, 30, 31]  # of the 32 channels of the second layer
    with torch.no_grad():
        weights["features.3.weight"][weak] *= 1e-3
        weights["features.4.weight"][weak] *= 1e-3
        weights["features.6.weight"][:, weak] *= 1e-3
    left = dict(remove_channels(whole, 0.25).model.named_parameters())["features.4.weight"]
    assert torch.equal(left, torch.ones(24))


@pytest.mark.parametrize(
    ("width", "amount", "kept"), [(64, 0.5, 32), (64, 0.3, 48), (20, 0.5, 8), (8, 0.5, 4), (3, 0.9, 1), (8, 0.05, 8)]
)
def test_widths_stay_multiples_of_eight_where_they_can(width, amount, kept):
    assert kept_channels(width, amount) == kept


def test_frozen_layers_stay_frozen():
    pruned = remove_channels(classifier("frozen resnet18"), 0.5)
    trained = [name for name, parameter in pruned.model.named_parameters() if parameter.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]


def test_model_that_cannot_lose_channels_is_refused():
    target = "imgbench.models.pretrained.torchvision_classifier"
    module = ImageClassifier(
        {"_target_": target, "name": "shufflenet_v2_x0_5", "num_classes": 2}, ["a", "b"], PREPROCESSING
    )
    try:
        pruned = remove_channels(module, 0.5)
    except UserError as error:
        assert "--unstructured" in str(error)
    else:  # a torch-pruning that can
        assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("widths", "message"),
    [({"features.9": [8, 3, 3, 3]}, "does not have"), ({"features.0": [17, 3, 3, 3]}, r"cut from \[16, 3, 3, 3\]"),
     ({"features.0": [8]}, r"shape \[8\]"), ({"features.2": [8]}, "ReLU is not narrowed")],
)  # fmt: skip
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(UserError, match=message):
        narrow(CompactCNN(2, widths=[[16]]), widths)


def test_single_weights_are_set_to_zero_and_stay_zero_while_training():
    module = classifier("cnn")
    pruned = zero_weights(module, 0.3)
    assert zero_share(module) < 0.01
    assert zero_share(pruned) == pytest.approx(0.3, abs=0.01)
    assert set(pruned.state_dict()) == set(module.state_dict())
    before = [layer.weight == 0 for layer in pruned.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    keep = KeepZeros()
    keep.on_train_start(None, pruned)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(pruned.parameters(), 0.01)
    for index in range(3):
        optimizer.zero_grad()
        pruned(torch.rand(4, 3, 32, 32)).logsumexp(1).sum().backward()
        optimizer.step()
        keep.on_train_batch_end(None, pruned, None, None, index)  # pyright: ignore[reportArgumentType]
    after = [layer.weight == 0 for layer in pruned.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert all(bool((new | ~old).all()) for old, new in zip(before, after, strict=True))
