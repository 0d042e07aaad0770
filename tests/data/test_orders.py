"""Orders hold every place once; the block order also keeps neighbours on the disk together."""

import numpy as np
import pytest

from digitsum.data.batches import BLOCK, WINDOW, block_order, full_order

both = pytest.mark.parametrize("shuffled", [full_order, block_order])


@both
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, WINDOW, 3 * WINDOW + 5])
def test_every_place_comes_once(shuffled, count):
    order = shuffled(count, 0, 0)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(count))


@both
def test_seed_and_epoch_fix_the_order(shuffled):
    orders = {(seed, epoch): shuffled(5_000, seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    assert shuffled(5_000, 1, 2).tolist() == orders[1, 2]
    assert len(set(map(tuple, orders.values()))) == 9


def test_a_window_of_the_block_order_is_of_few_blocks_from_anywhere():
    order = block_order(10 * WINDOW + 5, 0, 0)
    for start in range(0, 10 * WINDOW, WINDOW):
        blocks = np.unique(order[start : start + WINDOW] // BLOCK)
        assert len(blocks) <= WINDOW // BLOCK + 1  # one more where the short last block shifted the rest
        assert np.ptp(blocks) > 2 * WINDOW // BLOCK


def test_a_window_of_the_block_order_is_shuffled_throughout():
    window = block_order(4 * WINDOW, 0, 0)[:WINDOW]
    assert all(len(np.unique(part // BLOCK)) > 12 for part in np.array_split(window, WINDOW // 64))
    places = np.argsort(np.argsort(window))
    assert abs(np.corrcoef(places, np.arange(WINDOW))[0, 1]) < 0.05
