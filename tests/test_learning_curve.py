"""Whether more photographs would help."""

import json

import numpy as np
import pytest
from omegaconf import DictConfig

from imgbench.data.split import NO_SPLIT
from imgbench.errors import UserError
from imgbench.evaluation.predictions import Predictions
from imgbench.experiment.build import build_data
from imgbench.experiment.learning_curve import part_of
from imgbench.number import Number
from imgbench.report.learning_curve import read_learning_curve
from imgbench.run import LEARNING_CURVE, Run


@pytest.fixture
def table(tiny_run):
    return build_data(DictConfig(tiny_run.config)).table


def test_a_part_holds_its_share_of_each_class_and_every_smaller_part(table):
    everything = table.rows("train")
    parts = [part_of(table, fraction, seed=1) for fraction in (0.01, 0.25, 0.5, 1.0)]
    rows = [set(part.rows("train").tolist()) for part in parts]
    assert rows[0] < rows[1] < rows[2] < rows[3] == set(everything.tolist())
    assert np.bincount(table.labels[sorted(rows[0])]).tolist() == [1, 1]
    assert len(rows[2]) == pytest.approx(len(everything) / 2, abs=1)
    for part in parts:
        assert np.array_equal(part.rows("test"), table.rows("test"))
        assert np.array_equal(part.rows("val"), table.rows("val"))
    assert (table.splits != NO_SPLIT).all(), "the table itself is as it was"


def test_images_of_a_group_stay_together(table):
    table.groups = [f"patient {row % 6}" for row in range(len(table.paths))]
    kept = part_of(table, 0.5, seed=0).rows("train")
    inside = {table.groups[row] for row in kept}
    outside = {table.groups[row] for row in set(table.rows("train")) - set(kept)}
    assert inside
    assert outside
    assert not inside & outside


def test_a_run_that_is_asked_for_it_trains_on_parts_and_ends_with_itself(tmp_path, make_folder, train_run, caplog):
    root = make_folder(tmp_path / "photos", {"a": 32, "b": 32})
    with caplog.at_level("INFO"):
        run = train_run(root, tmp_path / "run", "report.learning_curve=true")
    points = json.loads((run.path / LEARNING_CURVE).read_text())["points"]
    images = len(run.split_rows("train"))
    assert [point["images"] for point in points] == pytest.approx([images / 8, images / 4, images / 2], abs=1)
    assert all(point["test/acc"]["n"] == len(run.split_rows("test")) for point in points)
    assert caplog.text.count("Learning curve: training on") == 3
    page = (run.path / "report.html").read_text("utf-8")
    assert "Would more photographs help?" in page
    assert f"to {images} training photographs the accuracy" in page
    without = train_run(root, tmp_path / "without")
    assert (run.path / "predictions.csv").read_text() == (without.path / "predictions.csv").read_text()
    assert "Would more photographs help?" not in (without.path / "report.html").read_text("utf-8")


def test_what_was_gained_is_counted_on_the_same_images(tmp_path):
    targets = np.zeros(100, np.int64)
    probabilities = np.tile(np.array([1, 0], np.float32), (100, 1))
    test = Predictions([f"{i}.png" for i in range(100)], [""] * 100, targets, probabilities, ["a", "b"])
    accuracy = Number(1.0, 0.96, 1.0, 100, 100)
    earlier = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 100}
    points = [{"images": 50, "test/acc": earlier, "wrong": [f"{i}.png" for i in range(20)]}]
    (tmp_path / LEARNING_CURVE).write_text(json.dumps({"points": points}))
    curve, gain = read_learning_curve(Run(tmp_path), test, 100, accuracy)
    assert [images for images, _ in curve] == [50, 100]
    assert gain is not None
    assert gain.value == pytest.approx(0.2)
    assert 0 < gain.low < 0.2 < gain.high
    grouped = Predictions(test.paths, [f"g{i // 10}" for i in range(100)], targets, probabilities, ["a", "b"])
    _, wider = read_learning_curve(Run(tmp_path), grouped, 100, accuracy)
    assert wider is not None
    assert wider.value == pytest.approx(0.2)
    assert wider.low < 0, "all in two of ten groups"


def test_a_damaged_file_is_named(tmp_path, tiny_run):
    (tmp_path / LEARNING_CURVE).write_text('{"points": [3]}')
    test = Predictions.read_csv(tiny_run.path / "predictions.csv")
    with pytest.raises(UserError, match=r"learning_curve\.json is damaged"):
        read_learning_curve(Run(tmp_path), test, 3, Number(1.0, 0.4, 1.0, 3, 3))
