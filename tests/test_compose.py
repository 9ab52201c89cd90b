"""Composing configurations, and overriding those of runs."""

import os
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from imgbench.errors import UserError
from imgbench.experiment.compose import (
    choices,
    compose,
    name_of_data,
    new_directory,
    override,
    quoted,
    register_resolvers,
    slug,
    storable,
    with_folder,
)
from imgbench.run import CONF, Run


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    config = compose(["data=folder", "data.root=photos", "data.num_classes=3", "optimizer.lr=0.01", "model=compact"])
    return storable(config)


@pytest.fixture
def run(stored, tmp_path) -> Run:
    """A run of the defaults, as far as its configuration goes."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.write_config(stored)
    return run


def test_stored_configuration_overridden_by_nothing_is_the_same(run):
    assert OmegaConf.to_container(override(run), resolve=True) == run.config
    assert storable(override(run)) == run.stored_config


def test_what_is_done_to_a_configuration_is_not_in_the_next(run):
    run.config["data"]["root"] = "elsewhere"
    assert run.config["data"]["root"] == "photos"
    run.write_config({**run.stored_config, "seed": 7})
    assert run.config["seed"] == 7


def test_links_follow_what_they_link_to(run):
    config = override(run, ["data.image_size=64", "monitor=val/loss", "mode=min", "data.num_classes=7"])
    assert (config.model.image_size, config.model.num_classes) == (64, 7)
    assert (config.callbacks.best.monitor, config.callbacks.best.mode) == ("val/loss", "min")


def test_choice_replaces_what_the_run_has_and_keeps_the_rest(run):
    config = override(run, ["model=vgg16", "head=gap", "optimizer=sgd", "callbacks=early_stopping"])
    assert config.model == {**compose(["model=vgg16", "head=gap"]).model, "num_classes": 3, "image_size": 112}
    assert "betas" not in config.optimizer and config.optimizer.momentum == 0.9
    assert config.callbacks.early_stopping.monitor == "val/acc"
    assert config.data.root == "photos"
    assert (config.model_name, config.data_name) == ("vgg16", "photos")


def test_name_of_the_data_follows_its_choice(run):
    config = override(run, ["data=potato"])
    assert (config.data_name, config.model_name, config.data.num_classes) == ("potato", "compact", 3)


def test_values_are_added_removed_and_emptied(run):
    config = override(run, ["+trainer.max_steps=5", "~data.split", "trainer.max_epochs=null", "+new.entry=[1,2]"])
    assert config.trainer.max_steps == 5
    assert "split" not in config.data
    assert config.trainer.max_epochs is None
    assert config.new.entry == [1, 2]


def test_overridden_run_begins_anew(run):
    run.write_config({**run.stored_config, "ckpt_path": "last.ckpt", "init_from": "run"})
    assert override(run).ckpt_path is None
    assert override(run).init_from is None
    assert override(run, ["init_from=other"]).init_from == "other"


def test_entry_that_an_older_run_lacks_has_its_default(run):
    stored = run.stored_config
    del stored["fast"], stored["init_from"]
    run.write_config(stored)
    assert override(run).fast.precision == "auto"


def test_lists_and_links_of_ones_own_survive(run):
    stored = {**run.stored_config, "own": {"list": [1, {"a": "${data.num_classes}"}], "text": "猫"}}
    run.write_config(stored)
    config = override(run, ["data.num_classes=5"])
    assert OmegaConf.to_container(config.own, resolve=True) == {"list": [1, {"a": 5}], "text": "猫"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model=vgg99"], r"model=vgg99: .*did you mean vgg1.*There are: auto, cnn"),
        (["optimiser=sgd"], r"optimiser: .*did you mean optimizer"),
        (["data.imagesize=3"], r"data.imagesize: .*did you mean data.image_size"),
        (["lr=1"], r"lr: .*did you mean optimizer.lr"),
        (["model=vgg16", "model.dropout=1"], r"model.dropout: .*did you mean model.drop_rate"),
        (["~callbacks.foo"], r"callbacks.foo"),
        (["optimizer.lr"], r"optimizer.lr is not understood"),
        (["=3"], r"'=3' is not understood"),
        (["data.root=["], r"data.root=\[ is not understood"),
        (["model=null"], r"model=null, but it is auto or cnn or"),
        (["head=null"], r"head=null, but it is .*left out"),
        (["model=cnn,vgg16"], r"model=cnn,vgg16 names several values, a sweep"),
        (["data.root=a, b and c"], r"data.root=a, b and c names several values.*A text with commas"),
        (["experiment=potato_fast"], r"experiment=potato_fast is a whole recipe"),
    ],
)
def test_word_that_is_wrong_is_named(words, named, run):
    with pytest.raises(UserError, match=f"(?s){named}") as caught:
        override(run, words)
    assert "HYDRA" not in str(caught.value)


AWKWARD = ["/photos/叶子", "my photos (2)", "runs/0_lr=1e-3/last.ckpt", r"C:\new folder", r"C:\new", 'the "best"',
           "it's", "/a/b=c", "~/photos", "a:b", "#1", "100%", "a&b;c", "@home", "a+b", "Müller & Söhne"]  # fmt: skip


def test_awkward_paths_reach_compose_and_override_as_they_are(run):
    keys = ("data.root", "data.unlabelled", "init_from", "ckpt_path")
    for start in range(0, len(AWKWARD), len(keys)):
        values = dict(zip(keys, AWKWARD[start:], strict=False))
        words = [f"{key}={path}" for key, path in values.items()]
        for config in (compose(["data=folder", *words]), override(run, words)):
            assert {key: OmegaConf.select(config, key) for key in values} == values


def test_regular_expressions_are_typed_as_they_are(run):
    patterns = [r"^(M\d+)_", r"^(N?M\d+)_", "[^_]+", "plant-(.*)", r"(\d{3}),?", "a|b", "^$", "a$"]
    config = override(run, [f"+own.pattern{i}={pattern}" for i, pattern in enumerate(patterns)])
    assert list(config.own.values()) == patterns
    assert override(run, [f"data.split.group={patterns[0]}"]).data.split.group == patterns[0]
    assert compose(["data=folder", "data.root=photos", "data.split.group=null"]).data.split.group is None


@pytest.mark.parametrize(
    "word",
    ["data.root='/a b'", "model=cnn,vgg16", "optimizer.lr=1e-3", "augment.scale=[0.5,1]", "+x={a: 1}", "~data.split",
     "data.root=${oc.env:HOME}", "-m", "--cfg", "data.root=[", 'x="a b"', "trainer.max_epochs=null", "a=b c"],
)  # fmt: skip
def test_what_hydra_understands_is_left_alone(word):
    assert quoted(word) == word


def test_interpolations_are_what_they_refer_to(run):
    assert override(run, ["trainer.max_epochs=${data.num_classes}"]).trainer.max_epochs == 3
    assert compose(["data=folder", "data.root=${oc.env:HOME}"]).data.root == os.environ["HOME"]


def test_only_links_to_plain_entries_are_stored():
    config = OmegaConf.create(
        {"data": {"root": "${oc.env:HOME}", "n": 3}, "a": "${data.n}", "b": "${a}", "c": "${data}", "d": "x${data.n}",
         "e": {"f": "${..a}"}}
    )  # fmt: skip
    assert storable(config) == {
        "data": {"root": os.environ["HOME"], "n": 3}, "a": "${data.n}", "b": 3, "d": "x${data.n}", "e": {"f": 3},
        "c": {"root": os.environ["HOME"], "n": 3},
    }  # fmt: skip


def test_foreign_run_overrides_nothing_of_hydra(run, monkeypatch, tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "extra.yaml").write_text("x: 1\n")
    text = (run.path / "config.yaml").read_text()
    evil = (
        f"defaults: [extra, _self_]\nhydra:\n  searchpath: ['file://{tmp_path}/evil']\n  job: {{env_set: {{EVIL: y}}}}"
    )
    (run.path / "config.yaml").write_text(text + evil)
    config = override(run)
    assert "x" not in config and "hydra" not in config
    assert "EVIL" not in os.environ


def test_composing_touches_no_file(run, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    compose(["model=cnn"])
    override(run, ["model=cnn"])
    assert not any(Path.cwd().iterdir())


def test_choices_are_those_of_the_folder():
    assert choices("callbacks") == ["default", "early_stopping", "ema"]


def test_runs_of_one_second_get_directories_of_their_own(tmp_path):
    path = str(tmp_path / "2026-01-31_12-00-00")
    assert new_directory(path) == path
    for expected in (f"{path}_2", f"{path}_3"):
        Path(new_directory(path)).mkdir()
        assert new_directory(path) == expected


def test_all_processes_of_a_slurm_job_get_one_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert new_directory("outputs/2026-01-31_12-00-00") == "outputs/2026-01-31_12-00-00"
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert new_directory("outputs/2026-01-31_12-00-00") == new_directory("outputs/later") == "outputs/slurm-17-0"


def test_a_run_is_overridden_also_in_a_process_that_was_composed_of_a_run(run, monkeypatch):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", {**store.repo, "data": {**store.repo.get("data", {})}})
    store.store("of_the_run", {"seed": 1})  # as `--config-dir RUN` does
    store.store("of_the_run", {"root": "elsewhere"}, "data")
    assert override(run, ["seed=7"]).seed == 7
    assert store.load("of_the_run.yaml").node.seed == 1
    assert store.load("data/of_the_run.yaml").node.root == "elsewhere"


def test_folder_alone_is_what_is_trained_on_and_what_the_run_is_called_after(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    for words in (["my photos"], ["data.root=my photos"], ["my photos", "model=cnn"]):
        config = compose(words)
        assert (config.data.root, config.data_name) == ("my photos", "my-photos")
        assert config.data._target_.endswith("ImageFolderDataModule")
    assert compose(["data=potato", "data.root=my photos"]).data_name == "potato"
    assert with_folder(["-m", "my photos", "seed=1,2"]) == ["-m", "data=folder", "data.root=my photos", "seed=1,2"]
    assert with_folder(["--config-dir", "my photos"]) == ["--config-dir", "my photos"]


@pytest.mark.parametrize(
    ("root", "name"), [("/a/叶子", "叶子"), (".", None), ("/x/.hidden", "hidden"), ("/", "folder"), ("'a b/'", "a-b")]
)
def test_run_is_called_after_its_folder(root, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of_data("folder", [f"data.root={root}"]) == (name or slug(tmp_path.name))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["model=cnn,compact", "seed=1"], "digits/cnn,compact"),
        (["model=cnn", "seed=1,2"], "digits/cnn"),
        (["model=vgg13,vgg16", "data=sneakers,potato"], "sneakers,potato/vgg13,vgg16"),
        (["experiment=sneakers_cnn,potato_vgg16"], "sneakers_cnn,potato_vgg16/sneakers_cnn,potato_vgg16"),
        (["data=folder", "data.root=/a/cats,/b/dogs", "model=cnn"], "cats,dogs/cnn"),
    ],
)
def test_sweep_is_called_after_all_that_it_goes_over(words, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", words, RunMode.MULTIRUN)
    assert config.hydra.sweep.dir.startswith(f"outputs/{place}/")
