"""What the configuration leaves open."""

import pytest

from imgbench.experiment.defaults import default_epochs, default_learning_rate


@pytest.mark.parametrize(("images", "epochs"), [(1, 200), (25, 200), (100, 100), (625, 40), (50_000, 40)])
def test_fewer_images_are_seen_more_often(images, epochs):
    assert default_epochs(images) == epochs


@pytest.mark.parametrize(
    ("normalises", "pretrained", "lr"), [(True, False, 3e-3), (True, True, 3e-4), (False, False, 3e-4)]
)
def test_large_steps_are_for_untrained_networks_with_batch_normalisation(normalises, pretrained, lr):
    assert default_learning_rate(normalises, pretrained) == lr


@pytest.mark.parametrize(("images", "epochs"), [(20, 10), (400, 6), (1500, 3), (100_000, 2)])
def test_fine_tuning_takes_few_epochs(images, epochs):
    assert default_epochs(images, tuned=True) == epochs


def test_fine_tuning_takes_small_steps():
    assert default_learning_rate(True, True, tuned=True) == 1e-4
