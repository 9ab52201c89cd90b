import json
import math

import numpy as np
import pytest
from scipy import stats

from imgbench.errors import UserError
from imgbench.number import (
    Number,
    Z,
    effective_number,
    group_codes,
    grouped_difference,
    mean_of_classes,
    mean_of_images,
    mean_of_runs,
    paired_difference,
    ratio_interval,
    read_metrics,
    share,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: the centre of n/2 successes is 1/2, half the width is z / (2 sqrt(n + z^2))
        (50, 100, 0.5 - Z / (2 * (100 + Z**2) ** 0.5), 0.5 + Z / (2 * (100 + Z**2) ** 0.5)),
    ],
)
def test_wilson_interval_agrees_with_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (7, 10), (359, 360), (12345, 54321)])
def test_wilson_interval_ends_where_the_deviation_is_z_standard_errors(successes, n):
    for end in wilson_interval(successes, n):
        assert abs(successes / n - end) == pytest.approx(Z * (end * (1 - end) / n) ** 0.5)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 359, 1000, 10**6])
def test_wilson_interval_of_none_and_of_all_ends_there_exactly(n):
    assert wilson_interval(0, n)[0] == 0.0
    assert wilson_interval(n, n)[1] == 1.0
    assert wilson_interval(0, n)[1] == pytest.approx(Z**2 / (n + Z**2))
    assert wilson_interval(n, n)[0] == pytest.approx(n / (n + Z**2))


def test_wilson_interval_holds_the_proportion_and_mirrors_failures():
    for n in (1, 2, 5, 30):
        for successes in range(n + 1):
            low, high = wilson_interval(successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_interval_of_no_trials_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize("successes", [0, 3, 66, 76])
def test_wilson_interval_agrees_with_scipy(successes):
    expected = stats.binomtest(successes, 76).proportion_ci(method="wilson")
    assert wilson_interval(successes, 76) == pytest.approx((expected.low, expected.high))


def test_images_without_a_group_are_groups_of_their_own():
    assert group_codes(["a", "", "b", "a", ""]).tolist() == [0, 1, 2, 0, 3]
    assert group_codes([]).tolist() == []


@pytest.mark.parametrize("hits", [0, 1, 2, 30, 75, 76])
def test_of_independent_images_a_share_is_a_proportion(hits):
    right = np.arange(76) < hits
    low, high = wilson_interval(hits, 76)
    expected = {"value": hits / 76, "low": low, "high": high, "n": 76, "groups": 76, "hits": hits}
    assert share(right, np.ones(76, bool), np.arange(76)).to_dict() == pytest.approx(expected)


def test_images_of_a_group_that_are_all_alike_are_worth_one():
    right = np.arange(30) < 24
    copies = share(np.repeat(right, 14), np.ones(420, bool), np.repeat(np.arange(30), 14))
    single = share(right, np.ones(30, bool), np.arange(30))
    assert (copies.n, copies.groups, copies.value) == (420, 30, 0.8)
    assert copies.low == pytest.approx(single.low, abs=0.01)
    assert copies.high == pytest.approx(single.high, abs=0.01)


def test_all_right_in_groups_promises_no_more_than_their_number():
    found = share(np.ones(140, bool), np.ones(140, bool), np.repeat(np.arange(10), 14))
    assert (found.low, found.high) == pytest.approx(wilson_interval(10, 10))


def test_a_single_group_tells_nothing():
    found = share(np.arange(14) < 10, np.ones(14, bool), np.zeros(14, int))
    assert found.high - found.low > 0.8


def test_of_nothing_the_interval_is_everything():
    found = share(np.ones(3, bool), np.zeros(3, bool), np.arange(3))
    assert found == Number(math.nan, 0, 1, 0, 0, 0)


# (groups, images in each: equal or from 1 to 2m - 1, correlation within a group, true proportion)
GROUPED = [
    (groups, size, unequal, likeness, p)
    for groups, size in ((23, 14), (40, 5), (150, 3))
    for unequal in (False, True)
    for likeness in (0.0, 0.2, 0.6)
    for p in (0.6, 0.8)
]


def coverage(groups, size, unequal, likeness, p, draws=20_000):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 2 * size, groups) if unequal else np.full(groups, size)
    rates = np.full((draws, groups), p)
    if likeness:
        rates = rng.beta(p * (1 - likeness) / likeness, (1 - p) * (1 - likeness) / likeness, (draws, groups))
    low, high = ratio_interval(rng.binomial(sizes, rates), np.broadcast_to(sizes, rates.shape))
    return ((low <= p) & (p <= high)).mean()


@pytest.mark.parametrize("design", GROUPED)
def test_intervals_of_grouped_proportions_hold_the_truth_in_95_percent(design):
    assert coverage(*design, draws=4000) == pytest.approx(0.95, abs=0.02)


def test_on_average_grouped_proportions_are_held_in_95_percent():
    assert np.mean([coverage(*design, draws=2000) for design in GROUPED]) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("n", "p"), [(76, 0.88), (360, 0.9), (30, 0.6), (1000, 0.98)])
def test_wilson_interval_holds_the_truth_in_95_percent(n, p):
    # Exactly, over all outcomes; of few images it cannot be 95 % for every proportion, so over those near it.
    outcomes = np.arange(n + 1)
    low, high = ratio_interval(np.arange(n) < outcomes[:, None], np.ones((n + 1, n)))
    held = [
        stats.binom.pmf(outcomes, n, q)[(low <= q) & (q <= high)].sum() for q in np.linspace(p - 0.02, min(p + 0.02, 1))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


def test_effective_number_of_independent_images_is_their_number():
    right = (np.arange(400) % 5 > 0).astype(float)
    found = effective_number(np.asarray(0.8), (right - 0.8) / 400, exact_variance=True)
    assert found == pytest.approx(399)


def test_mean_of_images_agrees_with_student_far_from_the_ends():
    values = np.random.default_rng(0).beta(20, 20, 500)
    found = mean_of_images(values, np.arange(500))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_mean_of_classes_of_which_all_are_right_rests_on_their_harmonic_mean():
    targets = np.repeat([0, 1], [96, 4])
    found = mean_of_classes(np.ones(2), np.zeros(100), targets, np.arange(100), counts=True)
    n = 4 / (1 / 96 + 1 / 4)
    assert (found.low, found.high) == pytest.approx(wilson_interval(n, n))


def test_mean_of_runs_is_students():
    values = [0.91, 0.93, 0.90, 0.94]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean_of_runs(values) == pytest.approx((0.92, expected.low, expected.high))
    assert mean_of_runs([0.9]) == (0.9, -np.inf, np.inf)


def test_seeds_are_held_in_95_percent():
    draws = np.random.default_rng(0).normal(0.9, 0.01, (2000, 3))
    low, high = np.array([mean_of_runs(row)[1:] for row in draws]).T
    assert ((low <= 0.9) & (high >= 0.9)).mean() == pytest.approx(0.95, abs=0.01)


def test_a_difference_between_images_that_are_not_independent_is_less_sure():
    correct, reference = np.ones(100, bool), np.arange(100) >= 20
    alone = grouped_difference(correct, reference, np.arange(100))
    assert alone == paired_difference(correct, reference)
    spread = grouped_difference(correct, reference, np.arange(100) % 10)  # two errors in each group
    assert spread.low == pytest.approx(0.2)
    together = grouped_difference(correct, reference, np.arange(100) // 10)  # all in two groups
    assert together.value == pytest.approx(0.2)
    assert together.low < 0 < alone.low
    assert together.groups == 10


def test_many_images_of_one_group_are_hardly_more_than_one():
    codes = np.repeat(np.arange(20), [81, *[1] * 19])
    found = share(np.ones(100, bool), np.ones(100, bool), codes)
    assert (found.low, found.high) == pytest.approx((0.283, 1), abs=5e-4)
    assert (found.n, found.groups) == (100, 20)


NUMBERS = {
    "test/acc": {"value": 0.9, "low": 0.6, "high": 0.98, "n": 10, "groups": 5, "hits": 9},
    "test/majority": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10, "groups": 5, "hits": 5, "class": "cat"},
    "test/ece": {"value": 0.1, "low": 0.0, "high": 0.3, "n": 10, "groups": 5, "if_calibrated": 0.08},
    "test/brier": {"value": 0.1, "low": 0.0, "high": 0.3, "n": 10, "groups": 5, "percent": False},
    "test/f1/dog": {"value": None, "low": 0.0, "high": 1.0, "n": 0, "groups": 0},
}


def test_metrics_json_is_written_as_it_was_read(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(NUMBERS, indent=2))
    again = {name: number.to_dict() for name, number in read_metrics(file).items()}
    assert json.dumps(again, indent=2) == file.read_text(), "the order of the keys too"


def test_a_number_of_another_version_is_read():
    assert Number.from_dict({"value": 0.9, "low": 0.6, "high": 0.98, "n": 10}).groups == 10
    assert Number.from_dict({**NUMBERS["test/acc"], "median": 0.9}) == Number(0.9, 0.6, 0.98, 10, 5, 9)


@pytest.mark.parametrize(
    "text", ["no JSON", "", "[]", "{}x", '{"test/acc": 0.9}', '{"test/acc": {"value": 0.9}}',
             '{"test/acc": {"value": "x", "low": 0, "high": 1, "n": 3}}', '{"test/acc": null}',
             '{"test/acc": {"value": 1, "low": 0, "high": 1, "n": 1e999}}']
)  # fmt: skip
def test_a_damaged_metrics_json_is_named(text, tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.json is damaged"):
        read_metrics(file)
