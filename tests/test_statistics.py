from typing import Any

import numpy as np
import pytest
from scipy import stats

from imgbench.evaluation.statistics import holm, mcnemar, means_test, permutation_test

reference: Any = stats  # whose results pyright takes for plain tuples


def answers(gained, lost, same=50):
    first = np.array([True] * gained + [False] * lost + [True] * same)
    return first, np.array([False] * gained + [True] * lost + [True] * same)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 5), (12, 4), (0, 9), (40, 60)])
def test_mcnemar_is_the_binomial_test_of_those_that_differ(gained, lost):
    expected = min(1.0, 2 * stats.binom.cdf(min(gained, lost), gained + lost, 0.5)) if gained + lost else 1
    assert mcnemar(*answers(gained, lost)) == pytest.approx(expected)


@pytest.mark.parametrize(("gained", "lost"), [(2, 1), (5, 5), (8, 3), (30, 12), (300, 340)])
def test_permutation_of_single_images_is_mcnemars_test(gained, lost):
    first, second = answers(gained, lost)
    p = permutation_test(first.astype(float) - second)
    assert p == pytest.approx(mcnemar(first, second), abs=0.015)
    if gained + lost <= 12:
        assert p == pytest.approx(mcnemar(first, second))


def test_permutation_agrees_with_scipy():
    differences = np.random.default_rng(0).normal(0.3, 1, 10)
    expected = stats.permutation_test(
        (differences, np.zeros(10)), lambda x, y, axis: (x - y).sum(axis), permutation_type="samples", vectorized=True
    )
    assert permutation_test(differences) == pytest.approx(expected.pvalue)


def test_permutation_of_equal_answers_is_1():
    assert permutation_test(np.zeros(20)) == 1


def test_copies_of_one_image_do_not_make_a_difference_significant():
    first, second = answers(6, 2)
    copies = permutation_test(14 * (first.astype(float) - second))
    assert copies == pytest.approx(mcnemar(first, second))
    assert mcnemar(np.repeat(first, 14), np.repeat(second, 14)) < 1e-6


def test_means_of_seeds_are_tested_as_scipy_does():
    a, b = [0.91, 0.93, 0.90, 0.92], [0.89, 0.90, 0.905]
    assert means_test(a, b) == pytest.approx(reference.ttest_ind(a, b, equal_var=False).pvalue)
    assert means_test(a[:3], b, paired=True) == pytest.approx(reference.ttest_rel(a[:3], b).pvalue)


def test_means_without_spread_are_the_same_or_not():
    assert means_test([0.9, 0.9], [0.9, 0.9]) == 1
    assert means_test([0.9, 0.9], [0.8, 0.8]) == 0
    assert means_test([0.9], [0.8, 0.7]) == 1


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]).tolist() == []


@pytest.mark.parametrize("groups", [8, 40])
def test_permutation_raises_false_alarms_as_rarely_as_it_says(groups):
    rng = np.random.default_rng(0)
    p = np.array([permutation_test(rng.integers(-3, 4, groups).astype(float), draws=400) for _ in range(600)])
    assert (p < 0.05).mean() < 0.075
    assert (p < 0.5).mean() > 0.35
