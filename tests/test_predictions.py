import csv

import numpy as np
import pytest

from imgbench.evaluation.predictions import Predictions

NAMES = ["猫", "dog, large", 'the "best" one', "10", "semi;colon"]
PATHS = ["猫/1 (108).jpg", "dog, large/a,b.png", 'the "best" one/"x".png', "10/a=b.png", "semi;colon/ü.jpg"]
GROUPS = ["M06", "M06", "", "病人, 7", "x"]


def write_and_read(predictions, tmp_path):
    (tmp_path / "predictions.csv").write_text(predictions.to_csv(), "utf-8", errors="surrogateescape")
    return Predictions.read_csv(tmp_path / "predictions.csv")


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 5).astype(np.float32)
    return Predictions(PATHS, GROUPS, np.array([0, 1, 2, 3, 4]), probabilities, NAMES)


def test_chinese_names_commas_and_quotes_survive_the_file(predictions, tmp_path):
    read = write_and_read(predictions, tmp_path)
    assert read.paths == PATHS
    assert read.class_names == NAMES
    assert read.targets.tolist() == predictions.targets.tolist()


def test_probabilities_survive_the_file_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(1)
    probabilities = (10.0 ** rng.uniform(-30, 0, (50, 3))).astype(np.float32)
    predictions = Predictions(
        [str(i) for i in range(50)], [""] * 50, np.zeros(50, np.int64), probabilities, ["a", "b", "c"]
    )
    read = write_and_read(predictions, tmp_path)
    assert read.probabilities.dtype == np.float32
    assert np.array_equal(read.probabilities, probabilities)


def test_near_tie_is_decided_alike_after_reading(tmp_path):
    near = np.array([[0.49999997, 0.5000001], [0.5, 0.5]], np.float32)
    predictions = Predictions(["near", "exact"], ["", ""], np.array([1, 1]), near, ["a", "b"])
    assert predictions.predicted.tolist() == write_and_read(predictions, tmp_path).predicted.tolist() == [1, 0]


def test_path_that_is_not_utf_8_survives_the_file(tmp_path):
    path = b"a/\xb9\xb7.jpg".decode("utf-8", "surrogateescape")
    predictions = Predictions([path], [""], np.array([0]), np.array([[0.75, 0.25]], np.float32), ["a", "b"])
    assert write_and_read(predictions, tmp_path).paths == [path]


def test_columns_are_path_group_target_predicted_and_a_probability_per_class(predictions):
    header, *rows = csv.reader(predictions.to_csv().splitlines())
    assert header == ["path", "group", "target", "predicted", *NAMES]
    assert [row[1] for row in rows] == GROUPS
    assert [row[2] for row in rows] == NAMES
    assert [row[3] for row in rows] == [NAMES[i] for i in predictions.probabilities.argmax(1)]


def test_file_without_images_is_read(tmp_path):
    read = write_and_read(
        Predictions([], [], np.empty(0, np.int64), np.empty((0, 2), np.float32), ["a", "b"]), tmp_path
    )
    assert read.probabilities.shape == (0, 2)
    assert read.class_names == ["a", "b"]


def test_file_of_an_earlier_version_without_groups_is_read(tmp_path):
    (tmp_path / "predictions.csv").write_text("path,target,predicted,a,b\nb/1.png,b,a,0.75,0.25\n")
    read = Predictions.read_csv(tmp_path / "predictions.csv")
    assert (read.paths, read.groups, read.targets.tolist()) == (["b/1.png"], [""], [1])
    assert read.probabilities.tolist() == [[0.75, 0.25]]


def test_class_that_is_there_and_never_predicted_is_named():
    probabilities = np.array([[0.7, 0.3, 0], [0.6, 0.4, 0]], np.float32)
    found = Predictions(["x", "y"], ["", ""], np.array([0, 1]), probabilities, ["a", "b", "absent"])
    assert found.never_predicted == ["b"]


@pytest.mark.parametrize("text", ["", "\n", "path\na.png\n", "# remark\n", "path,group,target,predicted,a\na.png,,a\n"])
def test_a_damaged_table_is_one_kind_of_error(text, tmp_path):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(ValueError):
        Predictions.read_csv(tmp_path / "predictions.csv")
