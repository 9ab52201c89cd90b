"""Accuracies in parts of the images, and whether they differ by more than chance."""

import numpy as np
import pytest

from imgbench.evaluation.subgroups import difference_test, subgroups


def test_a_site_where_the_model_fails_is_found_and_named_first():
    site = np.array(["A"] * 100 + ["B"] * 100)
    correct = np.concatenate([np.arange(100) < 96, np.arange(100) < 71])
    found = subgroups(correct, np.arange(200), {"view": ["left", "right"] * 100, "site": site.tolist()})
    assert [one.column for one in found] == ["site", "view"]
    assert [(name, number.hits, number.n) for name, number in found[0].parts.items()] == [
        ("B", 71, 100),
        ("A", 96, 100),
    ]
    assert found[0].differ
    assert not found[1].differ


def test_images_of_one_patient_are_no_evidence_of_their_own():
    site = np.repeat(["A", "B"], 60)
    correct = np.concatenate([np.ones(60, bool), np.arange(60) >= 20])  # all mistakes are of two patients at B
    alone = difference_test(correct, site, np.arange(120))
    together = difference_test(correct, site, np.arange(120) // 10)
    assert alone < 0.001
    assert together > 0.2


def test_the_p_value_is_corrected_for_the_number_of_columns():
    rng = np.random.default_rng(0)
    correct = rng.random(200) < 0.8
    site = np.where(rng.random(200) < 0.5 + 0.25 * (~correct), "A", "B").tolist()
    others = {f"column {i}": rng.choice(["x", "y"], 200).tolist() for i in range(9)}
    alone = subgroups(correct, np.arange(200), {"site": site})[0].p
    among = next(one.p for one in subgroups(correct, np.arange(200), {"site": site, **others}) if one.column == "site")
    assert among == pytest.approx(min(10 * alone, 1), rel=0.01)


def test_false_alarms_are_as_rare_as_they_are_said_to_be():
    rng = np.random.default_rng(1)
    codes = np.arange(120) // 3
    alarms = 0
    for _ in range(200):
        hard = rng.random(40)[codes] < 0.2
        correct = ~(hard & (rng.random(120) < 0.8))
        alarms += difference_test(correct, np.repeat(rng.integers(0, 3, 40), 3), codes, draws=200) < 0.05
    assert alarms <= 18


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([str(age) for age in range(20, 80)], ["20 to 34", "35 to 49", "50 to 64", "65 to 79"]),
        ([f"{2020 + i // 30}-{1 + i % 12:02}-0{1 + i % 7}" for i in range(60)], ["2020", "2021"]),
        ([f"2020-0{1 + i // 30}-{1 + i % 28:02}" for i in range(60)], ["2020-01", "2020-02"]),
        (["A", "B", ""] * 20, ["A", "B"]),
    ],
)
def test_numbers_come_in_bands_and_dates_in_years_or_months(values, parts):
    found = subgroups(np.arange(60) % 7 > 0, np.arange(60), {"column": values})
    assert sorted(found[0].parts) == parts


@pytest.mark.parametrize("values", [[f"patient {i}" for i in range(60)], ["A"] * 60, ["A"] * 55 + ["B"] * 5, [""] * 60])
def test_a_column_that_divides_nothing_is_left_out(values):
    assert subgroups(np.arange(60) % 7 > 0, np.arange(60), {"column": values}) == []
