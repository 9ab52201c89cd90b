"""Work divided among the processes of a Ray cluster: the same rows as of one process, whatever happens to them."""

import json
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from commands import command

from imgbench import distributed, predict
from imgbench.audit import as_words
from imgbench.data.collection import Collection
from imgbench.data.look import _read, cache_dir, kept_looks, look_on
from imgbench.data.scan import scan
from imgbench.distributed import Cluster, _connect, _done, launched
from imgbench.errors import UserError
from imgbench.inference import classify
from imgbench.inference.journal import Journal

INSTALL = 'no Ray: pip install "imgbench[ray]"'


class Killed(BaseException):
    """As a kill: nothing catches it."""


class InThisProcess(Cluster):
    """In the place of a cluster, with units that are computed when their results are asked for."""

    def __init__(self, most: int = 1000) -> None:
        self.most, self.units = most, 0

    def map(self, work, units):
        for unit in units:
            if self.units == self.most:
                raise Killed
            self.units += 1
            yield work(unit)


@pytest.fixture
def photos(tiny_run, make_folder, tmp_path, monkeypatch) -> Path:
    """200 photographs, one of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "UNIT", 32)
    root = make_folder(tmp_path / "photos", {"left": 120, "right": 80}, 8)
    (root / "left" / "7.png").write_text("broken")
    return Path("photos")


@pytest.fixture
def shards(photos) -> Path:
    with tarfile.open("photos-0.tar", "w") as tar:
        tar.add(photos, "photos")
    return Path("photos-0.tar")


def test_missing_ray_is_named_with_what_brings_it(tiny_run, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'launcher=ray: Ray is not installed.*pip install "imgbench\[ray\]"'):
        predict.predict(tiny_run.path, [photos], launcher="ray")


@pytest.mark.parametrize(
    ("place", "version", "message"),
    [
        (".", "0.0", r"has imgbench .*, and the command is of 0\.0\. Install one on all"),
        ("/nowhere", distributed._version(), r"has no /nowhere \(No such file.*under the same paths"),
    ],
)
def test_machine_with_another_version_or_disk_is_named(place, version, message, monkeypatch):
    monkeypatch.setenv(distributed.CORES, "2")
    with pytest.raises(UserError, match=message):
        _done(str, 1, place, version)


def test_rows_of_another_model_or_disk_are_refused(tiny_run, photos, monkeypatch):
    classifier = classify.Classifier(tiny_run.path, None, cluster=InThisProcess())
    monkeypatch.setattr(classify.Classifier, "source", lambda self: {"model": id(self)})
    with pytest.raises(UserError, match=r"is another model on a machine of the cluster"):
        list(classifier(Collection(["photos"])))
    answer = classify.Answer(photos / "left" / "1.png", error="[Errno 2] No such file or directory")
    with pytest.raises(UserError, match=r"a machine of the cluster has no photos/left/1\.png"):
        classify._seen_here(answer)


def test_shard_that_vanishes_ends_the_command_with_its_name(tiny_run, shards):
    photographs = list(Collection([str(shards)]))
    content = shards.read_bytes()
    for left, what in ((content[:-100_000], "the shard is too short"), (None, "No such file or directory")):
        shards.unlink()
        if left is not None:
            shards.write_bytes(left)
        with pytest.raises(UserError, match=rf"photos-0\.tar was there .* now: {what}\..*goes on from there"):
            list(classify.Classifier(tiny_run.path, None)(photographs))


def test_looks_of_a_killed_command_are_kept_and_all_are_those_of_one_process(photos, monkeypatch, tmp_path):
    table = scan(photos)
    assert table.looks.fresh.sum() == 0
    own = _read(next((cache_dir() / "looks").glob("*.npz")))
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / "other"))
    with pytest.raises(Killed):
        look_on(InThisProcess(3), table, table.photograph)
    second = InThisProcess()
    look_on(second, table, table.photograph)
    assert second.units == 7 - 3
    kept = _read(next((cache_dir() / "looks").glob("*.npz")))
    assert own is not None and kept is not None
    assert (kept[0], kept[3]) == (own[0], own[3])
    assert kept[1].tobytes() == own[1].tobytes() and np.array_equal(kept[2], own[2])
    assert not kept_looks(table, table.read).fresh.any()
    assert [path.suffix for path in (cache_dir() / "looks").iterdir()] == [".npz"]


def test_launcher_of_one_audit_is_for_its_images():
    assert as_words(["photos", "launcher=ray"]) == ["photos", "+data.launcher=ray"]
    assert as_words(["-m", "launcher=ray", "seed=1,2"]) == ["-m", "launcher=ray", "seed=1,2"]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processes."""
    ray = pytest.importorskip("ray", reason=INSTALL)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which its processes cannot import
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(distributed.CORES, "2")
        start = launched("ray")
        try:
            found = start.__enter__()
        except UserError as error:  # a busy machine
            pytest.skip(str(error))
        yield found
        start.__exit__(None, None, None)


def dying_once(run, max_error, sets, source, photographs):
    """As `classify._answers`, in a process that is killed before it has answered the third unit for the first time."""
    from imgbench.inference.classify import _answers

    if photographs[0].name == "64.png" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _answers(run, max_error, sets, source, photographs)


@pytest.mark.slow
def test_rows_are_those_of_one_process_though_one_of_two_is_killed(cluster, tiny_run, photos, monkeypatch):
    predict.predict(tiny_run.path, [photos], output=Path("one.csv"))
    monkeypatch.setattr(classify, "_answers", dying_once)
    predict.predict(tiny_run.path, [photos], output=Path("ray.csv"), launcher="ray")
    assert Path("killed").exists()
    assert Path("ray.csv").read_bytes() == Path("one.csv").read_bytes()


@pytest.mark.slow
def test_command_that_was_killed_goes_on_with_the_same_rows(cluster, tiny_run, photos, monkeypatch):
    predict.predict(tiny_run.path, [photos], output=Path("one.csv"))
    append, calls = Journal.append, []

    def append_or_die(self, rows):
        calls.append(len(rows))
        if len(calls) == 4:
            raise Killed
        append(self, rows)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Journal, "append", append_or_die)
        predict.predict(tiny_run.path, [photos], output=Path("ray.csv"), launcher="ray")
    predict.predict(tiny_run.path, [photos], output=Path("ray.csv"), launcher="ray")
    assert Path("ray.csv").read_bytes() == Path("one.csv").read_bytes()


@pytest.mark.slow
def test_what_a_process_raises_is_said_as_of_this_one(cluster, tiny_run, shards):
    photographs = list(Collection([str(shards)]))
    shards.unlink()
    with pytest.raises(UserError, match=r"photos-0\.tar was there when its photographs were listed"):
        list(classify.Classifier(tiny_run.path, None, cluster=cluster)(photographs))


@pytest.mark.slow
def test_commands_find_the_cluster_and_a_machine_without_the_package_is_named(cluster, photos, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    words = ["data.root=photos", "data.image_size=16", "hydra.run.dir"]
    alone = command("audit", *words[:2], f"{words[2]}=one", cwd=tmp_path)
    shutil.rmtree(cache_dir())
    both = command("audit", *words[:2], f"{words[2]}=ray", "launcher=ray", cwd=tmp_path)
    assert both.returncode == alone.returncode, both.stderr
    found = [json.loads(Path(name, "audit.json").read_text()) | {"seconds": 0} for name in ("one", "ray")]
    assert found[0] == found[1]
    shutil.rmtree(cache_dir())
    (tmp_path / "elsewhere" / "imgbench").mkdir(parents=True)
    (tmp_path / "elsewhere" / "imgbench" / "__init__.py").touch()
    lacking = {"runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path / "elsewhere")}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(lacking))
    done = command("audit", *words[:2], "launcher=ray", cwd=tmp_path)
    assert done.returncode == 2
    assert "a machine of the cluster, " in done.stderr and "No module named 'imgbench." in done.stderr
    assert 'pip install "imgbench[ray]==' in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense:address"])
def test_address_without_a_cluster_is_said(address, monkeypatch):
    ray = pytest.importorskip("ray", reason=INSTALL)
    monkeypatch.setenv("RAY_ADDRESS", address)
    ended = rf"RAY_ADDRESS={address}, but no Ray cluster answers there \(.*\n.*unset RAY_ADDRESS"
    with pytest.raises(UserError, match=ended):
        _connect(ray)  # what `launched` does where this process has no cluster yet
