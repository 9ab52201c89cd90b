"""Predictions that are accepted: the promise holds, and accepts what it can."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.selective import (
    RISK,
    UNLIKE,
    checked,
    distance_limit,
    fewest_images,
    least_error,
    novelty_limit,
    one_of_each_group,
    risk_coverage,
    search_starts,
    search_threshold,
    select,
)

DRAWS = 1000
FINE = np.linspace(0.5, 1, 10_001)[1:]  # probabilities, all equally frequent
ErrorRate = Callable[[np.ndarray], np.ndarray]  # of predictions of a probability


def predictions_of(probabilities: np.ndarray, wrong: np.ndarray, groups: list[str] | None = None) -> Predictions:
    """Of two classes; always the first is predicted."""
    both = np.stack([probabilities, 1 - probabilities], 1)
    return Predictions([""] * len(wrong), groups or [""] * len(wrong), wrong.astype(np.int64), both, ["a", "b"])


def error_above(threshold: float, rate: ErrorRate) -> float:
    return float(rate(FINE[threshold < FINE]).mean())


RATES: dict[str, ErrorRate] = {
    "growing": lambda p: 0.8 * (1 - p),
    "too frequent everywhere": lambda p: np.full_like(p, 0.055),
    "too frequent from a step on": lambda p: np.where(p > 0.85, 0.04, 0.25),
    "frequent at the top too": lambda p: np.where(p > 0.98, 0.2, np.where(p > 0.8, 0.005, 0.3)),
}


def broken_promises(rate: ErrorRate, n: int, rounded: int = 16) -> int:
    rng, broken = np.random.default_rng(n), 0
    for _ in range(DRAWS):
        probabilities = rng.uniform(0.5, 1, n)
        wrong = rng.random(n) < rate(probabilities)
        threshold, _, _ = search_threshold(probabilities.round(rounded), wrong, 0.05)
        broken += threshold is not None and error_above(threshold, rate) > 0.05
    return broken


@pytest.mark.parametrize("n", [80, 400, 1500])
@pytest.mark.parametrize("name", RATES)
def test_promise_holds_in_95_of_100_draws(name, n):
    assert broken_promises(RATES[name], n) <= DRAWS * RISK


def test_promise_is_broken_as_often_as_is_said_where_all_is_just_too_wrong():
    broken = broken_promises(lambda p: np.full_like(p, 0.05 + 1e-9), fewest_images(0.05))
    assert stats.binomtest(broken, DRAWS, RISK).pvalue > 0.01


def test_promise_holds_where_many_probabilities_are_equal():
    assert broken_promises(RATES["growing"], 400, rounded=2) <= DRAWS * RISK


def grouped(rng: np.random.Generator, groups: int, alone: bool = False) -> tuple[Predictions, np.ndarray]:
    """Groups of one to ten images, alike in their probability, and right or wrong together; and distances.

    What is far off is wrong more often. Larger groups are right more often, so that a group and an image are not alike.
    """
    sizes = rng.integers(1, 11, groups)
    probability, distance = rng.uniform(0.5, 1, groups), rng.exponential(1, groups)
    wrong = rng.random(groups) < np.where(sizes > 5, 0.1, 0.3) * (1 - probability) * (1 + distance)
    codes = np.arange(groups) if alone else np.repeat(np.arange(groups), sizes)
    noise = rng.uniform(0, 0.01, len(codes))
    near = np.clip(probability[codes] - noise, 0.5, 1)
    return predictions_of(near, wrong[codes], [f"patient {i}" for i in codes]), distance[codes] + noise


def test_promise_holds_for_an_image_of_a_new_group_and_would_not_if_images_were_taken_for_independent():
    rng = np.random.default_rng(0)
    new, new_distances = grouped(rng, 100_000, alone=True)
    wrong, probabilities = new.predicted != new.targets, new.probabilities.max(1)
    broken, naive = 0, 0
    for _ in range(DRAWS):
        validation, distances = grouped(rng, 150)
        for independent in (False, True):
            images = replace(validation, groups=[""] * len(distances)) if independent else validation
            found = select(images, distances, 0.05)
            accepted = found.accepts(probabilities, new_distances)
            violated = accepted.any() and wrong[accepted].mean() > 0.05
            broken, naive = broken + (violated and not independent), naive + (violated and independent)
    assert broken <= DRAWS * RISK < naive


def test_coverage_is_that_of_new_images():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        probabilities = rng.uniform(0.5, 1, 300)
        found = select(predictions_of(probabilities, rng.random(300) < 0.1 * (1 - probabilities)), np.zeros(300), 0.05)
        if found.threshold is not None:
            held.append(found.coverage.low <= min(1, 2 * (1 - found.threshold)) <= found.coverage.high)
    assert len(held) > 200
    assert np.mean(held) > 0.93


def test_everything_is_accepted_where_nothing_is_wrong():
    found = select(predictions_of(np.linspace(0.6, 0.9, 200), np.zeros(200, bool)), np.zeros(200), 0.02)
    assert found.threshold == -np.inf
    assert (found.coverage.value, found.errors, found.surest) == (1, 0, 200)
    assert found.accepts(np.array([0.5]), np.array([0.0])).all()


def test_threshold_lies_below_what_it_was_tested_by_and_accepts_strictly_above():
    probabilities = np.linspace(0.5, 1, 100)
    wrong = probabilities < 0.6  # the twenty lowest
    found = select(predictions_of(probabilities, wrong), np.zeros(100), 0.05)
    accepted = found.accepts(probabilities, np.zeros(100))
    assert found.surest == accepted.sum() == found.coverage.hits
    assert stats.binom.cdf(wrong[accepted].sum(), accepted.sum(), 0.05) <= RISK
    assert found.threshold in probabilities


@pytest.mark.parametrize("max_error", [0.01, 0.02, 0.1])
def test_as_many_images_as_are_said_to_be_needed_promise_it_and_one_fewer_do_not(max_error):
    n = fewest_images(max_error)
    assert least_error(n) <= max_error < least_error(n - 1)
    assert least_error(n) == pytest.approx(3 / n, rel=0.06)
    for number, promised in ((n, True), (n - 1, False)):
        found = select(predictions_of(np.full(number, 0.9), np.zeros(number, bool)), np.zeros(number), max_error)
        assert (found.threshold is not None) == promised


def test_no_threshold_is_found_where_even_the_surest_are_wrong():
    found = select(predictions_of(np.linspace(0.5, 1, 200), np.arange(200) % 2 == 0), np.zeros(200), 0.05)
    assert found.threshold is None
    assert found.errors / found.surest == pytest.approx(0.5, abs=0.02)
    assert found.coverage.value == 0
    assert not found.accepts(np.ones(3), np.zeros(3)).any()


def test_an_error_among_the_surest_does_not_end_the_search_where_there_are_many_images():
    wrong = np.zeros(1000, bool)
    wrong[-1] = True  # the surest of all
    found = select(predictions_of(np.linspace(0.5, 1, 1000), wrong), np.zeros(1000), 0.02)
    assert found.coverage.value == 1


def test_searches_start_where_they_can_promise_something():
    for n in (10, 100, 1000, 10_000):
        starts = search_starts(n, 0.05)
        assert all(stats.binom.cdf(0, start, 0.05) <= RISK / len(starts) for start in starts)
        assert not starts or starts[-1] <= n
    assert search_starts(58, 0.05) == []
    assert search_starts(59, 0.05) == [59]


def test_one_image_of_each_group_is_drawn_and_always_the_same():
    groups = ["a", "a", "", "b", "b", "", "a"]
    rows = one_of_each_group(groups)
    assert sorted(groups[row] for row in rows) == ["", "", "a", "b"]
    assert np.array_equal(rows, one_of_each_group(groups))
    drawn = [one_of_each_group(["a"] * 4, seed)[0] for seed in range(400)]
    assert np.bincount(drawn).min() > 70, "each is as likely"


def test_distance_limit_is_reached_by_as_few_new_images_as_is_said():
    rng = np.random.default_rng(0)
    reached = [np.exp(-distance_limit(rng.exponential(1, 59))) for _ in range(2000)]
    assert np.mean(reached) == pytest.approx(UNLIKE, abs=0.002)  # 3 of 60
    assert distance_limit(np.arange(18.0)) == np.inf
    assert distance_limit(np.zeros(100)) == np.inf, "images that are all alike are not all unlike"


def test_a_promise_that_the_test_images_break_beyond_chance_is_not_made():
    validation = predictions_of(np.full(100, 0.9), np.arange(100) < 3)
    promise = select(validation, np.zeros(100), 0.1)
    assert promise.threshold is not None

    def on_test(errors: int, groups: list[str] | None = None):
        return checked(promise, predictions_of(np.full(58, 0.95), np.arange(58) < errors, groups))

    assert on_test(6) == promise
    assert (on_test(12).threshold, on_test(12).refuted) == (None, (12, 58))
    one_patient = ["one"] * 12 + [""] * 46  # whose photographs are all wrong
    assert on_test(12, one_patient) == promise
    assert checked(promise, predictions_of(np.full(58, 0.6), np.arange(58) < 30)).refuted == (30, 58)


def test_novelty_limit_is_beyond_all_but_a_hundredth_and_needs_twenty_images():
    distances = np.arange(1000.0)
    assert (distances >= novelty_limit(distances)).sum() == 10
    few = np.arange(1.0, 22)
    assert novelty_limit(few) == 2 * 21 - 11
    assert novelty_limit(few[:19]) == novelty_limit(np.zeros(50)) == np.inf


def test_leaving_the_least_sure_leaves_fewer_errors():
    found = predictions_of(np.array([0.9, 0.6, 0.8, 0.7, 0.7]), np.array([False, True, False, True, False]))
    left, wrong = risk_coverage(found)
    assert left == pytest.approx([0.8, 0.6, 0.2, 0])  # the two that are equally sure stay together
    assert wrong == pytest.approx([0, 0, 0.25, 0.4])
