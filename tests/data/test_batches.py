"""Batches hold every image once an epoch, in an order that can be repeated and taken up again."""

from itertools import chain, islice

import numpy as np
import pytest
import torch

import digitsum.data.batches
from digitsum.data.batches import BLOCK, WINDOW, Batches, block_order, full_order, ink_widths, on_device
from digitsum.data.shards import MemmapImages, SumDataset

NUM_IMAGES, BATCH_SIZE, NUM_BATCHES = 11, 4, 3


@pytest.fixture
def arrays():
    """Eleven of twenty images; image i is filled with i and has the sum 2 i."""
    images = torch.arange(20, dtype=torch.uint8)[:, None, None].expand(-1, 3, 5).numpy().copy()
    index = torch.tensor([0, 2, 3, 5, 7, 8, 11, 13, 16, 17, 19])
    return SumDataset(MemmapImages([images]), 2 * torch.arange(20), index)


def order(batches):
    """The images of the next epoch (or what is left of one), batch by batch."""
    return [batch["index"].tolist() for batch in batches]


def endless(batches):
    """Epoch after epoch."""
    while True:
        yield from batches


def flat(batches):
    return list(chain.from_iterable(batches))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two images and windows of four."""
    for module in (digitsum.data.batches, digitsum.data.batches):
        monkeypatch.setattr(module, "BLOCK", 2)
        monkeypatch.setattr(module, "WINDOW", 4)


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
    unknown = SumDataset(arrays.images, None, arrays.index)
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


# --- shuffled by blocks


def test_blocks_are_shuffled_and_every_image_comes_once(arrays, small_blocks):
    batches = Batches(arrays, BATCH_SIZE, shuffle_seed=0, blocks=True)
    epochs = [flat(order(batches)) for _ in range(4)]
    assert all(sorted(epoch) == arrays.index.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, arrays.index.tolist()]}) == 5
    assert flat(order(Batches(arrays, 3, shuffle_seed=0, blocks=True))) == epochs[0]
    assert flat(order(Batches(arrays, BATCH_SIZE, shuffle_seed=0))) != epochs[0]


@pytest.mark.parametrize("delivered", range(NUM_BATCHES + 1))
def test_blocks_go_on_where_the_state_was_saved(arrays, small_blocks, delivered):
    whole = list(islice(endless(Batches(arrays, BATCH_SIZE, 0, blocks=True)), 2 * NUM_BATCHES))
    stopped, resumed = (Batches(arrays, BATCH_SIZE, 0, blocks=True) for _ in range(2))
    for _ in islice(endless(stopped), delivered):
        pass
    resumed.load_state_dict(stopped.state_dict())
    rest = list(islice(endless(resumed), 2 * NUM_BATCHES - delivered))
    assert [batch["index"].tolist() for batch in rest] == [batch["index"].tolist() for batch in whole[delivered:]]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 9, 64])
@pytest.mark.parametrize("begin", [0, 1])
def test_images_are_read_ahead_before_they_are_used_and_no_further_than_a_window(
    arrays, small_blocks, monkeypatch, batch_size, begin
):
    asked, distance = set(), []
    batches = Batches(arrays, batch_size, shuffle_seed=0, blocks=True)
    for _ in islice(batches, begin):
        pass
    saved = batches.state_dict()
    images, gather = arrays.images, arrays.images.gather

    def checked(index):
        assert set(index.tolist()) <= asked
        distance.append(len(asked & set(arrays.index.tolist())))
        return gather(index)

    monkeypatch.setattr(images, "read_ahead", lambda first, last: asked.update(range(first, last)))
    monkeypatch.setattr(images, "gather", checked)
    resumed = Batches(arrays, batch_size, shuffle_seed=0, blocks=True)
    resumed.load_state_dict(saved)
    seen = 0
    for batch in resumed:
        seen += len(batch["index"])
        # the window of the last image, the next, and a block that two windows share
        assert distance.pop() <= seen + 2 * 4 + 2
    assert asked >= set(batch["index"].tolist())


def test_nothing_is_read_ahead_where_images_come_in_order_or_from_everywhere(arrays, small_blocks, monkeypatch):
    monkeypatch.setattr(arrays.images, "read_ahead", None)
    order(Batches(arrays, BATCH_SIZE, shuffle_seed=0))
    order(Batches(arrays, BATCH_SIZE, blocks=True))
    order(Batches(arrays, BATCH_SIZE, 0, blocks=True, device_cache=on_device(arrays, torch.device("cpu"))))


# --- several processes


@pytest.mark.parametrize("shuffle_seed", [None, 0])
@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 2), (4, 3), (4, 4), (5, 2), (64, 3), (64, 12)])
def test_the_parts_of_all_processes_are_the_batches_of_one(arrays, shuffle_seed, batch_size, world_size):
    single = Batches(arrays, batch_size, shuffle_seed)
    parts = [Batches(arrays, batch_size, shuffle_seed, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(single)}
    for _ in range(2):
        for whole, *cut in zip(single, *parts, strict=True):
            for name in ("images", "index", "sums"):
                assert torch.equal(torch.cat([part[name] for part in cut]), whole[name])
            sizes = [len(part["index"]) for part in cut]
            assert max(sizes) - min(sizes) <= 1


def test_a_part_may_be_empty_and_comes_all_the_same(arrays):
    *_, last = Batches(arrays, BATCH_SIZE, rank=0, world_size=4)  # three images are left for four processes
    assert last["images"].shape == (0, 3, 5)
    assert (last["images"].dtype, last["sums"].shape, last["loss_weight"]) == (torch.uint8, (0,), 0.0)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_losses_weighed_by_their_share_average_to_that_of_the_whole_batch(arrays, world_size):
    parts = [Batches(arrays, BATCH_SIZE, 0, rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *cut in zip(Batches(arrays, BATCH_SIZE, 0), *parts, strict=True):
        assert all(type(part["loss_weight"]) is float for part in cut)
        losses = [part["loss_weight"] * part["sums"].double().mean().item() for part in cut if len(part["sums"])]
        assert sum(losses) / world_size == pytest.approx(whole["sums"].double().mean().item())


def test_a_single_process_has_no_share(arrays):
    assert all("loss_weight" not in batch for batch in Batches(arrays, BATCH_SIZE))


def test_every_process_goes_on_from_the_state_of_any(arrays):
    parts = [Batches(arrays, BATCH_SIZE, 0, rank=rank, world_size=2) for rank in range(2)]
    expected = []
    for part in parts:
        iterator = endless(part)
        next(iterator)
        expected.append([next(iterator)["index"].tolist() for _ in range(4)])
    stopped = Batches(arrays, BATCH_SIZE, 0, rank=1, world_size=2)
    next(iter(stopped))
    for rank in range(2):
        resumed = Batches(arrays, BATCH_SIZE, 0, rank=rank, world_size=2)
        resumed.load_state_dict(stopped.state_dict())
        assert [batch["index"].tolist() for batch in islice(endless(resumed), 4)] == expected[rank]


# --- kept on a device


cuda = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
@pytest.mark.parametrize("options", [{}, {"shuffle_seed": 0}, {"shuffle_seed": 0, "rank": 1, "world_size": 4}])
def test_batches_on_a_device_are_those_from_the_disk(arrays, monkeypatch, device, dtype, options):
    monkeypatch.setattr(digitsum.data.batches, "_CHUNK", 4)
    pixels = arrays.images.gather(torch.arange(20)) / (1 if dtype == torch.uint8 else 255)
    stored = SumDataset(MemmapImages([pixels.to(dtype).numpy()]), arrays.sums, arrays.index)
    mapped = Batches(stored, BATCH_SIZE, **options)
    kept = Batches(stored, BATCH_SIZE, **options, device_cache=on_device(stored, torch.device(device)))
    for _ in range(2):
        for one, two in zip(kept, mapped, strict=True):
            assert one.keys() == two.keys()
            for name in ("images", "index", "sums"):
                assert one[name].device.type == device
                assert one[name].dtype == two[name].dtype
                assert torch.equal(one[name].cpu(), two[name])
            assert one.get("loss_weight") == two.get("loss_weight")


def test_images_without_sums_are_kept_on_a_device_as_well(arrays):
    unknown = SumDataset(arrays.images, None, arrays.index)
    kept = Batches(unknown, BATCH_SIZE, device_cache=on_device(unknown, torch.device("cpu")))
    assert all(set(batch) == {"images", "index"} for batch in kept)


def test_batches_on_a_device_go_on_where_those_from_the_disk_stopped(arrays):
    stopped = Batches(arrays, BATCH_SIZE, 0)
    next(iter(stopped))
    resumed = Batches(arrays, BATCH_SIZE, 0, device_cache=on_device(arrays, torch.device("cpu")))
    resumed.load_state_dict(stopped.state_dict())
    assert order(resumed) == order(Batches(arrays, BATCH_SIZE, 0))[1:]


# --- orders


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


# --- images of like width


@pytest.fixture
def narrow():
    """Two hundred images of 4x200, whose ink ends anywhere: image i has the sum i."""
    widths = np.random.default_rng(0).integers(0, 201, 200)
    widths[:2] = 0, 200
    images = (np.arange(200) < widths[:, None, None]) * np.full((1, 4, 1), 9, np.uint8)
    return SumDataset(MemmapImages([images]), torch.arange(200), torch.arange(200)), torch.from_numpy(widths)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_last_column_with_ink_is_found(narrow, dtype, monkeypatch):
    monkeypatch.setattr(digitsum.data.batches, "_CHUNK", 7)
    dataset, widths = narrow
    images = dataset.images.gather(dataset.index).numpy().astype(dtype) / (1 if dtype == np.uint8 else 255)
    index = torch.arange(1, 200, 3)
    assert ink_widths(SumDataset(MemmapImages([images.astype(dtype)]), None, index)).tolist() == widths[index].tolist()


def test_batches_of_like_width_hold_every_image_once_and_all_of_its_ink(narrow):
    dataset, widths = narrow
    batches = Batches(dataset, 6, 0, widths=widths)
    epochs = [list(batches), list(batches)]
    orders = [[batch["index"].tolist() for batch in epoch] for epoch in epochs]
    assert orders[0] != orders[1]
    for epoch in epochs:
        assert sorted(flat(batch["index"].tolist() for batch in epoch)) == list(range(200))
        for batch in epoch:
            assert torch.equal(batch["sums"], batch["index"])
            ink = widths[batch["index"]]
            assert torch.equal((batch["images"][:, 0] > 0).sum(1), ink)
            assert batch["images"].shape[2] == min(200, -(-(int(ink.max()) + 8) // 8) * 8)
    pixels = sum(batch["images"].shape[2] * len(batch["index"]) for batch in epochs[0]) / 200
    assert pixels < 125, "on average images of 100 columns, at random in batches up to 180"


def test_an_epoch_of_like_widths_is_resumed_and_shared_among_processes(narrow):
    dataset, widths = narrow
    whole = order(Batches(dataset, 6, 5, widths=widths))
    first = Batches(dataset, 6, 5, widths=widths)
    seen = [batch["index"].tolist() for batch in islice(first, 10)]
    second = Batches(dataset, 6, 5, widths=widths)
    second.load_state_dict(first.state_dict())
    assert seen + order(second) == whole
    parts = [list(Batches(dataset, 6, 5, rank=rank, world_size=2, widths=widths)) for rank in (0, 1)]
    assert [one["index"].tolist() + two["index"].tolist() for one, two in zip(*parts, strict=True)] == whole
    assert all(one["images"].shape[2] == two["images"].shape[2] for one, two in zip(*parts, strict=True))
