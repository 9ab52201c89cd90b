import numpy as np
import pytest
from scipy import stats

from imgbench.evaluation.metrics import classification_metrics
from imgbench.evaluation.predictions import Predictions
from imgbench.evaluation.statistics import exchange_test
from imgbench.run import Run
from imgbench.sweep import configurations
from imgbench.sweep.configurations import METRICS, Configuration
from imgbench.sweep.differences import differences_of, disagreements


def configuration(name, seeds=(0,), skill=1.0, n=90, groups=None, classes=3, fold_size=None) -> Configuration:
    """Of random answers, the better the larger the skill."""
    runs = []
    for place, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        rows = np.arange(n) if fold_size is None else np.arange(fold_size) + place * fold_size
        targets = rows % classes
        scores = rng.normal(size=(len(rows), classes)) + skill * np.eye(classes)[targets]
        probabilities = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)
        names = [groups[row] if groups else "" for row in rows]
        found = Predictions([f"{row}.png" for row in rows], names, targets, probabilities, [*"abc"][:classes])
        settings = {"seed": seed, "data.split.fold": None if fold_size is None else place}
        runs.append(configurations.Tested(FakeRun(), settings, found, ["0"] * len(rows), None))
    return Configuration(name, runs)


class FakeRun(Run):
    """Of no files; it was not cross-validated."""

    def __init__(self) -> None:
        pass

    @property
    def folds(self) -> None:
        return None


def test_numbers_of_a_single_run_are_those_of_its_metrics_json():
    groups = [str(row // 4) for row in range(90)]
    one = configuration("a", groups=groups)
    expected = classification_metrics(one.runs[0].predictions, "test")
    assert one.metrics == {name: expected[f"test/{name}"] for name in METRICS}
    assert one.spread == {}


def test_several_seeds_have_their_mean_and_standard_deviation():
    one = configuration("a", seeds=(0, 1, 2, 3))
    for name in METRICS:
        values = [classification_metrics(t.predictions, "test")[f"test/{name}"].value for t in one.runs]
        assert one.metrics[name].value == pytest.approx(np.mean(values))
        assert one.spread[name][:2] == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert one.metrics[name].low < np.mean(values) < one.metrics[name].high
    assert not one.metrics["auroc"].percent


def test_folds_are_measured_together():
    one = configuration("a", seeds=(0, 1, 2), fold_size=30)
    together = Predictions.joined([tested.predictions for tested in one.runs])
    expected = classification_metrics(together, "test")
    assert {name: number.value for name, number in one.metrics.items()} == pytest.approx(
        {name: expected[f"test/{name}"].value for name in METRICS}
    )
    assert len(one.values("macro_f1")) == 3


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_alike_is_seldom_told_apart_and_what_is_not_is(metric):
    alike = [differences_of([configuration("a", [s]), configuration("b", [s + 500])], metric)[0] for s in range(30)]
    assert sum(one.distinguishable for one in alike) <= 5  # 1.5 are expected, and more than 5 three times in 1000
    assert sum(one.number.low <= 0 <= one.number.high for one in alike) >= 25
    [found] = differences_of([configuration("a", skill=3.0), configuration("b", [7], skill=0.5)], metric)
    assert found.distinguishable and found.number.low > 0
    assert found.number.value == pytest.approx(
        configuration("a", skill=3.0).metrics[metric].value - configuration("b", [7], skill=0.5).metrics[metric].value
    )


@pytest.mark.parametrize("metric", METRICS)
def test_one_group_tells_nothing(metric):
    groups = ["same"] * 90
    [found] = differences_of(
        [configuration("a", skill=3.0, groups=groups), configuration("b", [7], 0.5, groups=groups)], metric
    )
    assert not found.distinguishable


def test_delong_is_that_of_two_classes():
    # Of two classes, both AUROCs are the same; DeLong's variance is that of the differences of their components.
    a, b = configuration("a", classes=2), configuration("b", [5], skill=0.9, classes=2)
    [found] = differences_of([a, b], "auroc")
    components = []
    for one in (a, b):
        scores, true = one.runs[0].predictions.probabilities[:, 1], one.runs[0].predictions.targets == 1
        beaten = (scores[true][:, None] > scores[~true]) + 0.5 * (scores[true][:, None] == scores[~true])
        components.append((beaten.mean(1), beaten.mean(0)))
    (first_true, first_false), (second_true, second_false) = components
    variance = np.var(first_true - second_true, ddof=1) / 45 + np.var(first_false - second_false, ddof=1) / 45
    normal = 2 * stats.norm.sf(abs(found.number.value) / np.sqrt(variance))
    assert found.number.value == pytest.approx(first_true.mean() - second_true.mean())
    assert found.p == pytest.approx(normal, rel=0.1)  # Student's instead of the normal distribution
    assert found.tests == ("compare_delong",)


def test_exchanging_answers_is_tried_in_all_ways_where_there_are_few():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (2, 6, 4)).astype(float)

    def metric(counts):
        return (2 * counts[..., :2] / np.maximum(counts[..., 2:], 1)).mean(-1)

    distances = []
    for way in np.ndindex(*[2] * 6):
        swap = np.array(way, bool)[:, None]
        a, b = np.where(swap, second, first).sum(0), np.where(swap, first, second).sum(0)
        distances.append(abs(metric(a) - metric(b)))
    expected = np.mean(np.round(distances, 9) >= round(distances[0], 9))
    assert exchange_test(first, second, metric) == pytest.approx(expected)
    assert exchange_test(first, first, metric) == 1


def test_seeds_count_beside_images():
    # The same answers for each seed: images alone would tell them apart.
    images = [configuration("a", [0], 3.0), configuration("b", [7], 0.5)]
    seeds = [configuration("a", [0, 1], 3.0), configuration("b", [7, 8], 0.5)]
    single, several = (differences_of(pair, "macro_f1")[0] for pair in (images, seeds))
    assert several.tests == ("compare_permutation_image", "compare_over_seeds")
    assert several.p > single.p


def test_photographs_on_which_two_differ_are_those_that_most_of_one_have_right():
    a, b = configuration("a", [0, 1, 2], 2.0), configuration("b", [7, 8, 9], 0.5)
    found = disagreements(a, b)
    rights = {image: (a.correct[image], b.correct[image]) for image in a.correct}
    assert {one.image for one in found} == {image for image, (x, y) in rights.items() if abs(x - y) > 0.5}
    gaps = [abs(one.first.probability - one.second.probability) for one in found]
    assert gaps == sorted(gaps, reverse=True)
    one = found[0]
    assert one.first_is_right == (one.first.right > one.second.right)
    assert one.target == "abc"[int(one.image[0].removesuffix(".png")) % 3]
