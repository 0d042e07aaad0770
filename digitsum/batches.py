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

    Each `iter()` begins the next epoch, except the first one after `load_state_dict`, which goes on where the saved
    epoch stood.

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

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not (self._resumed and 0 < self._delivered < len(self)):
            self._epoch += 1
            self._delivered = 0
        self._resumed = False
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
