"""Images that are unlike those of training."""

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import ledoit_wolf

from imgbench.evaluation.novelty import FeatureDistribution


def test_distance_is_counted_in_standard_deviations_of_correlated_features():
    rng = np.random.default_rng(0)
    covariance = np.array([[4.0, 1.8], [1.8, 1.0]])
    found = FeatureDistribution.of(rng.multivariate_normal([3, -1], covariance, 50_000))
    points = np.array([[3, -1], [5, -1], [5, 0]])
    expected = [np.sqrt((p - [3, -1]) @ np.linalg.inv(covariance) @ (p - [3, -1])) for p in points]
    assert found.distances(points) == pytest.approx(expected, rel=0.05, abs=0.05)


def test_squared_distances_of_normal_features_have_the_chi_squared_distribution():
    rng = np.random.default_rng(0)
    found = FeatureDistribution.of(rng.normal(size=(20_000, 6)))
    assert stats.kstest(found.distances(rng.normal(size=(1000, 6))) ** 2, stats.chi2(6).cdf).pvalue > 0.01


def test_fewer_images_than_features_still_tell_what_is_far():
    rng = np.random.default_rng(0)
    found = FeatureDistribution.of(rng.normal(size=(20, 50)).astype(np.float32))
    assert found.distances(rng.normal(size=(50, 50))).max() < found.distances(rng.normal(5, 1, (50, 50))).min()


def test_features_that_are_all_the_same_are_no_division_by_zero():
    found = FeatureDistribution.of(np.ones((10, 3), np.float32))
    assert np.isfinite(found.distances(np.array([[1.0, 1, 1], [2, 1, 1]]))).all()


@pytest.mark.parametrize(("number", "size"), [(300, 8), (20, 50), (50, 50), (5, 5)])
def test_distances_are_those_of_the_shrunk_covariance(number, size):
    rng = np.random.default_rng(0)
    features = rng.normal(2, 1, (number, size)) @ rng.normal(size=(size, size))
    others = np.concatenate([features, 3 * rng.normal(size=(10, size))])
    covariance, _ = ledoit_wolf(features)
    precision = np.linalg.pinv(covariance, hermitian=True)
    centred = others - features.mean(0)
    expected = np.sqrt(((centred @ precision) * centred).sum(1))
    assert FeatureDistribution.of(features).distances(others) == pytest.approx(expected, rel=1e-3)
    assert FeatureDistribution.of_precision(features.mean(0), precision).distances(others) == pytest.approx(expected)


def test_direction_in_which_training_images_do_not_vary_counts_only_where_the_covariance_is_shrunk():
    rng = np.random.default_rng(0)
    varied = np.pad(rng.normal(size=(20, 2)), ((0, 0), (0, 1)))
    assert FeatureDistribution.of(varied).distances(np.array([[0.0, 0.0, 100.0]])) > 100
    two = FeatureDistribution.of(np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]))  # whose covariance nothing contradicts
    assert two.distances(np.array([[1.0, 2.0, 0.0], [2.0, 3.0, 5.0]])) == pytest.approx([1.0, 0.0], abs=1e-6)
