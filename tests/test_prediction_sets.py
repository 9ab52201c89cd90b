"""Sets of classes hold the true one as often as is promised."""

import numpy as np
import pytest

from imgbench.evaluation.prediction_sets import PredictionSets, fewest_of_class
from imgbench.evaluation.predictions import Predictions


def drawn(rng, images: list[int], groups: int = 0) -> Predictions:
    """Predictions for so many images of each class, of which groups of so many are alike."""
    targets = np.repeat(np.arange(len(images)), images)
    size = groups or 1
    shared = rng.normal(size=(len(targets) // size + 1, len(images)))[np.arange(len(targets)) // size]
    logits = shared if groups else rng.normal(size=shared.shape)[: len(targets)]
    logits = logits[: len(targets)].copy()
    logits[np.arange(len(targets)), targets] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = [str(i // size) if groups else "" for i in range(len(targets))]
    return Predictions(
        [""] * len(targets), names, targets, probabilities.astype(np.float32), list("abc")[: len(images)]
    )


@pytest.mark.parametrize("groups", [0, 4])
def test_each_class_is_covered_as_promised_on_average(groups):
    rng = np.random.default_rng(0)
    new = drawn(rng, [4000, 4000])
    held, sizes = [], []
    for _ in range(200):
        sets = PredictionSets.of(drawn(rng, [160, 80], groups), 0.9)
        inside = sets.members(new.probabilities)[np.arange(8000), new.targets]
        held.append([inside[:4000].mean(), inside[4000:].mean()])
        sizes.append(sets.members(new.probabilities).mean())
    low, high = np.mean(held, 0), np.std(held, 0) / np.sqrt(200)
    assert np.all(low > 0.9 - 4 * high)
    assert np.mean(sizes) < 0.9  # sets that hold everything would be of no use


def test_a_class_with_too_few_images_is_never_ruled_out():
    sets = PredictionSets.of(drawn(np.random.default_rng(0), [200, 18]), 0.95)
    assert sets.never_ruled_out == ["b"]
    assert sets.names(np.array([1.0, 0.0])) == ["a", "b"]
    assert fewest_of_class(0.95) == 19
    assert PredictionSets.of(drawn(np.random.default_rng(0), [200, 19]), 0.95).never_ruled_out == []


def test_images_of_a_group_count_as_one():
    sets = PredictionSets.of(drawn(np.random.default_rng(0), [80, 80], groups=8), 0.9)
    assert sets.images.tolist() == [10, 10]


def test_the_most_probable_class_is_always_in_the_set():
    sets = PredictionSets(0.9, ["a", "b"], np.array([0.7, 0.6], np.float32), np.array([50, 50]))
    assert sets.names(np.array([0.45, 0.55])) == ["b"]
    assert sets.names(np.array([0.9, 0.1])) == ["a"]
