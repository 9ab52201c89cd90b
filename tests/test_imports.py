"""Importing changes nothing in the caller's process, and imports point one way."""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "imgbench"
GROUND = {"budget", "content_policy", "errors", "files", "fingerprint", "trust", "split_file", "stored_config", "run",
          "number", "intensity", "colour", "scientific", "decode", "preprocessing", "language", "cells", "latex",
          "provenance", "recording", "progress", "terminal", "distributed"}  # fmt: skip
COMMANDS = {"audit", "train", "summary", "evaluate", "predict", "drift", "compare", "compress", "ladder", "export",
            "demo", "review", "study", "shard", "cache", "benchmark"}  # fmt: skip
# Room -> the rooms it may import besides the ground; those of `inference` and `experiment` stand in their docstrings.
ALLOWED = {
    "budget": set(),
    "content_policy": set(),
    "errors": set(),
    "files": {"errors"},
    "trust": {"errors"},
    "cells": set(),
    "latex": set(),
    "split_file": {"trust", "cells"},
    "language": set(),
    "provenance": set(),
    "recording": {"errors", "files", "provenance"},
    "fingerprint": {"trust"},
    "stored_config": {"errors"},
    "run": {"errors", "files", "fingerprint", "trust", "split_file", "stored_config", "recording"},
    "number": {"errors"},
    "progress": set(),
    "distributed": {"errors", "files"},
    "terminal": {"cells"},
    "intensity": set(),
    "colour": {"errors"},
    "scientific": {"errors"},
    "decode": {"errors", "files", "intensity", "colour", "scientific"},
    "preprocessing": {"errors", "decode", "intensity"},
    "data": set(),
    "models": set(),
    "evaluation": set(),
    "inspection": {"data", "evaluation"},
    "training": {"models"},
    "inference": {"data", "training", "evaluation"},
    "experiment": {"data", "models", "evaluation", "inspection", "training", "inference"},
}
ALLOWED["report"] = ALLOWED["experiment"]  # it stands beside it: neither knows the other
# They train, read and show runs, and know what these are made of; none knows another.
ALLOWED |= {name: {*ALLOWED["experiment"], "experiment", "report"} for name in ("compression", "publish", "sweep")}

CALLER = """
import gc
gc.disable()  # while all is imported
import logging, os, sys, warnings
# What libraries do to the process when they are imported is their affair.
import hydra, lightning, matplotlib.pyplot, omegaconf, PIL.Image, PIL.ImageFile
import torch, torchinfo, torchmetrics, torchvision
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase
from omegaconf.basecontainer import BaseContainer

def state():
    loggers = [logging.getLogger(name) for name in (None, "lightning.pytorch", "lightning.fabric", "matplotlib", "PIL",
               "matplotlib.font_manager", "hydra")]
    return dict(
        filters=list(warnings.filters),
        loggers=[(logger.level, list(logger.handlers), logger.disabled) for logger in loggers],
        disabled=logging.root.manager.disable,
        pixels=PIL.Image.MAX_IMAGE_PIXELS,
        truncated=PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
        resolvers=set(BaseContainer._resolvers),
        hydra=(GlobalHydra.instance().hydra, HydraConfig.instance().cfg, repr(ConfigStore.instance().repo)),
        version_base=VersionBase.instance().getbase(),
        threads=torch.get_num_threads(),
        argv=list(sys.argv),
        backend=matplotlib.get_backend(),
    )
"""


def run_python(script: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CALLER + script], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def modules() -> list[str]:
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    return [".".join(path.parts) for path in files]


def test_importing_and_composing_change_nothing_in_the_callers_process(tmp_path):
    names = [name.removesuffix(".__init__") for name in modules()]
    script = f"""
import importlib
before = state()
for name in {names}:
    importlib.import_module(name)
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, (name, changed)
import imgbench
try:
    imgbench.load("nowhere")
except imgbench.errors.UserError:
    pass
changed = [key for key, value in state().items() if before[key] != value]
assert not changed, changed
"""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").write_text("a: 1\n")
    script += """
from imgbench.experiment.compose import compose
mine = os.path.abspath("mine")
with hydra.initialize_config_dir(mine, version_base="1.3"):
    hydra.compose("own")  # for the first time in a process, Hydra registers its plugins
before = state()
assert compose(["model=cnn"]).model_name == "cnn"
after = state()
changed = {key for key in before if before[key] != after[key]}
assert changed <= {"resolvers"}, changed
assert after["resolvers"] - before["resolvers"] == {
    "imgbench.slug", "imgbench.new_directory", "imgbench.model_of", "imgbench.name_of_data",
    "imgbench.name_of_model", "imgbench.choices",
}
with hydra.initialize_config_dir(mine, version_base="1.3"):
    outer = GlobalHydra.instance().hydra
    compose(["model=cnn"])
    try:
        compose(["model=vgg99"])
    except imgbench.errors.UserError:
        pass
    assert GlobalHydra.instance().hydra is outer
    assert hydra.compose("own").a == 1
"""
    run_python(script, tmp_path)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """The modules of imgbench that a file imports, and whether within a function; those for type checkers left out."""
    tree = parsed(path)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    deferred = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "imgbench":
            found.append((f"{node.module}", node in deferred))
        elif isinstance(node, ast.Import):
            found += [(name.name, node in deferred) for name in node.names if name.name.split(".")[0] == "imgbench"]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import"
    return found


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_rooms_import_what_they_may(name):
    files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").is_file() else sorted((PACKAGE / name).glob("**/*.py"))
    for path in files:
        used = {room(module) for module, _ in imports(path)} - {name}
        allowed = ALLOWED[name] | (GROUND if name not in GROUND else set())
        assert used <= allowed, f"{path.relative_to(PACKAGE)} imports {sorted(used - allowed)}"


def test_no_module_imports_itself_by_way_of_others():
    """Also not within functions, where Python would not notice."""
    files = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found = {module for module, _ in imports(path)}
        graph[name] = {f"{module}.{part}" for module, part in names_imported(path)} & files.keys() | (
            found & files.keys()
        )
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()  # raises where there is a circle, and names it


def names_imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of `from module import name`; the name may be a module."""
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
    return [(str(node.module), alias.name) for node in nodes for alias in node.names]


def test_every_module_is_a_room_a_command_or_what_commands_share():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert names - ALLOWED.keys() - COMMANDS == {"__init__", "__main__", "api", "cli", "hydra_entry"}


def test_no_room_imports_a_command():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in (*COMMANDS, "__main__", "api"):
            assert not {room(module) for module, _ in imports(path)} & COMMANDS, path


@pytest.mark.parametrize("name", sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem in COMMANDS))
def test_commands_defer_one_import_at_most(name):
    # What trains hands the report to the experiment, which knows nothing of it.
    most = {"train": 3, "study": 2}.get(name, 1)
    assert sum(deferred for _, deferred in imports(PACKAGE / f"{name}.py")) <= most
