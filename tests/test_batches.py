"""Batches hold every image once an epoch, in an order that can be repeated and taken up again."""

from itertools import chain, islice

import pytest
import torch

from digitsum.arrays import ImageArrays, SumArrays
from digitsum.batches import Batches

NUM_IMAGES, BATCH_SIZE, NUM_BATCHES = 11, 4, 3


@pytest.fixture
def arrays():
    """Eleven of twenty images; image i is filled with i and has the sum 2 i."""
    images = torch.arange(20, dtype=torch.uint8)[:, None, None].expand(-1, 3, 5).numpy().copy()
    index = torch.tensor([0, 2, 3, 5, 7, 8, 11, 13, 16, 17, 19])
    return SumArrays(ImageArrays([images]), 2 * torch.arange(20), index)


def order(batches):
    """The images of the next epoch (or what is left of one), batch by batch."""
    return [batch["index"].tolist() for batch in batches]


def endless(batches):
    """Epoch after epoch."""
    while True:
        yield from batches


def flat(batches):
    return list(chain.from_iterable(batches))


# --- an epoch


def test_a_batch_has_images_index_and_sums_that_belong_together(arrays):
    for batch in Batches(arrays, BATCH_SIZE, shuffle_seed=0):
        assert set(batch) == {"images", "index", "sums"}
        assert (batch["images"].dtype, batch["index"].dtype, batch["sums"].dtype) == (
            torch.uint8,
            torch.int64,
            torch.int64,
        )
        assert batch["images"].shape == (len(batch["index"]), 3, 5)
        assert batch["images"][:, 1, 2].tolist() == batch["index"].tolist()
        assert batch["sums"].tolist() == (2 * batch["index"]).tolist()


def test_a_batch_without_known_sums_has_none(arrays):
    unknown = SumArrays(arrays.images, None, arrays.index)
    assert all(set(batch) == {"images", "index"} for batch in Batches(unknown, BATCH_SIZE))


@pytest.mark.parametrize("shuffle_seed", [None, 0, 7])
def test_every_image_of_the_split_comes_exactly_once_an_epoch(arrays, shuffle_seed):
    batches = Batches(arrays, BATCH_SIZE, shuffle_seed)
    for _ in range(3):
        assert sorted(flat(order(batches))) == arrays.index.tolist()


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 3]), (1, [1] * 11), (10, [10, 1]), (11, [11]), (64, [11])]
)
def test_the_last_batch_may_be_smaller(arrays, batch_size, sizes):
    batches = Batches(arrays, batch_size, shuffle_seed=0)
    assert [len(batch["index"]) for batch in batches] == sizes
    assert len(batches) == len(sizes)


def test_without_a_seed_the_order_is_from_first_to_last_each_epoch(arrays):
    batches = Batches(arrays, BATCH_SIZE)
    assert [flat(order(batches)) for _ in range(2)] == [arrays.index.tolist()] * 2


def test_each_epoch_has_another_order(arrays):
    batches = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    epochs = [flat(order(batches)) for _ in range(4)]
    assert len({tuple(epoch) for epoch in [*epochs, arrays.index.tolist()]}) == 5


def test_equal_seeds_give_equal_orders_whatever_the_global_seed(arrays):
    first, second = (Batches(arrays, BATCH_SIZE, shuffle_seed=5) for _ in range(2))
    expected = [order(first) for _ in range(3)]
    torch.manual_seed(99)
    assert [order(second) for _ in range(3)] == expected


def test_the_global_generator_is_left_alone(arrays):
    before = torch.get_rng_state()
    order(Batches(arrays, BATCH_SIZE, shuffle_seed=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbouring_seeds_share_no_order_with_each_others_epochs(arrays):
    seen = set()
    for seed in range(4):
        batches = Batches(arrays, BATCH_SIZE, shuffle_seed=seed)
        seen |= {tuple(flat(order(batches))) for _ in range(4)}
    assert len(seen) == 16


def test_the_order_does_not_depend_on_the_batch_size(arrays):
    assert flat(order(Batches(arrays, 3, shuffle_seed=0))) == flat(order(Batches(arrays, 5, shuffle_seed=0)))


# --- taken up again


@pytest.mark.parametrize("shuffle_seed", [None, 0])
@pytest.mark.parametrize("epochs", [0, 1, 2])
@pytest.mark.parametrize("delivered", range(NUM_BATCHES + 1))
def test_a_new_object_goes_on_where_the_state_was_saved(arrays, shuffle_seed, epochs, delivered):
    whole = list(islice(endless(Batches(arrays, BATCH_SIZE, shuffle_seed)), 6 * NUM_BATCHES))
    stopped = Batches(arrays, BATCH_SIZE, shuffle_seed)
    done = epochs * NUM_BATCHES + delivered
    iterator = endless(stopped)
    for _ in range(done):
        next(iterator)
    state = stopped.state_dict()

    resumed = Batches(arrays, BATCH_SIZE, shuffle_seed)
    resumed.load_state_dict(state)
    rest = list(islice(endless(resumed), 6 * NUM_BATCHES - done))
    assert [batch["index"].tolist() for batch in rest] == [batch["index"].tolist() for batch in whole[done:]]
    assert all(torch.equal(one["images"], two["images"]) for one, two in zip(rest, whole[done:], strict=True))


def test_a_state_saved_at_an_epochs_very_end_begins_the_next(arrays):
    stopped = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    order(stopped)  # exhausted, not only at its last batch
    resumed = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    resumed.load_state_dict(stopped.state_dict())
    assert [order(resumed), order(resumed)] == [order(stopped), order(stopped)]


def test_a_state_saved_before_the_first_batch_begins_the_first_epoch(arrays):
    expected = order(Batches(arrays, BATCH_SIZE, shuffle_seed=0))
    waiting = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    iter(waiting)  # begun, but nothing delivered
    for stopped in (waiting, Batches(arrays, BATCH_SIZE, shuffle_seed=0)):
        resumed = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
        resumed.load_state_dict(stopped.state_dict())
        assert order(resumed) == expected


def test_a_state_can_be_saved_again_before_anything_is_delivered(arrays):
    stopped = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    next(iter(stopped))
    resumed = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.state_dict() == stopped.state_dict()


def test_the_rest_of_an_epoch_is_followed_by_whole_epochs(arrays):
    stopped = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    next(iter(stopped))
    resumed = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    resumed.load_state_dict(stopped.state_dict())
    assert [len(order(resumed)) for _ in range(3)] == [NUM_BATCHES - 1, NUM_BATCHES, NUM_BATCHES]


def test_an_epoch_that_is_broken_off_is_followed_by_a_whole_one(arrays):
    batches = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    next(iter(batches))
    assert sorted(flat(order(batches))) == arrays.index.tolist()


def test_the_state_is_plain_numbers(arrays):
    batches = Batches(arrays, BATCH_SIZE, shuffle_seed=0)
    next(iter(batches))
    assert all(type(value) is int for value in batches.state_dict().values())
