"""Whole batches in an order that a seed and the epoch fix, and that a checkpoint can take up again."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from digitsum.arrays import SumArrays

Batch = dict[str, Any]
"""`images` `(B, H, W)` uint8 or float32 in [0, 1], `index` `(B,)` int64, and where known `sums` `(B,)` int64."""


class Batches:
    """Batches of a split; a new order each epoch if `shuffle_seed` is given, else from first to last.

    One `index_select` gathers a whole batch, several times faster than a DataLoader that collects single samples, so
    that no worker processes are needed. The last batch may be smaller.

    Each `iter()` begins the epoch that `set_epoch` named, else the next one; the first after `load_state_dict` goes on
    where the saved epoch stood, unless `set_epoch` named another.

    Args:
        arrays: the split.
        batch_size: 1 or more.
        shuffle_seed: with the epoch's number it fixes the order.
    """

    def __init__(self, arrays: SumArrays, batch_size: int, shuffle_seed: int | None = None) -> None:
        assert batch_size >= 1
        self.arrays = arrays
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self._epoch = -1
        self._delivered = 0
        self._resumed = False
        self._next_epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` be epoch `epoch`, counted from 0."""
        self._next_epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        half_way = self._resumed and 0 < self._delivered < len(self)
        if not (half_way and self._next_epoch in (None, self._epoch)):
            self._epoch = self._epoch + 1 if self._next_epoch is None else self._next_epoch
            self._delivered = 0
        self._resumed, self._next_epoch = False, None
        order = self._order()
        for number in range(self._delivered, len(self)):
            index = order[number * self.batch_size : (number + 1) * self.batch_size]
            batch = {"images": self.arrays.images.gather(index), "index": index}
            if self.arrays.sums is not None:
                batch["sums"] = self.arrays.sums.index_select(0, index)
            self._delivered = number + 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: the epoch's number and how many of its batches were delivered."""
        return {"epoch": self._epoch, "delivered": self._delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next `iter()` go on from `state`."""
        self._epoch, self._delivered, self._resumed = state["epoch"], state["delivered"], True

    def _order(self) -> torch.Tensor:
        if self.shuffle_seed is None:
            return self.arrays.index
        # numpy mixes both numbers into the state; a torch CPU generator heeds only the low 32 bits of its seed
        order = np.random.default_rng([self.shuffle_seed, self._epoch]).permutation(len(self.arrays))
        return self.arrays.index[torch.from_numpy(order)]
