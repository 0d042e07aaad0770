"""Whole batches in an order that seed and epoch fix, split over several processes, and resumed from a checkpoint."""

from collections.abc import Iterator
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from digitsum.data.shards import SumDataset

_CHUNK = 1_000  # images put on a device at once: bounds the memory beside it

BLOCK = 1_024
"""Images that lie together on the disk and are read together: 7 MB of 40x168 pixels, which even a spinning disk takes
many times longer to read than to find."""

WINDOW = 16 * BLOCK
"""Images that are shuffled together, of 16 blocks from anywhere: 110 MB, so that two windows fit into any memory."""


_BUCKETS = 16
"""Batches whose images are sorted by width together: little is blank then, and the order of an epoch is still new."""

_MARGIN = 8
"""Columns left blank behind the last ink of a batch, into which augmentation may move it."""


class Batch(TypedDict):
    """Images and what is known of them.

    Attributes:
        images: `(B, H, W)` uint8, or float32 in [0, 1].
        index: `(B,)` int64, their numbers in the folder.
        sums: `(B,)` int64, where they are known.
        digits: `(B, D)` int64, of images composed anew in training, from left to right; -1 behind the last one, and
            alone where they are not known.
        loss_weight: in one of several processes; see `Batches`.
        lines: of pictures (`digitsum.data.pictures`), which of its rows of digits each image is, from 1.
        changes: what was done to each picture, in words.
        warnings: why a picture may be outside of what a model knows, in words.
        num_components: how many pieces of ink a picture has, if they were counted.
        originals: each picture as it was, `(h, w)` uint8, small.
    """

    images: torch.Tensor
    index: torch.Tensor
    sums: NotRequired[torch.Tensor]
    digits: NotRequired[torch.Tensor]
    loss_weight: NotRequired[float]
    lines: NotRequired[list[int]]
    changes: NotRequired[list[str]]
    warnings: NotRequired[list[tuple[str, ...]]]
    num_components: NotRequired[list[int | None]]
    originals: NotRequired[list[np.ndarray | None]]


def full_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Every order of `count` places alike: each batch is from all over the disk, which must fit into memory then."""
    # numpy mixes both numbers into the state; a torch CPU generator heeds only the low 32 bits of its seed
    return np.random.default_rng([seed, epoch]).permutation(count)


def block_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Blocks of `BLOCK` consecutive places in random order, and each `WINDOW` places of that shuffled."""
    rng = np.random.default_rng([seed, epoch])
    blocks = rng.permutation(-(-count // BLOCK))
    order = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    order = order[order < count]  # the last block may be cut short, wherever it came
    for start in range(0, count, WINDOW):
        rng.shuffle(order[start : start + WINDOW])
    return order


def bucket_order(order: np.ndarray, widths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The places in `order`, such that the images of a batch are of like width (length bucketing).

    Of each 16 batches the images are sorted by width, and the batches shuffled. A last one that is not full keeps the
    last images of `order`.

    Args:
        order: `(N,)`, places.
        widths: `(N,)`, of the image at each place.
        batch_size: images a batch.
        seed: of the order of the batches.
        epoch: the same.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    whole = len(order) // batch_size * batch_size
    result = order.copy()
    for start in range(0, whole, _BUCKETS * batch_size):
        window = order[start : min(start + _BUCKETS * batch_size, whole)]
        batches = window[np.argsort(widths[window], kind="stable")].reshape(-1, batch_size)
        result[start : start + len(window)] = rng.permutation(batches).reshape(-1)
    return result


class Batches:
    """Batches of a split; a new order each epoch if `shuffle_seed` is given, else from first to last.

    A whole batch is gathered at once, several times faster than by a DataLoader that collects single samples, so that
    no worker processes are needed. The last batch may be smaller.

    Each `iter()` begins the epoch that `set_epoch` named, else the next one; the first after `load_state_dict` goes on
    where the saved epoch stood, unless `set_epoch` named another.

    Several processes have the same order, and of each batch every one takes a part: consecutive images, as many as the
    others or one more. A part of the last batch may be empty; it comes all the same, because the processes wait for
    each other at each batch. `loss_weight` is the part's size over the mean size of all parts: the mean over the
    processes of `loss_weight` times the mean loss of a part is the mean loss of the batch.

    Args:
        dataset: the split.
        batch_size: of all processes together; 1 or more.
        shuffle_seed: with the epoch's number it fixes the order.
        rank: which of the processes this is, from 0.
        world_size: how many processes there are.
        blocks: shuffle by `block_order`, and have the disk read ahead, not by `full_order`.
        device_cache: the whole split on a device, by `on_device`; batches are then gathered there.
        widths: `(N,)` int64, how many columns each image has up to its last ink. Shuffled batches are then made of
            images of like width (`bucket_order`) and cut behind their ink; for networks that take any width.
    """

    def __init__(
        self,
        dataset: SumDataset,
        batch_size: int,
        shuffle_seed: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        blocks: bool = False,
        device_cache: Batch | None = None,
        widths: torch.Tensor | None = None,
    ) -> None:
        assert batch_size >= 1
        assert 0 <= rank < world_size
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.rank = rank
        self.world_size = world_size
        self.blocks = blocks
        self.device_cache = device_cache
        self.widths = widths
        self._epoch = -1
        self._delivered = 0
        self._resumed = False
        self._next_epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` be epoch `epoch`, counted from 0."""
        self._next_epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        mid_epoch = self._resumed and 0 < self._delivered < len(self)
        if not (mid_epoch and self._next_epoch in (None, self._epoch)):
            self._epoch = self._epoch + 1 if self._next_epoch is None else self._next_epoch
            self._delivered = 0
        self._resumed, self._next_epoch = False, None
        order = torch.from_numpy(self._order())
        places = order if self.device_cache is None else order.to(self.device_cache["index"].device)
        asked = self._delivered * self.batch_size // WINDOW  # windows before this one need not be read any more
        for number in range(self._delivered, len(self)):
            start = number * self.batch_size
            count = min(self.batch_size, len(self.dataset) - start)
            while self._reads_ahead and asked <= (start + count - 1) // WINDOW + 1:
                self._read_ahead(order[asked * WINDOW : (asked + 1) * WINDOW])
                asked += 1
            first, last = (count * part // self.world_size for part in (self.rank, self.rank + 1))
            batch = self._gather(places[start + first : start + last])
            if self.widths is not None:
                width = int(self.widths[order[start : start + count]].max()) + _MARGIN
                batch["images"] = batch["images"][:, :, : -(-width // _MARGIN) * _MARGIN]
            if self.world_size > 1:
                batch["loss_weight"] = (last - first) * self.world_size / count
            self._delivered = number + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: the epoch's number and how many of its batches were delivered."""
        return {"epoch": self._epoch, "delivered": self._delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next `iter()` go on from `state`."""
        self._epoch, self._delivered, self._resumed = state["epoch"], state["delivered"], True

    def _order(self) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(len(self.dataset))
        shuffled = block_order if self.blocks else full_order
        order = shuffled(len(self.dataset), self.shuffle_seed, self._epoch)
        if self.widths is None:
            return order
        return bucket_order(order, self.widths.numpy(), self.batch_size, self.shuffle_seed, self._epoch)

    @property
    def _reads_ahead(self) -> bool:
        return self.blocks and self.shuffle_seed is not None and self.device_cache is None

    def _read_ahead(self, window: torch.Tensor) -> None:
        for block in (window // BLOCK).unique().tolist():
            index = self.dataset.index[block * BLOCK : (block + 1) * BLOCK]
            self.dataset.images.read_ahead(int(index[0]), int(index[-1]) + 1)

    def _gather(self, places: torch.Tensor) -> Batch:
        if (cache := self.device_cache) is not None:
            batch = Batch(images=cache["images"].index_select(0, places), index=cache["index"].index_select(0, places))
            if "sums" in cache:
                batch["sums"] = cache["sums"].index_select(0, places)
            return batch
        index = self.dataset.index[places]
        batch = Batch(images=self.dataset.images.gather(index), index=index)
        if self.dataset.sums is not None:
            batch["sums"] = self.dataset.sums[index]
        return batch


def ink_widths(dataset: SumDataset) -> torch.Tensor:
    """How many columns each image has up to its last one with ink, `(N,)` int64; 0 of a blank image. All are read."""
    columns = torch.arange(1, dataset.images.image_size[1] + 1)
    parts = dataset.index.split(_CHUNK)
    return torch.cat([((dataset.images.gather(part) > 0).any(1) * columns).amax(1) for part in parts])


def on_device(dataset: SumDataset, device: torch.device) -> Batch:
    """A whole split as one batch on `device`, from first to last."""
    images = torch.empty((len(dataset), *dataset.images.image_size), dtype=dataset.images.dtype, device=device)
    for part, index in zip(images.split(_CHUNK), dataset.index.split(_CHUNK), strict=True):
        part.copy_(dataset.images.gather(index))
    batch = Batch(images=images, index=dataset.index.to(device))
    if dataset.sums is not None:
        batch["sums"] = dataset.sums[dataset.index].to(device)
    return batch


def device_room(device: torch.device) -> int:
    """How many bytes of images to keep on a device: half of a GPU's free memory, and none elsewhere."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
