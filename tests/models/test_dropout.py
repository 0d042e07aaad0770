"""Dropout by random bytes drops as often as torch's, and as independently."""

import pytest
import torch

from digitsum.models.fast_layers import Dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.3, 1 / 256])
def test_so_many_are_dropped_and_the_others_scaled(p):
    torch.manual_seed(0)
    x = torch.full((100, 9_999), 3.0)
    out = Dropout(p)(x)
    kept = out != 0
    assert torch.allclose(out[kept], torch.tensor(3 / (1 - p)))
    assert (~kept).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)


@pytest.mark.parametrize("offset", [1, 2, 7, 8, 9])
def test_neighbours_are_dropped_independently(offset):
    """Each byte of a random word drops a quarter, whatever the others do, the word's last and first ones among them."""
    torch.manual_seed(0)
    dropped = Dropout(0.25)(torch.ones(800_000)) == 0
    for place in range(8):
        one = dropped[place::8][: 100_000 - 2]
        other = dropped[place + offset :: 8][: 100_000 - 2]
        deviation = (0.25 * 0.75 / len(one)) ** 0.5
        assert one.double().mean().item() == pytest.approx(0.25, abs=5 * deviation)
        assert (one & other).double().mean().item() == pytest.approx(0.0625, abs=5 * deviation)


def test_the_gradient_passes_where_the_feature_did():
    torch.manual_seed(0)
    x = torch.rand(50, 21, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, torch.where(out > 0, 2.0, 0.0))


def test_equal_seeds_give_equal_masks_and_others_do_not():
    x, dropout, masks = torch.ones(1000), Dropout(0.25), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(dropout(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[2], dropout(x))


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_in_evaluation_and_at_a_rate_of_zero_nothing_changes(p):
    x = torch.rand(10, 3)
    assert torch.equal(Dropout(p).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_half_precision_stays_half_precision():
    assert Dropout(0.25)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_no_features_are_no_mistake():
    assert Dropout(0.25)(torch.ones(0, 5)).shape == (0, 5)
