import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from imgbench.data.datamodule import ImageFolderDataModule
from imgbench.errors import UserError
from imgbench.experiment.build import (
    apply_defaults,
    build_classifier,
    build_data,
    build_data_of,
    build_logger,
    check_resume,
    class_weights,
    plain,
    prepared_for_network,
    with_facts,
)
from imgbench.experiment.compose import compose
from imgbench.preprocessing import Preprocessing
from imgbench.run import Run
from imgbench.training.fast import FastSettings

SMALL = ["data=folder", "model=cnn", "data.image_size=18", "data.batch_size=4"]


def classifier(*overrides, names=("a", "b"), settings=None, **facts):
    config = compose([*SMALL, f"data.num_classes={len(names)}", *overrides])
    facts = {"class_weights": None, **facts}
    return build_classifier(config, list(names), Preprocessing(18), settings or FastSettings(), **facts)


def test_data_is_discovered_and_the_configuration_stays_as_it_was(make_folder, tmp_path, monkeypatch):
    make_folder(tmp_path / "photos", {"a": 6, "b": 6, "c": 6})
    monkeypatch.chdir(tmp_path)
    config = compose([*SMALL, "data.root=photos", "seed=7"])
    before = config.copy()
    data = build_data(config)
    assert data.class_names == ["a", "b", "c"]
    assert data.seed == 7
    assert config == before
    found = with_facts(config, data)
    assert found.data.num_classes == found.model.num_classes == 3
    assert found.data.root == str(tmp_path / "photos")
    assert config == before


def test_data_without_a_root_says_how_to_set_it():
    with pytest.raises(UserError, match=r"data.root is not set.*data=folder data.root="):
        build_data(compose(SMALL))


def test_classifier_gets_the_configured_parts_as_plain_values():
    module = classifier("scheduler=step", "optimizer.lr=0.5", "monitor=val/loss", "mode=min", provenance={"data": "x"})
    assert module.hparams["model"]["num_classes"] == 2
    assert module.hparams["optimizer"]["lr"] == 0.5
    assert module.hparams["scheduler"]["_target_"] == "imgbench.training.schedules.step"
    assert (module.hparams["monitor"], module.hparams["mode"]) == ("val/loss", "min")
    assert module.hparams["preprocessing"] == Preprocessing(18).to_dict()
    assert module.hparams["provenance"] == {"data": "x"}


@pytest.mark.parametrize(
    ("target", "asked", "fused"),
    [("torch.optim.Adam", True, True), ("torch.optim.Adam", False, False), ("torch.optim.RMSprop", True, False)],
)
def test_optimizer_is_fused_where_it_can_be_and_is_asked_to(target, asked, fused):
    module = classifier(f"optimizer._target_={target}", settings=FastSettings(fused_optimizer=asked))
    assert module.hparams["optimizer"].get("fused", False) is fused


def test_balanced_class_weights_are_inverse_to_the_training_images(make_folder, make_data, tmp_path):
    data = make_data(make_folder(tmp_path / "photos", {"a": 20, "b": 8, "c": 5}), split={"val": 6, "test": 6})
    counts = data.class_counts()
    weights = class_weights("balanced", data)
    assert weights == pytest.approx([counts.sum() / (3 * count) for count in counts])
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1)  # the mean over images
    torch.testing.assert_close(classifier(names="abc", class_weights=weights).loss.weight, torch.tensor(weights))
    assert class_weights("none", data) is None
    with pytest.raises(UserError, match=r"objective.class_weights='inverse', but it is none or balanced"):
        class_weights("inverse", data)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_logger_that_is_not_installed_says_how_to_install_it(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=f"logger={name}: .*pip install {name}"):
        build_logger(compose([f"logger={name}"]))


def test_no_logger_is_the_default():
    assert build_logger(compose([])) is False


def test_tensorboard_logger_writes_events_of_data_and_model(tmp_path):
    pytest.importorskip("tensorboard")
    logger = build_logger(compose(["logger=tensorboard", f"logger.save_dir={tmp_path}"]))
    assert isinstance(logger, TensorBoardLogger)
    logger.log_hyperparams({"optimizer": {"lr": 0.1}})
    logger.log_metrics({"val/acc": 0.5}, step=1)
    logger.finalize("success")
    events = list((tmp_path / "digits_compact").glob("version_0/events.out.tfevents.*"))
    assert b"val/acc" in b"".join(path.read_bytes() for path in events)


@pytest.fixture
def checkpoint(tmp_path):
    """Writes what `check_resume` reads of a checkpoint of `classifier()`; `changes` replace hyper-parameters."""

    def write(optimizer=True, processed=2, groups=None, **changes):
        groups = groups or [{"params": list(range(len(g["params"])))} for g in classifier().parameter_groups()]
        content = {"hyper_parameters": {**classifier().hparams, **changes}}
        content["loops"] = {"fit_loop": {"epoch_progress": {"current": {"processed": processed}}}}
        torch.save(
            {**content, "optimizer_states": [{"param_groups": groups}]} if optimizer else content,
            tmp_path / "last.ckpt",
        )
        return str(tmp_path / "last.ckpt")

    return write


def test_checkpoint_of_the_same_configuration_is_resumed(checkpoint):
    check_resume(None, classifier(), 2)
    check_resume(checkpoint(), classifier("optimizer.lr=0.5"), 3)


def test_checkpoint_of_a_pretrained_model_is_resumed(checkpoint):
    torchvision = ["model=torchvision", "model.name=squeezenet1_1"]
    model = plain(compose([*SMALL, *torchvision, "data.num_classes=2"]).model)
    module = classifier(*torchvision)
    module.hparams["model"]["pretrained"] = True  # as if it had been; the checkpoint says false
    check_resume(checkpoint(model=model, groups=module.parameter_groups()), module, 3)


@pytest.mark.parametrize(
    ("saved", "overrides", "names", "message"),
    [
        ({"optimizer": False}, [], "ab", "holds weights only.*last.ckpt"),
        ({}, ["model.pool2=max"], "ab", "trained with model .*'avg'.*'max'.*RUN"),
        ({}, ["model=vgg13"], "ab", "trained with model .*CNN.*VGG"),
        ({}, ["optimizer=sgd"], "ab", "trained with optimizer torch.optim.Adam.*torch.optim.SGD"),
        ({"class_names": ["a", "x"]}, [], "ab", r"trained with class_names \['a', 'x'\].*\['a', 'b'\]"),
        ({"groups": [{"params": [0]}]}, [], "ab", "earlier version of imgbench, which let norms and biases decay"),
        ({"groups": [{"params": [0]}, {"params": [1]}]}, [], "ab", "earlier version of imgbench, which let norms and"),
        ({}, ["optimizer.weight_decay=0"], "ab", "trained with optimizer.weight_decay=0.05, but .* has 0"),
        ({"processed": 3}, [], "ab", "has trained 3 epochs, and trainer.max_epochs=3: nothing is left to do"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(checkpoint, saved, overrides, names, message):
    with pytest.raises(UserError, match=f"(?s)ckpt_path=.*last.ckpt.*{message}"):
        check_resume(checkpoint(**saved), classifier(*overrides, names=names), 3)


def test_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "marker").touch, ()

    with pytest.raises(UserError, match=r"nowhere.ckpt does not exist.*last.ckpt"):
        check_resume(str(tmp_path / "nowhere.ckpt"), classifier(), 3)
    path = tmp_path / "file.ckpt"
    for content in ("text", {"state_dict": {}}, {"hyper_parameters": Evil()}):
        path.write_text(content) if isinstance(content, str) else torch.save(content, path)
        with pytest.raises(UserError, match="is no checkpoint of imgbench"):
            check_resume(str(path), classifier(), 3)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(("images", "epochs"), [(12, 200), (100, 100), (474, 46), (1722, 40), (50_000, 40)])
def test_epochs_follow_from_the_number_of_training_images(images, epochs):
    config = compose([*SMALL, "data.num_classes=2"])
    apply_defaults(config, images)
    assert config.trainer.max_epochs == epochs


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        (["model=compact"], 3e-3),
        (["model=vgg16"], 3e-4),
        (["model=torchvision", "model.name=resnet18", "model.pretrained=true"], 3e-4),
        (["model=compact", "optimizer.lr=0.01"], 0.01),
        (["model=compact", "optimizer=adam"], 1e-3),
    ],
)
def test_learning_rate_suits_the_network_unless_stated(words, lr):
    config = compose([*SMALL, "data.num_classes=2", *words])
    apply_defaults(config, 100)
    assert config.optimizer.lr == lr


@pytest.fixture
def divided_otherwise(tiny_run, tmp_path) -> tuple[Run, str]:
    """A run that another version divided otherwise, and an image that only there is one for testing."""
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    test = run.split_rows("test")[0]
    train = next(row for row in run.split_rows("train") if row["class"] == test["class"])
    swapped = {test["path"]: "train", train["path"]: "test"}
    header, *lines = (run.path / "split.csv").read_text().splitlines()
    for number, line in enumerate(lines):
        path, kind, group, split, content = line.split(",")
        lines[number] = ",".join([path, kind, group, swapped.get(path, split), content])
    (run.path / "split.csv").write_text("\n".join([header, *lines]) + "\n")
    return run, train["path"]


def configuration(run: Run) -> DictConfig:
    return OmegaConf.create(run.config)


def paths_of(data: ImageFolderDataModule, split: str) -> set[str]:
    return {data.table.paths[row] for row in data.rows(split)}


def test_images_of_a_run_are_divided_as_its_table_says_whatever_would_be_drawn_today(divided_otherwise):
    run, moved = divided_otherwise
    data = build_data_of(run, configuration(run))
    assert moved in paths_of(data, "test")
    assert paths_of(data, "test") == {row["path"] for row in run.split_rows("test")}
    assert moved in paths_of(build_data(configuration(run)), "train")


@pytest.mark.parametrize("change", [{"seed": 7}, {"data": {"split": {"test": 0.3}}}])
def test_another_split_that_is_asked_for_is_drawn(divided_otherwise, change):
    run, _ = divided_otherwise
    config = OmegaConf.merge(run.config, change)
    assert isinstance(config, DictConfig)
    assert paths_of(build_data_of(run, config), "test") == paths_of(build_data(config), "test")


def test_images_that_have_changed_are_not_divided_by_the_table_of_others(divided_otherwise):
    run, moved = divided_otherwise
    photo = Path(run.config["data"]["root"]) / moved
    before = photo.read_bytes()
    Image.new("RGB", (24, 24), "white").save(photo)
    try:
        assert moved in paths_of(build_data_of(run, configuration(run)), "train")
    finally:
        photo.write_bytes(before)


class Own(torch.nn.Module):
    side = 24

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, self.side, self.side)}


def test_network_of_the_user_s_own_is_asked_anew_after_a_change(monkeypatch):
    config = compose([*SMALL, "data.image_size=null"])
    config.model = {"_target_": f"{__name__}.Own", "num_classes": 2}
    assert prepared_for_network(config).data.image_size == 24
    monkeypatch.setattr(Own, "side", 32)
    assert prepared_for_network(config).data.image_size == 32


def test_networks_of_imgbench_are_told_apart_though_each_is_built_once():
    sizes = [prepared_for_network(compose([*SMALL, "data.image_size=null", *words])).data.image_size
             for words in (["model=timm"], ["model=timm", "model.name=test_vit"], ["model=timm"])]  # fmt: skip
    assert sizes == [224, 160, 224]
