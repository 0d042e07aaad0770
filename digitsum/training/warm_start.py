"""A warm start for the reader: a few steps of ordinary CTC on the digits that the sums of clean canvases give away.

From a few thousand sums alone the reader does not leave their mean. The digits that it begins with come from the same
sums (see `digitsum.training.pseudo_labels`); after it the reader is trained by all sums as ever.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from digitsum.data.augmentation import Augmentation
from digitsum.data.shards import SumDataset
from digitsum.models.module import SumModule
from digitsum.models.reader import Reader
from digitsum.models.sum_ctc import sequence_log_likelihood
from digitsum.training.pseudo_labels import PseudoLabels, label_by_sums

WARM_STARTS = ("auto", "clusters", "none")
"""`auto` is `clusters` for a reader and up to `AUTO_BELOW` training images, else `none`."""

AUTO_BELOW = 6_000

_MAX_CANVASES = 3_000  # whose digits are sought: more tell nothing new, and take minutes
_MAX_PIXELS = 2**28  # of all these canvases


def wants_warm_start(setting: str, module: SumModule, train: SumDataset) -> bool:
    """Whether `setting`, one of `WARM_STARTS`, asks for a warm start of this network from these images."""
    assert setting in WARM_STARTS
    return setting != "none" and isinstance(module.net, Reader) and (setting == "clusters" or len(train) <= AUTO_BELOW)


def warm_start(
    module: SumModule,
    train: SumDataset,
    *,
    seed: int,
    augmentation: Augmentation | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    progress: Callable[[int], None] | None = None,
) -> tuple[PseudoLabels | None, str]:
    """Train the reader of `module` in place on the digits that the sums give away.

    One cycle of the learning rate to `module.optimizer_settings.lr`, whatever the schedule of the training after it.
    The random numbers of the training after it do not depend on it.

    Args:
        module: its network is a `Reader`, which says how many digits are possible; it comes back on its own device.
        train: the training split, with sums.
        seed: of clusters, batches and augmentation.
        augmentation: of the images.
        steps: 2 or more; None for 150, or 600 where how many digits there are must be learned, too.
        batch_size: images a step; fewer where there are fewer.
        device: where to train.
        autocast: the context of a forward pass, for training in half precision.
        progress: called with the number of steps since the last call.

    Returns:
        The digits that it was trained on, if any; and one line: what was done, or why nothing was.
    """
    net = module.net
    assert isinstance(net, Reader)
    assert train.sums is not None
    rng = np.random.default_rng(seed)
    height, width = train.images.image_size
    limit = min(_MAX_CANVASES, max(1, _MAX_PIXELS // (height * width)))
    index = train.index
    if len(index) > limit:
        index = index[torch.from_numpy(np.sort(rng.choice(len(index), limit, replace=False)))]
    images, sums = train.images.gather(index), train.sums[index]
    labels, summary = label_by_sums(images.numpy(), sums.numpy(), net.counts, seed)
    if labels is None:
        return None, summary
    if steps is None:
        steps = 150 if net.counts.min == net.counts.max else 600
    home, was_training = module.device, net.training
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.manual_seed(seed)
        module.to(device)
        net.train()
        loss = _train(module, net, images, labels, rng, augmentation, steps, batch_size, autocast, progress)
        net.train(was_training)
        module.to(home)
    return labels, f"{summary}; {steps:,} steps on their digits, loss {loss:.2f}"


def _train(
    module: SumModule,
    net: Reader,
    images: torch.Tensor,
    labels: PseudoLabels,
    rng: np.random.Generator,
    augmentation: Augmentation | None,
    steps: int,
    batch_size: int,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    progress: Callable[[int], None] | None,
) -> float:
    """Train for `steps` steps on `images` `(N, H, W)`; returns the mean loss of the last tenth."""
    optimizer = module.make_optimizer()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, module.optimizer_settings.lr, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    index, digits = torch.from_numpy(labels.index), torch.from_numpy(labels.digits)
    losses = []
    for _, rows in zip(range(steps), _batches(len(index), batch_size, rng), strict=False):
        batch = images[index[rows]].to(module.device)
        if augmentation:
            batch = augmentation(batch)
        with autocast():
            output = net(batch)
        loss = -sequence_log_likelihood(output[:, 0], digits[rows].to(module.device)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if progress is not None:
            progress(1)
    return torch.stack(losses[-max(1, steps // 10) :]).mean().item()


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Full batches of rows `0` to `count - 1` without end, each row once before any comes again."""
    size = min(size, count)
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from order[: count // size * size].split(size)
