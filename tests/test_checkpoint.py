"""Writing checkpoints, and reading them: those of earlier versions, and forged ones."""

import copy
import errno
import io
import signal
import socket
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from imgbench.errors import UserError
from imgbench.training.checkpoint import AtomicCheckpointIO, load_classifier
from imgbench.training.classifier import ImageClassifier
from imgbench.training.reading import read_checkpoint, upgrade


class Unwritable:
    def __reduce__(self):
        raise RuntimeError("the disk is full")


def test_written_checkpoint_is_read_back(tmp_path):
    weights = torch.randn(3, 4)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": weights}}, tmp_path / "new" / "last.ckpt")
    read = torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)
    assert torch.equal(read["state_dict"]["weight"], weights)


def test_failed_write_leaves_the_earlier_checkpoint(tmp_path):
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="disk is full"):
        writer.save_checkpoint({"big": torch.zeros(1000), "epoch": Unwritable()}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class InterruptedFile(io.FileIO):
    """What a user's Ctrl-C does to a write that takes long."""

    def write(self, data, /):
        signal.raise_signal(signal.SIGINT)
        return super().write(data)


def test_interruption_waits_until_the_file_is_whole(tmp_path, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *mode, **options: (
            InterruptedFile(path, *mode) if path.parent == tmp_path else opened(path, *mode, **options)
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"big": torch.zeros(1000)}, tmp_path / "last.ckpt")
    monkeypatch.undo()
    [written] = tmp_path.iterdir()
    assert torch.load(written, weights_only=True)["big"].shape == (1000,)


PREPROCESSING = {"image_size": 20, "resize": "stretch", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
CNN = {"_target_": "imgbench.models.cnn.CNN", "num_classes": 3, "image_size": 20}
TORCHVISION = {"_target_": "imgbench.models.pretrained.torchvision_classifier", "num_classes": 3}
IMAGES = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def content_of(model, **arguments):
    """A checkpoint of a new network, and its logits of IMAGES."""
    torch.manual_seed(0)
    classifier = ImageClassifier(model, ["a", "b", "c"], PREPROCESSING, **arguments).eval()
    with torch.no_grad():
        logits = classifier(IMAGES)
    hparams = {name: classifier.hparams[name] for name in ImageClassifier.argument_names()}
    return copy.deepcopy({"hyper_parameters": hparams, "state_dict": classifier.state_dict()}), logits


def logits_of(path):
    with torch.no_grad():
        return load_classifier(path).eval()(IMAGES)


@pytest.mark.parametrize(
    "model",
    [CNN, {**CNN, "hidden": [8, 4]}, {**TORCHVISION, "name": "resnet18"}, {**TORCHVISION, "name": "regnet_y_400mf"},
     {**TORCHVISION, "name": "shufflenet_v2_x0_5"}],
    ids=lambda model: model.get("name", "cnn"),
)  # fmt: skip
def test_checkpoint_gives_the_same_logits(model, tmp_path):
    content, logits = content_of(model)
    torch.save(content, tmp_path / "best.ckpt")
    assert torch.equal(logits_of(tmp_path / "best.ckpt"), logits)


def old_cnn(content):
    """As it was written when the head's layers were counted otherwise: a Flatten first, no dropout without `hidden`."""
    number = {0: 1, 3: 4, 6: 7} if "hidden" in content["hyper_parameters"]["model"] else {0: 1, 3: 3}

    def renamed(values):
        for new, old in sorted(number.items(), reverse=True):
            values = {
                name.replace(f"classifier.{new}", f"classifier.OLD{old}"): value for name, value in values.items()
            }
        return {name.replace("OLD", ""): value for name, value in values.items()}

    content["state_dict"] = renamed(content["state_dict"])
    if content["hyper_parameters"]["widths"]:
        content["hyper_parameters"]["widths"] = renamed(content["hyper_parameters"]["widths"])
    return content


@pytest.mark.parametrize(
    ("model", "pruned"), [(CNN, False), (CNN, True), ({**CNN, "hidden": [8, 4]}, False), ({**CNN, "hidden": []}, False)]
)
def test_old_checkpoint_of_the_cnn_is_loaded(model, pruned, tmp_path):
    widths = {"classifier.3": [3, 64], "classifier.0": [64, 64]} if pruned else None
    content, logits = content_of(model, widths=widths)
    old = old_cnn(copy.deepcopy(content))
    if model is CNN:
        assert {name for name in old["state_dict"] if "classifier" in name} == {
            f"model.classifier.{number}.{kind}" for number in (1, 3) for kind in ("weight", "bias")
        }
    torch.save(old, tmp_path / "best.ckpt")
    assert torch.equal(logits_of(tmp_path / "best.ckpt"), logits)
    assert load_classifier(tmp_path / "best.ckpt").hparams["widths"] == widths
    assert list(AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")["state_dict"]) == list(
        content["state_dict"]
    )


def test_old_checkpoint_of_the_small_student_is_loaded(tmp_path):
    content, logits = content_of({"_target_": "imgbench.models.compact.CompactCNN", "num_classes": 3})
    content["hyper_parameters"]["model"]["_target_"] = "imgbench.models.student.SmallStudent"
    torch.save(content, tmp_path / "best.ckpt")
    assert torch.equal(logits_of(tmp_path / "best.ckpt"), logits)


def test_checkpoint_that_resizes_in_no_known_way_is_an_error_naming_the_file(tmp_path):
    content, _ = content_of(CNN)
    content["hyper_parameters"]["preprocessing"]["resize"] = "squash"
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt cannot be used: data\.resize=squash, but it is stretch"):
        load_classifier(tmp_path / "best.ckpt")


def test_checkpoint_of_today_stays_as_it_is():
    content, _ = content_of({**CNN, "hidden": [8, 4]})
    again = upgrade(content)
    assert again["hyper_parameters"] == content["hyper_parameters"]
    assert list(again["state_dict"]) == list(content["state_dict"])


class Evil:
    """Pickled, it writes a file when it is read."""

    def __reduce__(self):
        return Path("executed").touch, ()


def hyper(**changes):
    return lambda content: content["hyper_parameters"].update(changes)


def model(**changes):
    return lambda content: content["hyper_parameters"]["model"].update(changes)


def preprocessing(**changes):
    return lambda content: content["hyper_parameters"]["preprocessing"].update(changes)


def weight(name, value):
    return lambda content: content["state_dict"].update({f"model.{name}": value})


def expanded(content):
    """Ten billion weights that take four bytes in the file."""
    content["hyper_parameters"]["model"] = {"_target_": "torch.nn.Linear", "in_features": 10**5, "out_features": 10**5}
    content["state_dict"] = {
        "model.weight": torch.zeros(1).expand(10**5, 10**5),
        "model.bias": torch.zeros(1).expand(10**5),
    }


NETWORK = "far larger than the weights"
NAN = float("nan")
FORGED = {
    "module in the working directory": (
        model(_target_="evil_nets.Net"),
        "evil_nets.Net is not imported.*IMGBENCH_TRUST",
    ),
    "package in the working directory": (model(_target_="timm.Net"), "timm.Net"),
    "optimizer": (hyper(optimizer={"_target_": "evil_nets.Net"}), "optimizer._target_=evil_nets.Net is not imported"),
    "scheduler": (hyper(scheduler={"_target_": "os.system"}), "scheduler._target_=os.system is not imported"),
    "function": (model(_target_="os.mkdir", path="executed"), "os.mkdir is not imported"),
    "function of torch": (model(_target_="torch.hub.load", repo_or_dir="a/b"), "torch.hub.load is not imported"),
    "builder that downloads": (
        model(_target_="torchvision.models.resnet18", weights="DEFAULT"),
        "is no nn.Module class",
    ),
    "target within a target": (model(pool2={"_target_": "os.mkdir"}), "names a _target_ of its own"),
    "no target": (lambda content: content["hyper_parameters"]["model"].pop("_target_"), "_target_=None"),
    "target is a list": (model(_target_=["os.system"]), "dotted name"),
    "ImageNet's weights": (
        lambda content: content["hyper_parameters"].update(
            model={**TORCHVISION, "name": "resnet18", "pretrained": True}
        ),
        "lacks the weights|has, beyond",
    ),
    "ImageNet's weights by another argument": (model(weights="DEFAULT"), "unexpected keyword argument 'weights'"),
    "pickled code": (hyper(provenance=Evil()), "holds pickled code, which was not executed"),
    "names are a number": (hyper(class_names=5), "class_names is 5, but a list of different names"),
    "names are numbers": (hyper(class_names=[1, 2, 3]), "class_names is"),
    "name twice": (hyper(class_names=["a", "a", "b"]), "class_names is"),
    "one name too many": (hyper(class_names=["a", "b", "c", "d"]), "outputs of shape .2, 3. .* but 4 classes"),
    "preprocessing is a list": (hyper(preprocessing=[1]), "preprocessing is .1., but a dictionary"),
    "model is text": (hyper(model="imgbench"), "is no checkpoint of imgbench"),
    "two means": (preprocessing(mean=[0.5, 0.5]), "mean is .0.5, 0.5., but has three numbers"),
    "mean is NaN": (preprocessing(mean=[NAN, 0.5, 0.5]), "mean is .nan"),
    "nothing deviates": (preprocessing(std=[0.0, 0.1, 0.1]), "std is .0.0"),
    "size is NaN": (preprocessing(image_size=NAN), "image_size is nan"),
    "size is true": (preprocessing(image_size=True), "image_size is True"),
    "size is absurd": (preprocessing(image_size=10**9), "image_size is 1000000000"),
    "size is another": (preprocessing(image_size=64), "does not take its images of 64 x 64"),
    "network of another size": (model(image_size=32), r"classifier.0.weight are torch.float32 .* but its network has"),
    "network of size NaN": (model(image_size=NAN), "cannot be built"),
    "unknown hyper-parameter": (hyper(teacher="x"), "hyper-parameters have .'teacher'., which no classifier has"),
    "weights of classes": (hyper(class_weights=[1.0]), "3 classes, and 1 weights"),
    "smoothing is text": (hyper(label_smoothing="much"), "label_smoothing is 'much', but a number"),
    "mode": (hyper(mode="most"), "mode is 'most', but max or min"),
    "10^11 weights": (model(hidden=[10**5, 10**6]), NETWORK),
    "10^40 weights": (model(hidden=[10**40]), "cannot be built"),
    "weights that take no place in the file": (expanded, NETWORK),
    "endless network": (
        hyper(model={"_target_": "imgbench.models.resnet.CompactResNet", "num_classes": 3, "depths": [10**9, 1, 1]}),
        NETWORK,
    ),
    "widths of a layer that is not there": (hyper(widths={"x": [1]}), "layer 'x', which the model does not have"),
    "widths are text": (hyper(widths={"features.0": "wide"}), "widths is"),
    "missing weights": (lambda content: content["state_dict"].popitem(), "lacks the weights model.classifier"),
    "additional weights": (weight("extra", torch.zeros(1)), "beyond those of its network, the weights model.extra"),
    "weights of another shape": (weight("features.0.bias", torch.zeros(3)), r"features.0.bias are torch.float32 \[3\]"),
    "weights are text": (weight("features.0.bias", "x"), "features.0.bias are no ordinary tensor"),
    "whole numbers": (weight("features.0.bias", torch.zeros(16, dtype=torch.int64)), "features.0.bias are torch.int64"),
    "complex weights": (weight("features.0.bias", torch.zeros(16, dtype=torch.complex64)), "are torch.complex64"),
    "sparse weights": (
        weight("features.0.bias", torch.zeros(16).to_sparse()),
        "features.0.bias are no ordinary tensor",
    ),
    "no weights": (lambda content: content.pop("state_dict"), "is no checkpoint of imgbench"),
    "no hyper-parameters": (lambda content: content.pop("hyper_parameters"), "is no checkpoint of imgbench"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_checkpoint_is_refused_by_name_and_nothing_happens(kind, tmp_path, monkeypatch):
    forge, message = FORGED[kind]
    content, _ = content_of(CNN)
    forge(content)
    torch.save(content, tmp_path / "forged.ckpt")
    for module in ("evil_nets", "timm"):
        (tmp_path / f"{module}.py").write_text("open('executed', 'w')\nfrom torch.nn import Identity as Net\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it wants to download"))
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=f"(?s)forged.ckpt .*{message}|forged.ckpt {message}"):
        load_classifier(tmp_path / "forged.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == before
    assert "evil_nets" not in sys.modules


def test_nesting_without_end_is_refused(tmp_path):
    value = []
    for _ in range(4000):
        value = [value]
    content, _ = content_of(CNN)
    content["hyper_parameters"]["model"]["pool2"] = value
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        torch.save(content, tmp_path / "forged.ckpt")
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(UserError, match=r"forged.ckpt is no checkpoint of imgbench"):
        load_classifier(tmp_path / "forged.ckpt")


@pytest.mark.parametrize("value", ["text", b"PK\x03\x04damaged", b"", None, 5, [1], {"epoch": 1}])
def test_file_that_is_no_checkpoint_is_refused(value, tmp_path):
    path = tmp_path / "file.ckpt"
    if isinstance(value, str | bytes):
        path.write_bytes(value if isinstance(value, bytes) else value.encode())
    else:
        torch.save(value, path)
    with pytest.raises(UserError, match=r"file.ckpt is no checkpoint of imgbench"):
        load_classifier(path)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.ckpt does not exist"):
        load_classifier(tmp_path / "nowhere.ckpt")


def test_a_network_of_the_users_own_is_loaded_where_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("IMGBENCH_TRUST", "my_nets")
    content, logits = content_of({"_target_": "my_nets.Net", "num_classes": 3})
    torch.save(content, tmp_path / "best.ckpt")
    assert torch.equal(logits_of(tmp_path / "best.ckpt"), logits)
    monkeypatch.delenv("IMGBENCH_TRUST")
    with pytest.raises(UserError, match=r"best.ckpt cannot be used.*my_nets.Net.*\n.*IMGBENCH_TRUST=my_nets"):
        load_classifier(tmp_path / "best.ckpt")


def test_weights_of_half_precision_are_loaded(tmp_path):
    content, _ = content_of(CNN)
    content["state_dict"] = {name: value.bfloat16() for name, value in content["state_dict"].items()}
    torch.save(content, tmp_path / "best.ckpt")
    weights = load_classifier(tmp_path / "best.ckpt").state_dict()
    assert all(torch.equal(weights[name], value.float()) for name, value in content["state_dict"].items())


def test_a_file_that_cannot_be_mapped_is_read_and_one_that_cannot_be_opened_is_no_damaged_one(tiny_run, monkeypatch):
    real, reason = torch.load, "unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"

    def load(*arguments, mmap=False, **options):
        if mmap:
            raise RuntimeError(reason)
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    assert read_checkpoint(tiny_run.best)["epoch"] >= 0
    real = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(UserError, match=r"best\.ckpt cannot be read: Too many open files"):
        read_checkpoint(tiny_run.best)
