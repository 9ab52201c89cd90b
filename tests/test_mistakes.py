"""Which images a report shows."""

import numpy as np

from imgbench.evaluation.predictions import Predictions
from imgbench.report.mistakes import confident_mistakes, confused_pairs, least_sure

# Target and probabilities of the classes a, b and c.
ROWS = [
    (0, [0.9, 0.1, 0.0]),
    (0, [0.3, 0.7, 0.0]),
    (1, [0.8, 0.1, 0.1]),
    (0, [0.1, 0.9, 0.0]),
    (2, [0.2, 0.2, 0.6]),
    (1, [0.2, 0.7, 0.1]),
]
PREDICTIONS = Predictions(
    [f"{i}.png" for i in range(len(ROWS))],
    [""] * len(ROWS),
    np.array([target for target, _ in ROWS]),
    np.array([row for _, row in ROWS], np.float32),
    ["a", "b", "c"],
)
RIGHT = PREDICTIONS.subset(PREDICTIONS.predicted == PREDICTIONS.targets)


def test_the_surest_mistakes_come_first():
    assert confident_mistakes(PREDICTIONS, 10).tolist() == [3, 2, 1]
    assert confident_mistakes(PREDICTIONS, 2).tolist() == [3, 2]


def test_of_the_right_ones_the_least_sure_come_first():
    assert least_sure(PREDICTIONS, 2).tolist() == [4, 5]


def test_the_pair_with_most_images_comes_first_and_its_surest_image():
    first, second = confused_pairs(PREDICTIONS, 5)
    assert (first.true, first.predicted, first.count, first.rows.tolist()) == (0, 1, 2, [3, 1])
    assert (second.true, second.predicted, second.count, second.rows.tolist()) == (1, 0, 1, [2])
    assert len(confused_pairs(PREDICTIONS, 1)) == 1


def test_without_a_mistake_there_is_nothing_to_show():
    assert len(confident_mistakes(RIGHT, 5)) == 0
    assert confused_pairs(RIGHT, 5) == []
