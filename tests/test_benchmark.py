"""The benchmark measures what it says, by turns; how fast is not asserted."""

import json
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from commands import STARTER, forked
from PIL import Image

from imgbench.benchmark import data, rounds
from imgbench.benchmark.development import labelling
from imgbench.benchmark.development.growth import CLASSES, FILES, make_images, measure_growth
from imgbench.benchmark.development.planted_copies import FAULTS, measure_audit, score
from imgbench.benchmark.development.planted_shortcuts import PLANTS, measure_shortcuts
from imgbench.benchmark.development.shards import measure_shards
from imgbench.benchmark.rounds import Timing, alternate, serve
from imgbench.data.scan import scan
from imgbench.experiment.build import plain
from imgbench.experiment.compose import compose

STEP = ["imgbench", "bare loop", "plain fp32"]
DATA = ["imgbench, warm", "imgbench, cold", "ImageFolder + DataLoader"]
EPOCH = ["imgbench", "plain PyTorch script"]


@pytest.fixture(autouse=True)
def copies(monkeypatch):
    """Variants are copies of a process that has imported much; in one of its own, each imports it for seconds."""
    monkeypatch.setattr(rounds, "PROCESSES", STARTER)


def run_benchmark(line):
    rounds.PROCESSES = STARTER
    sys.argv = ["imgbench.benchmark", *line]
    runpy.run_module("imgbench.benchmark", run_name="__main__", alter_sys=True)


def benchmark(root, tmp_path, what, *words):
    """The numbers and the output of the command."""
    line = ["data=folder", f"data.root={root}", "model=cnn", "data.image_size=20", "data.batch_size=4"]
    line += [f"what=[{what}]", "rounds=1", "steps=2", "hydra.run.dir=bench", *words]
    done = forked(run_benchmark, line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "bench" / "benchmark.json").read_text()), done.stdout


def test_command_prints_a_table_and_leaves_numbers_and_charts(make_folder, tmp_path):
    results, printed = benchmark(make_folder(tmp_path / "photos", {"a": 8, "b": 8}), tmp_path, "step")
    assert list(results["step"]) == STEP
    for name, row in results["step"].items():
        assert row["value"] > 0
        assert len(row["rounds"]) == 1
        assert name in printed
    assert (tmp_path / "bench" / "step.png").stat().st_size > 1000


@pytest.mark.slow
def test_command_measures_data_photographs_and_whole_epochs(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", {"a": 8, "b": 8})
    results, printed = benchmark(root, tmp_path, "data,epoch", "photographs=6")
    assert list(results["data"]) == DATA
    assert list(results["photographs"]) == DATA[1:]
    assert list(results["epoch"]) == EPOCH
    assert all(row["value"] > 0 and name in printed for rows in results.values() for name, row in rows.items())


@pytest.mark.parametrize("variant", [data._warm, data._cold, data._image_folder])
def test_each_variant_times_its_work(variant, make_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGBENCH_CACHE", str(tmp_path / "cache"))  # which is restored after a variant has moved it
    words = [f"data.root={make_folder(tmp_path / 'photos', {'a': 8, 'b': 8})}", "model=cnn", "data.image_size=20"]
    config = {**plain(compose(["data=folder", *words, "data.batch_size=4"])), "steps": 2}
    ours, theirs = multiprocessing.Pipe()
    workers = {"workers": 0} if variant is data._image_folder else {}
    thread = Thread(target=variant, args=(theirs, config), kwargs=workers)
    thread.start()
    for word in ("go", "go", None):
        ours.send(word)
        assert word is None or ours.recv() > 0
    thread.join()


def test_what_measures_imgbench_itself_needs_a_clone(tmp_path):
    """The package as it is installed: `pyproject.toml` leaves out of the wheel what is left out here."""
    repository = Path(__file__).parents[1]
    left_out = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "imgbench/benchmark/development" in left_out["exclude"]
    shutil.copytree(repository / "imgbench", tmp_path / "imgbench", ignore=shutil.ignore_patterns("development"))
    shutil.copytree(repository / "conf", tmp_path / "imgbench" / "conf")
    line = [sys.executable, "-m", "imgbench.benchmark", "what=[step,audit]", "hydra.run.dir=bench"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "what=[audit] measures imgbench itself" in done.stderr
    assert "clone of the repository; here there are step, data, epoch, neighbour." in done.stderr


def test_growth_measures_time_and_memory_of_each_number_of_images():
    rows = measure_growth([100, 300])
    assert list(rows) == ["100 images", "300 images"]
    assert all(row["value"] > 0 and row["bytes per image"] >= 0 for row in rows.values())


def test_shards_are_measured_with_each_number_of_images():
    rows = measure_shards([50, 80])
    assert list(rows) == ["50 images", "80 images"]
    assert all(
        min(row["index"], row["start"], row["read"]) > 0 and row["bytes per image"] >= 0 for row in rows.values()
    )


def test_growth_makes_as_many_images_as_it_says(tmp_path):
    make_images(tmp_path, 250)
    found = scan(tmp_path)
    assert len(found.paths) == 250
    assert len(found.class_names) == CLASSES
    inodes = {(tmp_path / path).stat().st_ino for path in found.paths}
    assert len(inodes) == FILES


def by_turns(connection, log):
    def work() -> float:
        with open(log, "a") as file:  # noqa: PTH123
            file.write(f"{time.monotonic_ns()} start\n{time.monotonic_ns()} end\n")
        return 0.5

    serve(connection, work)


def fails(connection, log):
    connection.recv()


def test_variants_work_one_at_a_time_and_the_first_turn_is_not_counted(tmp_path):
    timings = alternate({"a": by_turns, "b": by_turns}, {"log": str(tmp_path / "log")}, rounds=3)
    assert {name: timing.seconds for name, timing in timings.items()} == {"a": [0.5] * 3, "b": [0.5] * 3}
    words = [line.split()[1] for line in sorted((tmp_path / "log").read_text().splitlines())]
    assert words == ["start", "end"] * 8


def holds_memory(connection, size):
    held = b"x" * size
    serve(connection, lambda: len(held))


def test_peak_of_memory_is_that_of_each_process():
    small, large = (alternate({"a": holds_memory}, {"size": size}, 1)["a"].peak_bytes for size in (10, 200_000_000))
    assert large - small == pytest.approx(200e6, rel=0.1)


def test_variant_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended before its time"):
        alternate({"a": fails}, {"log": ""}, rounds=1)


def test_ratio_compares_round_by_round():
    # A machine that is ten times slower in the last round does not change the ratio.
    assert Timing([1.0, 2.0, 10.0], 0).ratio(Timing([2.0, 4.0, 20.0], 0)) == 0.5


def write_smooth_noise(root: Path, count: int, low: int, high: int, coarse: int) -> None:
    """Images of two classes, three times as large as the noise of `coarse` pixels that they are made of."""
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(low, high, (coarse, coarse, 3), np.uint8)
        Image.fromarray(noise).resize((3 * coarse, 3 * coarse), Image.Resampling.BICUBIC).save(path)


def test_planted_copies_are_counted(tmp_path):
    write_smooth_noise(tmp_path, 30, 0, 256, 32)
    config = compose(["data=folder", f"data.root={tmp_path}", "data.image_size=64"])
    rows = measure_audit({**plain(config), "planted": 3})
    assert list(rows) == list(FAULTS)
    assert all(row["planted"] == 3 and row["value"] == 1 and row["pairs with others"] == 0 for row in rows.values())


def test_planted_shortcuts_are_warned_of_and_none_where_there_are_none(tmp_path):
    write_smooth_noise(tmp_path, 60, 60, 190, 16)
    config = compose(["data=folder", f"data.root={tmp_path}", "data.image_size=32"])
    rows = measure_shortcuts({**plain(config), "planted": 30})
    assert list(rows) == list(PLANTS)
    absent = [name for name, row in rows.items() if not row["warnings"]]
    assert absent[:2] == ["as they are", "labels at random"]
    assert len(absent) < 4


def test_copies_count_as_found_beside_any_file_of_their_origin_and_relatives_are_not_false():
    names = list(FAULTS)
    paths = ["a/0.jpg", "a/0_1.png", "a/0_2.png", "b/5.jpg", "b/5_1.png", "b/5_2.png", "b/7.jpg"]
    pairs = [(1, 2), (4, 6), (5, 0), (3, 0)]
    rows = score([*paths, *(f"b/7_{kind}.png" for kind in range(len(FAULTS)) if kind not in (1, 2))], pairs, {(0, 5)})
    assert [rows[names[kind]]["value"] for kind in (0, 1, 2)] == [0, 0.5, 0.5]
    assert [rows[names[kind]]["pairs with others"] for kind in (0, 1, 2)] == [0, 1, 0]


def test_labels_are_counted_until_the_accuracy_is_near_that_of_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = 2 * np.eye(3, 40)[labels] + rng.normal(size=(300, 40))
    tested = np.arange(300) % 3 == 0
    best, rounds = labelling.simulate(features, labels, tested, list(labelling.METHODS), 3, seed=0)
    assert best > 0.8 and list(rounds) == list(labelling.METHODS)
    for own in rounds.values():
        assert [own[0].labels, own[-1].labels] == [20, 200] and own[-1].accuracy == best
        assert all(0 <= one.changed <= 1 for one in own)
    one = labelling.Round(20, 0.8, 0.0, 0.0)
    reached = [one, one._replace(labels=40, accuracy=0.9), one._replace(labels=60, accuracy=0.9)]
    assert labelling.needed(reached, 0.905) == 40
    assert labelling.needed(reached, 0.99) == 60
