"""Measure what the reader's loss costs: its share of a training step, in turns on this machine.

    python scripts/benchmark.py                   40 rounds, about a minute
    python scripts/benchmark.py --rounds 10

Each round times one whole training step (bent images, network, loss, backward, Adam; batch 64, bfloat16 as in
experiment=reader, 40x168 images) and, apart, the loss alone, forward and backward, on that step's output. Prints
medians and the median ratio, and writes outputs/benchmarks/<time>/benchmark.json.
"""

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path

from console import PROJECT, keep_heap


def main() -> None:
    """Time the steps, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="how many steps to time (default 40)")
    parser.add_argument("--outputs-dir", type=Path, default=Path(PROJECT, "outputs"), help="where results go")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments.rounds}")
    keep_heap()

    import torch
    from tqdm import trange

    from digitsum.augmentation import Augmentation
    from digitsum.canvases import Layout, compose
    from digitsum.files import write_json
    from digitsum.glyphs import load_glyph_pools
    from digitsum.networks.reader import Reader
    from digitsum.records import environment

    torch.manual_seed(0)
    pool = load_glyph_pools("bundled")["train"]
    canvases, placements = compose(Layout(), pool, seed=0, stream=0, start=0, count=64)
    images, sums = torch.from_numpy(canvases), torch.from_numpy(placements.sums)
    augmentation = Augmentation(scale=0.1, slant=0.2, shift=2, warp=1.2)
    network = Reader((40, 168))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    steps, losses = [], []
    for number in trange(arguments.rounds + 3, desc="benchmark", unit=" steps"):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            output = network(augmentation(images))
            loss = network.loss(output, sums)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        middle = time.perf_counter()
        alone = output.detach().requires_grad_()
        begin_loss = time.perf_counter()
        network.loss(alone, sums).backward()
        if number >= 3:  # the first ones warm up
            steps.append(middle - begin)
            losses.append(time.perf_counter() - begin_loss)
    step, cost = torch.tensor(steps), torch.tensor(losses)
    result = {
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "step_ms": round(step.median().item() * 1e3, 2),
        "loss_ms": round(cost.median().item() * 1e3, 2),
        "loss_share": round((cost / step).median().item(), 4),
        "images_per_second": round(64 / step.median().item(), 1),
        **environment(Path(PROJECT)),
    }
    folder = arguments.outputs_dir / "benchmarks" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    write_json(folder / "benchmark.json", result)
    print(
        f"training step {result['step_ms']} ms ({result['images_per_second']} images/s), of these the loss "
        f"{result['loss_ms']} ms: {result['loss_share']:.1%} (medians of {arguments.rounds}, "
        f"{result['threads']} threads)\nwritten to {folder}"
    )


if __name__ == "__main__":
    from digitsum.errors import InputError

    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
