"""Files made to do harm end in errors that a user can read, and make nothing else happen.

`python -m imgbench.benchmark what=[hostile]` tries thousands.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import forked

from imgbench.benchmark.development.hostile.home import complete_home
from imgbench.benchmark.development.hostile.readers import KINDS
from imgbench.benchmark.development.hostile.trial import GOOD, try_files
from imgbench.errors import UserError
from imgbench.inference import parity
from imgbench.inference.novelty import read_arrays
from imgbench.inference.onnx_model import OnnxModel
from imgbench.inspection.record import audit_of
from imgbench.report.charts import read_epochs
from imgbench.report.study_file import read_study
from imgbench.run import Run

# Those whose readers take milliseconds.
QUICK = ("config.yaml", "split.csv", "multirun.yaml", "checkpoint", "ONNX file", "features.npz")
EACH = 8  # of each kind


def try_quick_ones(home: Path, answers: Path) -> None:
    """In a process of its own, which the hook spoils."""
    found: list[tuple[str, int, str, str]] = []
    for kind in QUICK:
        try_files(home, kind, range(EACH), lambda answer, kind=kind: found.append((kind, *answer)))
    answers.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("exported")
    run = shutil.copytree(tiny_run.path, home / "run")
    return Path(parity.export_onnx(run, home / "whole.onnx", 0)["file"])


@pytest.fixture
def hostile_home(tiny_run, tmp_path) -> Path:
    home = tmp_path / "home"
    shutil.copytree(Path(tiny_run.config["data"]["root"]), home / "photos")
    shutil.copytree(tiny_run.path, home / "run")
    config = home / "run" / "config.yaml"
    config.write_text(config.read_text().replace(tiny_run.config["data"]["root"], str(home / "photos")))
    parity.export_onnx(home / "run")
    shutil.copytree(home / "run", home / "other")
    complete_home(home)
    return home


@pytest.mark.skipif(os.name != "posix", reason="limits of memory and alarms are of POSIX")
def test_no_hostile_file_makes_anything_happen_or_ends_in_a_stack_trace(hostile_home, tmp_path):
    done = forked(try_quick_ones, hostile_home, tmp_path / "answers.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert len(answers) == EACH * len(QUICK)
    assert [answer for answer in answers if answer[2] not in GOOD] == []
    assert set(QUICK) <= KINDS.keys()


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "read"), [("audit.json", audit_of), ("study.json", read_study), ("run.json", lambda run: run.info)]
)
def test_file_that_is_nested_without_end_is_named(name, read, tmp_path):
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read(Run(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": 3}, {"class_names": []}, {"class_names": ["a", "a"]}, {"class_names": [None, "b"]},
        {"provenance": []}, {"preprocessing": []}, {"preprocessing": {}}, {"preprocessing": {"image_size": 2**40}},
        {"preprocessing": {"intensity": 0.5}}, {"preprocessing": {"mean": [1e400, 0, 0]}},
        {"preprocessing": {"std": ["a", "b", "c"]}}, {"preprocessing": {"padding": "x"}}, {"format": {}}, None,
    ],
)  # fmt: skip
def test_metadata_of_other_types_are_named(change, exported, tmp_path):
    model = onnx.load(exported)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "imgbench")
    content = json.loads(entry.value)
    for name, value in (change or {}).items():
        whole = isinstance(value, dict) and value and isinstance(content[name], dict)
        content[name] = {**content[name], **value} if whole else value
    entry.value = DEEP if change is None else json.dumps(content)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx (has damaged metadata|is of format)"):
        OnnxModel(tmp_path / "model.onnx")


@pytest.mark.parametrize("array", [np.array("x"), np.zeros((2, 2)), np.array([{}], object)])
@pytest.mark.parametrize("name", ["limit", "distances"])
def test_kept_features_of_other_types_are_named(name, array, tmp_path):
    np.savez(tmp_path / "features.npz", **{name: array})
    with pytest.raises(UserError, match=r"features\.npz is damaged"):
        read_arrays(tmp_path / "features.npz")


@pytest.mark.parametrize("text", ["epoch,val/acc\n0,https://x.invalid\n", "epoch\n0,1,2\n", "epoch\n\xff"])
def test_damaged_table_of_epochs_is_named(text, tmp_path):
    (tmp_path / "metrics.csv").write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        read_epochs(Run(tmp_path))


@pytest.mark.parametrize(
    "change", [{"images": {}}, {"classes": {"a": "b"}},
               {"findings": [{"kind": 1, "severity": "note", "message": "", "count": 1}]},
               {"findings": [{"kind": "probe: x", "severity": "note", "message": "", "count": 1,
                              "accuracy": {"value": 1, "low": 1, "high": 1, "n": 1, "skill": "x"}}]}],
)  # fmt: skip
def test_audit_of_other_types_is_named(change, tmp_path):
    whole = {"root": "x", "hash": "", "verdict": "clean", "images": 1, "classes": {}, "splits": {}, "leaking": {},
             "findings": []}  # fmt: skip
    (tmp_path / "audit.json").write_text(json.dumps({**whole, "elsewhere": {"a": "/etc/passwd"}}))
    found = audit_of(Run(tmp_path))
    assert found and found.elsewhere == {}
    (tmp_path / "audit.json").write_text(json.dumps({**whole, **change}))
    with pytest.raises(UserError, match=r"audit\.json is damaged"):
        audit_of(Run(tmp_path))
