"""The parts alone: the machine's limit, batches, canvases, and the reader's loss.

Imports stand in the functions: a row waits for its own.
"""

import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.clocks import Found, Job, count_images
from digitsum.cli.console import tune_malloc

MATRICES = (1024, 2048, 4096)
"""The sides of the square matrices whose products are the limit."""


def limit(job: Job) -> Found:
    """How many images the machine could learn from if all it did were its best matrix product, in float32.

    Every operation of the textbook's network is counted: a way that skips some of them can be faster than this.
    """
    import torch

    from benchmarks.textbook import textbook_network, training_flops
    from digitsum.data.shards import open_shards

    image_size = open_shards(Path(job.data, "train")).images.image_size
    flops = training_flops(textbook_network(image_size), image_size)
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions on a GPU do without being told
    best = 0.0
    for size in MATRICES:
        a, b = (torch.randn(size, size, device=job.device) for _ in range(2))
        torch.mm(a, b)
        end = job.now() + job.seconds
        while (begin := job.now()) < end:
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (job.now() - begin))
    return {"value": best / flops, "gflop_per_second": best / 1e9, "gflop_per_image": flops / 1e9}


def load_ours(job: Job) -> Found:
    """Shuffled batches off the memory map, uint8."""
    tune_malloc()
    from digitsum.data.batches import Batches
    from digitsum.data.shards import open_shards

    return _read_all(job, Batches(open_shards(Path(job.data, "train")), 64, shuffle_seed=0))


def load_textbook(job: Job, num_workers: int = 0) -> Found:
    """Shuffled batches of a TensorDataset, float."""
    from benchmarks.textbook import textbook_loader
    from digitsum.data.shards import open_shards

    arrays = open_shards(Path(job.data, "train"))
    assert arrays.sums is not None
    images = arrays.images.gather(arrays.index)
    return _read_all(job, textbook_loader(images, arrays.sums, shuffle=True, num_workers=num_workers))


def load_textbook_workers(job: Job) -> Found:
    """The same with two worker processes."""
    return load_textbook(job, num_workers=2)


def _read_all(job: Job, batches: Iterable[Any]) -> Found:
    """Whole epochs, after one that warms up."""
    images, begin = 0, 0.0
    while not begin or time.perf_counter() < begin + job.seconds:
        images += sum(map(count_images, batches))
        if not begin:
            images, begin = 0, time.perf_counter()
    return {"value": images / (time.perf_counter() - begin)}


def compose_canvases(job: Job) -> Found:
    """Canvases of the default layout per second, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from digitsum.data.canvases import Layout, compose
    from digitsum.data.glyphs import load_glyph_pools

    pool, layout, size = load_glyph_pools("bundled")["train"], Layout(), 1_000
    compose(layout, pool, seed=0, stream=0, start=0, count=size)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + job.seconds:
        compose(layout, pool, seed=0, stream=0, start=count, count=size)
        count += size
    return {"value": count / (time.perf_counter() - begin)}


def reader_step(job: Job) -> Found:
    """A training step of the reader as experiment=reader has it, and the share of it that its loss takes.

    Each step is timed as a whole (augmentation, network, loss, backward, AdamW; 64 images, bfloat16), and then the loss
    alone, forward and backward, on that step's output.
    """
    tune_malloc()
    import torch

    from digitsum.data.augmentation import Augmentation
    from digitsum.data.batches import Batches
    from digitsum.data.shards import open_shards
    from digitsum.models.reader import Reader

    torch.manual_seed(0)
    batch = next(iter(Batches(open_shards(Path(job.data, "train")), 64)))
    images, sums = batch["images"].to(job.device), batch["sums"].to(job.device)
    augmentation = Augmentation(scale=0.1, shear=0.2, shift=2, elastic=1.2)
    network = Reader((images.shape[1], images.shape[2])).to(job.device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    steps, losses = [], []
    for number in range(3 + job.steps // 2):
        begin = job.now()
        with torch.autocast(job.device, torch.bfloat16):
            output = network(augmentation(images))
            loss = network.loss(output, sums)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        middle = job.now()
        alone = output.detach().requires_grad_()
        begin_loss = job.now()
        network.loss(alone, sums).backward()
        if number >= 3:  # the first ones warm up
            steps.append(middle - begin)
            losses.append(job.now() - begin_loss)
    step = statistics.median(steps)
    return {
        "value": len(images) / step,
        "step_ms": step * 1e3,
        "loss_ms": statistics.median(losses) * 1e3,
        "loss_share": statistics.median(loss / step for loss, step in zip(losses, steps, strict=True)),
    }
