import pytest
import torch

from imgbench.models.layers import Dropout

NUMBER = 2**18


def dropped_ones(p, number=NUMBER):
    torch.manual_seed(0)
    return Dropout(p)(torch.ones(number))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(p):
    output = dropped_ones(p)
    deviation = (p * (1 - p) / NUMBER) ** 0.5  # of the share of a binomial distribution
    assert (output == 0).double().mean().item() == pytest.approx(p, abs=5 * deviation)
    assert output.double().mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))
    assert output[output != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)


def test_dropout_draws_each_of_the_four_lanes_of_a_random_number_alike_and_independently():
    keep = (dropped_ones(0.3) != 0).double()
    lanes = keep.view(-1, 4)
    assert lanes.mean(0).tolist() == pytest.approx([0.7] * 4, abs=5 * (0.21 * 4 / NUMBER) ** 0.5)
    centred = (keep - keep.mean()) / keep.std()
    for lag in range(1, 13):
        assert (centred[lag:] * centred[:-lag]).mean().abs() < 5 / NUMBER**0.5
    correlations = torch.corrcoef(lanes.T) - torch.eye(4)
    assert correlations.abs().max() < 5 / len(lanes) ** 0.5


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 5, 7)])
def test_dropout_takes_any_number_of_elements(shape):
    torch.manual_seed(0)
    output = Dropout(0.5)(torch.ones(shape))
    assert output.shape == shape
    assert set(output.unique().tolist()) <= {0, 2}


def test_dropout_is_the_identity_in_evaluation_and_at_rate_zero():
    images = torch.rand(2, 3, 4, 4)
    assert Dropout(0.5).eval()(images) is images
    assert Dropout(0.0)(images) is images


def test_dropout_keeps_the_channels_last_layout():
    torch.manual_seed(0)
    images = torch.rand(2, 8, 16, 16).add_(1).to(memory_format=torch.channels_last)
    output = Dropout(0.5)(images)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, torch.where(output != 0, 2 * images, 0))
    assert (output == 0).float().mean((0, 2, 3)).tolist() == pytest.approx([0.5] * 8, abs=0.12)


def test_dropout_takes_tensors_with_gaps():
    torch.manual_seed(0)
    images = torch.rand(4, 9).add_(1)[:, ::2]
    output = Dropout(0.5)(images)
    torch.testing.assert_close(output, torch.where(output != 0, 2 * images, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_type_and_its_gradient_is_the_scaled_mask(dtype):
    torch.manual_seed(0)
    images = torch.rand(64, 33, dtype=dtype).add_(1).requires_grad_()
    output = Dropout(0.75)(images)
    output.sum().backward()
    assert output.dtype == dtype
    assert images.grad is not None
    assert torch.equal(images.grad, torch.where(output != 0, 4, 0).to(dtype))


def test_dropout_follows_the_seed():
    layer, images = Dropout(0.5), torch.ones(1000)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(layer(images), layer(images))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_rates_that_are_none(p):
    with pytest.raises(ValueError, match=f"p={p}, but a dropout rate"):
        Dropout(p)


@pytest.mark.parametrize("p", [1e-7, 1 - 1e-7])
def test_dropout_stays_finite_at_extreme_rates(p):
    assert dropped_ones(p, 1000).isfinite().all()
