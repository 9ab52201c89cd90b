import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2.functional import normalize

from imgbench.errors import UserError
from imgbench.training.classifier import ImageClassifier
from imgbench.training.network import build_model

NAMES = ["a", "b", "c"]
CNN = {"_target_": "imgbench.models.cnn.CNN", "num_classes": 3, "image_size": 20, "drop_rate": 0.0}
IMAGENET = {"image_size": 20, "resize": "stretch", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PLAIN = (dict, list, str, int, float, bool, type(None))


def classifier(model=None, lr=3e-3, **options):
    torch.manual_seed(0)
    optimizer = {"_target_": "torch.optim.Adam", "lr": lr}
    return ImageClassifier(model or CNN, NAMES, IMAGENET, optimizer, **options)


def batch(number=8):
    """uint8 images of noise, and targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, 3, 20, 20), dtype=torch.uint8, generator=generator)
    return images, torch.arange(number) % 3


def fit(module, epochs=1, train=None, val=None):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loaders = [DataLoader(TensorDataset(*(part or batch())), batch_size=8) for part in (train, val)]
    trainer.fit(module, loaders[0], loaders[1])
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier trained on eight images, its trainer, and its checkpoint."""
    module = classifier(scheduler={"_target_": "imgbench.training.schedules.constant"}, provenance={"split_hash": "ab"})
    trainer = fit(module, epochs=40)
    path = tmp_path_factory.mktemp("checkpoints") / "model.ckpt"
    trainer.save_checkpoint(path)
    return module.eval(), trainer, path


def test_eight_images_are_learnt_by_heart(trained):
    module, trainer, _ = trained
    assert trainer.callback_metrics["train/loss"] < 0.01
    assert trainer.callback_metrics["train/acc"] == trainer.callback_metrics["val/acc"] == 1
    images, targets = batch()
    with torch.no_grad():
        assert F.cross_entropy(module(images), targets) < 0.01


def test_checkpoint_loads_weights_only_and_gives_identical_logits(trained):
    module, _, path = trained
    loaded = ImageClassifier.load_from_checkpoint(path, weights_only=True).eval()
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(loaded(images), module(images))
    assert loaded.class_names == NAMES
    assert loaded.hparams["preprocessing"] == IMAGENET
    assert loaded.hparams["provenance"] == {"split_hash": "ab"}


def test_hyper_parameters_are_plain_containers(trained):
    def check(value):
        assert type(value) in PLAIN, f"{value!r} is a {type(value)}"
        for item in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
            check(item)

    check(torch.load(trained[2], weights_only=True)["hyper_parameters"])


def test_bytes_and_floats_between_0_and_1_give_the_same_logits(trained):
    images, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(trained[0](images), trained[0](images.float() / 255), rtol=0, atol=1e-4)


def test_input_is_normalised_as_by_torchvision():
    module = classifier()
    module.model = nn.Identity()
    images, _ = batch()
    expected = normalize(images.float() / 255, IMAGENET["mean"], IMAGENET["std"])
    torch.testing.assert_close(module(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), ([0.5, 1.0, 3.0], 0.0), ([0.5, 1.0, 3.0], 0.1)])
def test_training_loss_is_weighted_and_smoothed_and_validation_loss_is_neither(mixed, weights, smoothing):
    module = classifier(lr=0.0, class_weights=weights, label_smoothing=smoothing)
    images, labels = batch()
    targets = 0.3 * F.one_hot(labels, 3) + 0.7 * F.one_hot(labels.flip(0), 3) if mixed else labels
    with torch.no_grad():
        logits = module(images)
    metrics = fit(module, train=(images, targets), val=(images, labels)).callback_metrics
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, targets, weight, label_smoothing=smoothing)
    torch.testing.assert_close(metrics["train/loss"], expected)
    torch.testing.assert_close(metrics["val/loss"], F.cross_entropy(logits, labels))
    majority = targets.argmax(1) if mixed else labels
    assert metrics["train/acc"] == (logits.argmax(1) == majority).float().mean()


def touch(marker):
    """What a checkpoint must not make happen: each of these would leave a file."""
    mkdir = {"_target_": "os.mkdir", "path": str(marker)}
    interpolation = f"${{oc.create:{{_target_: os.mkdir, path: '{marker}'}}}}"
    return {
        "os.system": {"_target_": "os.system", "command": f"touch {marker}"},
        "reached through our own module": {**mkdir, "_target_": "imgbench.models.layers.torch.os.mkdir"},
        "reached through a model's module": {**mkdir, "_target_": "imgbench.training.classifier.nn.modules.os.mkdir"},
        "nested": {**CNN, "pool2": mkdir},
        "nested in a list": {**CNN, "pool2": [{"deeper": [mkdir]}]},
        "interpolated": {**CNN, "pool2": interpolation},
        "interpolated target": {**CNN, "_target_": interpolation},
        "no target": {"num_classes": 3},
        "no callable": {"_target_": "imgbench.models.cnn"},
        "no model": {"_target_": "imgbench.models.layers.init_keras.__class__"},
    }


@pytest.mark.parametrize("kind", list(touch("")))
def test_a_checkpoint_that_names_anything_but_a_model_is_refused_and_nothing_runs(trained, tmp_path, kind):
    content = torch.load(trained[2], weights_only=True)
    content["hyper_parameters"]["model"] = touch(tmp_path / "marker")[kind]
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(
        UserError, match="names a _target_ of its own" if "nested" in kind else "_target_|cannot be built"
    ):
        ImageClassifier.load_from_checkpoint(tmp_path / "evil.ckpt", weights_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


def test_a_class_that_is_only_imported_where_it_is_named_is_none_of_ours():
    with pytest.raises(UserError, match=r"model._target_=torchmetrics.*MulticlassAccuracy is not imported"):
        build_model({"_target_": "imgbench.training.classifier.MulticlassAccuracy", "num_classes": 3})


def test_a_function_that_builds_no_model_is_refused():
    with pytest.raises(UserError, match=r"pretrained_cfg gives no nn.Module, but a dict"):
        build_model({"_target_": "imgbench.models.pretrained.pretrained_cfg", "name": "resnet18"})


def test_any_module_class_is_a_model():
    model = build_model({"_target_": "torch.nn.LazyLinear", "out_features": 3})
    assert isinstance(model, nn.LazyLinear)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 10}, "CNN cannot be built: image_size=10"),
        ({"depth": 3}, "CNN cannot be built: .*depth"),
        ({"_target_": "imgbench.models.cnn.CNM"}, "'imgbench.models.cnn.CNM' cannot be imported"),
        ({"_target_": "imgbench.models.vgg.VGG", "pool2": "avg"}, "VGG cannot be built: .*pool2"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(change, message):
    with pytest.raises(UserError, match=message):
        build_model({**CNN, **change})


def test_checkpoint_of_a_pretrained_model_is_loaded_without_fetching_imagenets_weights(tmp_path):
    target = "imgbench.models.pretrained.torchvision_classifier"
    module = classifier({"_target_": target, "name": "squeezenet1_1", "num_classes": 3, "pretrained": False})
    module.hparams["model"]["pretrained"] = True  # as if it had been
    fit(module).save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert module.hparams["model"]["pretrained"] is True
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.hparams["model"]["pretrained"] is False


def test_frozen_parameters_are_not_given_to_the_optimizer():
    module = classifier()
    module.model.get_submodule("features").requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fit(module)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("model.classifier.")}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_frozen_backbone_stays_as_it_is_while_the_last_layer_learns(name):
    target = "imgbench.models.pretrained.torchvision_classifier"
    module = classifier({"_target_": target, "name": name, "num_classes": 3, "freeze_backbone": True})
    last = list(module.model.modules())[-1]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fit(module, epochs=2)
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.rpartition(".")[2] for key in changed} == {"weight", "bias"}
    assert len(changed) == 2
    layers = [m for m in module.train().model.modules() if isinstance(m, nn.BatchNorm2d | nn.Dropout)]
    assert layers
    assert not any(layer.training for layer in layers)
    assert last.training


def test_a_frozen_layer_among_others_has_no_dropout_and_no_new_statistics():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()),
        nn.Dropout(),
        nn.Linear(4, 4),
        nn.Dropout(),
        nn.BatchNorm1d(4),
    )
    module = classifier()
    module.model = model
    assert all(m.training for m in module.train().model.modules())
    model[0].requires_grad_(False)
    model[4].requires_grad_(False)
    module.train()
    assert [m.training for m in model] == [False, False, True, True, False]
    assert not any(m.training for m in model[0].modules())
    module.eval()
    assert not any(m.training for m in model.modules())


def test_norms_and_biases_do_not_decay():
    target = "imgbench.models.compact.CompactCNN"
    module = classifier({"_target_": target, "num_classes": 3, "widths": [[4]]})
    module.hparams["optimizer"] = {"_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}
    decayed, others = module.parameter_groups()
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.parameters()))
    trainer = fit(module)
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.5, 0.0]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [parameter.clone() for parameter in module.parameters()]
    trainer.optimizers[0].state.clear()
    trainer.optimizers[0].step()
    for parameter, old in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old * (0.95 if parameter.dim() > 1 else 1))


@pytest.mark.parametrize(
    "model",
    [
        CNN,
        {"_target_": "imgbench.models.compact.CompactCNN", "num_classes": 3, "widths": [[4]]},
        {"_target_": "imgbench.models.backbone.timm_classifier", "name": "test_resnet", "num_classes": 3},
    ],
)
def test_optimizer_of_an_earlier_version_goes_on(model):
    """It had the parameters of more than one dimension first, then the others, each in the network's order."""
    module = classifier(model)
    module.hparams["optimizer"]["weight_decay"] = 0.5
    parameters = list(module.parameters())
    earlier = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]]
    groups = module.parameter_groups()
    assert [list(map(id, group["params"])) for group in groups] == [list(map(id, group)) for group in earlier]
    assert [group["weight_decay"] for group in groups] == [0.5, 0]


def test_parameters_that_the_network_exempts_do_not_decay():
    module = classifier({"_target_": "imgbench.models.backbone.timm_classifier", "name": "test_vit",
                         "num_classes": 3, "image_size": 160})  # fmt: skip
    module.hparams["optimizer"]["weight_decay"] = 0.5
    decayed, others = (set(map(id, group["params"])) for group in module.parameter_groups())
    named = dict(module.model.named_parameters())
    assert {id(named["pos_embed"]), id(named["cls_token"])} <= others - decayed
    assert id(named["patch_embed.proj.weight"]) in decayed


def test_without_weight_decay_there_is_one_group():
    assert len(classifier().parameter_groups()) == 1


SCHEDULES = ["constant", "exponential", "cosine", "warmup_cosine", "one_cycle", "step", "plateau"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_moves_both_groups_alike(schedule):
    module = classifier(scheduler={"_target_": f"imgbench.training.schedules.{schedule}"})
    module.hparams["optimizer"]["weight_decay"] = 0.1
    trainer = fit(module, epochs=3)
    first, second = (group["lr"] for group in trainer.optimizers[0].param_groups)
    assert first == second
