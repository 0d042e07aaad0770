"""The reader's warm start."""

import numpy as np
import pytest
import torch

from digitsum.data.augmentation import Augmentation
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.shards import MemmapImages, SumDataset
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.registry import network_settings
from digitsum.training.warm_start import wants_warm_start, warm_start


def dataset(images, sums):
    return SumDataset(MemmapImages([images]), torch.from_numpy(sums), torch.arange(len(images)))


@pytest.fixture(scope="module")
def train():
    """A hundred composed canvases and their sums."""
    pool = load_glyph_pools("bundled")["train"]
    canvases, placed = compose(Layout(), pool, seed=0, stream=0, start=0, count=100)
    return dataset(canvases, placed.sums)


def make_module(network="reader", **options):
    torch.manual_seed(0)
    options = {"width": 2, "num_digits": 4, **options} if network == "reader" else options
    return SumModule(network, (40, 168), network_settings(network, options), OptimizerSettings(lr=2e-3))


def test_it_trains_the_network_in_place_and_says_so_in_one_line(train):
    module, fresh, steps = make_module(), make_module(), []
    labels, summary = warm_start(
        module, train, seed=0, steps=12, batch_size=8, augmentation=Augmentation(shift=1.0), progress=steps.append
    )
    assert labels.digits.sum(1).tolist() == train.sums[labels.index].tolist()
    assert "12 steps on their digits, loss" in summary
    assert "\n" not in summary
    assert sum(steps) == 12
    assert not torch.equal(module.net.symbols.weight, fresh.net.symbols.weight)
    assert module.net.training


def test_a_seeded_warm_start_repeats_itself_and_leaves_the_random_numbers_alone(train):
    weights, numbers = [], []
    for _ in range(2):
        module = make_module()
        torch.manual_seed(5)
        warm_start(module, train, seed=1, steps=4, batch_size=8, augmentation=Augmentation(shift=1.0))
        weights.append(module.net.symbols.weight.detach())
        numbers.append(torch.rand(1))
    torch.manual_seed(5)
    assert torch.equal(*weights)
    assert numbers[0] == numbers[1] == torch.rand(1)


def test_without_digits_the_network_stays_as_it_is():
    module, fresh = make_module(), make_module()
    labels, summary = warm_start(module, dataset(np.zeros((40, 40, 168), np.uint8), np.full(40, 18)), seed=0)
    assert labels is None
    assert summary.startswith("too few canvases fall apart cleanly (0 of 40)")
    assert all(torch.equal(*pair) for pair in zip(module.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize(
    ("setting", "network", "count", "wanted"),
    [
        ("auto", "reader", 6_000, True),
        ("auto", "reader", 6_001, False),
        ("clusters", "reader", 6_001, True),
        ("none", "reader", 100, False),
        ("auto", "two_conv", 100, False),
        ("clusters", "two_conv", 100, False),
    ],
)
def test_a_reader_with_few_images_wants_one_unless_told_otherwise(train, setting, network, count, wanted):
    few = SumDataset(train.images, train.sums, torch.zeros(count, dtype=torch.int64))
    assert wants_warm_start(setting, make_module(network), few) == wanted
