"""Every shipped configuration composes, and its command says what it does."""

import sys

import hydra
import pytest
from commands import command, commands
from hydra.utils import get_object
from omegaconf import OmegaConf

from imgbench import summary
from imgbench.__main__ import COMMANDS
from imgbench.errors import UserError
from imgbench.experiment.check import check_numbers
from imgbench.experiment.compose import ENGINES, choices, compose, quoted, register_resolvers, slug
from imgbench.run import CONF

LEARNING = ["augment", "objective", "optimizer", "scheduler", "callbacks", "trainer", "logger"]
GROUPS = ["data", "model", "head", *LEARNING, "experiment"]
# Each choice of each group is in one of them; an experiment is composed alone.
MOST = max(len(choices(group)) for group in GROUPS[:-1])
TOGETHER = [[f"{group}={choices(group)[i % len(choices(group))]}" for group in GROUPS[:-1]] for i in range(MOST)]
TOGETHER += [[f"experiment={name}"] for name in choices("experiment")]


def targets(config):
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if key == "_target_":
            yield value
        elif isinstance(value, dict | list):
            yield from targets(value)


@pytest.mark.parametrize("words", TOGETHER, ids=" ".join)
def test_every_config_composes_and_its_targets_exist(words):
    config = compose([*words, *(["data.root=photos"] if "data=folder" in words else [])])
    found = list(targets(OmegaConf.to_container(config, resolve=True)))
    assert found
    for target in found:
        if not target.endswith(("MLFlowLogger", "WandbLogger")):  # optional packages
            assert callable(get_object(target))


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_opens_with_its_command(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1] == f"# python -m imgbench.train experiment={path.stem}"


PARAMETERS = {"potato_fast": "292,051", "potato_vgg16_gap_honest": "14,724,675", "weather_cnn": "13,794,980"}


@pytest.mark.parametrize("name", PARAMETERS)  # those of all experiments are counted in tests/test_models.py
def test_summary_of_an_experiment_is_of_its_own_network(name, monkeypatch, capsys):
    words = [f"experiment={name}", "hydra/job_logging=none", "hydra/hydra_logging=none"]  # it stays as pytest has it
    monkeypatch.setattr(sys, "argv", ["summary", *words])
    summary.main()
    assert f"Total params: {PARAMETERS[name]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_names_its_network(name):
    content = (CONF / "experiment" / f"{name}.yaml").read_text()
    bases = [base for base in choices("experiment") if f"  - {base}\n" in content]
    assert "override /model: " in content or bases


def test_every_group_is_tested():
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, *ENGINES, "hydra"}


def test_mirrored_photographs_are_one_word_away_from_the_defaults():
    assert compose([]).augment.flip == 0
    assert compose(["augment.flip=0.5"]).augment.flip == 0.5


def test_names_of_the_choices_are_in_the_configuration():
    config = compose(["experiment=potato_vgg16_torchvision"])
    assert (config.data_name, config.model_name) == ("potato", "vgg16_torchvision")


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("sneakers_cnn", {"model.pool2": "max", "optimizer.lr": 1e-4, "scheduler.rate": 0.98, "scheduler.every": 50,
                          "trainer.max_epochs": 60, "data.batch_size": 32, "data.split.val": "test",
                          "callbacks.early_stopping.patience": 20, "callbacks.early_stopping.min_delta": 0.001}),
        ("monkeypox_cnn", {"model.pool2": "avg", "trainer.max_epochs": 50, "data.split.test": 428,
                           "data.split.stratify": False, "data.split.group": None}),
        ("weather_cnn", {"data.image_size": 180, "model.early_dropout": False, "model.image_size": 180}),
        ("cifar100_vgg13", {"data.batch_size": 64, "data.normalize": "unit", "trainer.max_epochs": 5}),
        ("potato_vgg16", {"data.normalize": "imagenet", "data.split.test": 431, "trainer.max_epochs": 40}),
        ("potato_vgg16_optimized", {"data.resize": 256, "optimizer.lr": 3e-4, "optimizer.weight_decay": 1e-5,
                                    "trainer.max_epochs": 100, "callbacks.early_stopping.patience": 10,
                                    "augment.flip": 0.5}),
    ],
)  # fmt: skip
def test_experiment_is_the_recipe_of_its_post(experiment, expected):
    config = compose([f"experiment={experiment}"])
    assert {key: OmegaConf.select(config, key) for key in expected} == expected


def test_the_earlier_name_of_an_option_is_an_error_with_todays():
    with pytest.raises(UserError, match=r"data\.short_side is now called data\.resize, and null there is data"):
        compose(["data.short_side=256"])
    with pytest.raises(UserError, match=r"data\.short_side is now called data\.resize"):
        check_numbers(compose(["+data.short_side=256"]))


@pytest.mark.parametrize("word", ["data.root=/a,/b c", "data.root='/a b'", "model.name=a b", "data_dir=${oc.env:HOME}"])
def test_sweeps_quotes_interpolations_and_other_options_are_left_alone(word):
    assert quoted(word) == word


def test_slug_is_a_directory_name():
    assert slug("data.root-/my photos/x=1_model-cnn") == "data.root-my-photos-x-1_model-cnn"
    assert len(slug("x" * 500)) == len(slug("x" * 499)) == 100
    assert slug("x" * 500) != slug("x" * 499)


def test_every_command_helps_with_an_example(tmp_path):
    for name, done in zip(COMMANDS, commands(*([name, "--help"] for name in COMMANDS), cwd=tmp_path), strict=True):
        assert f"python -m imgbench.{name} " in done.stdout
    assert not any(tmp_path.iterdir())


def test_commands_are_listed(tmp_path):
    done = command("", cwd=tmp_path)
    assert all(f"imgbench {name}" in done.stdout for name in COMMANDS)


def test_summary_needs_no_data(tmp_path):
    words = ["model=vgg16", "head=gap", "data=potato", f"data_dir={tmp_path}/nowhere"]
    done = command("summary", *words, cwd=tmp_path)
    assert "Total params: 14,716,227" in done.stdout
    assert "[1, 512, 7, 7]" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("audit", ["data"]),
        ("shard", ["data"]),
        ("summary", ["data", "experiment", "head", "model"]),
        ("study", ["augment", "data", "model"]),
        ("benchmark", ["data", "model"]),
    ],
)
def test_help_lists_all_choices_of_the_groups_that_a_command_heeds(name, groups):
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        text = hydra.compose(name, return_hydra_config=True).hydra.help.template
    _, _, listed = text.partition("Choices, as group=choice:\n\n")
    assert listed.splitlines()[:-2] == [f"{group}: {', '.join(choices(group))}" for group in groups]
    assert f"python -m imgbench.{name} --cfg job" in text
