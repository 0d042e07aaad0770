"""The order in which an epoch sees the images of a split, fixed by a seed and the epoch's number.

An order is `(N,)` int64, each place in the split once: 8 MB for a million images.
"""

import numpy as np

BLOCK = 1_024
"""Images that lie together on the disk and are read together: 7 MB of 40x168 pixels, which even a spinning disk takes
many times longer to read than to find."""

WINDOW = 16 * BLOCK
"""Images that are shuffled together, of 16 blocks from anywhere: 110 MB, so that two windows fit into any memory."""


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
