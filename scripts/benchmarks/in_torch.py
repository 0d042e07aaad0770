"""What scripts/benchmark.py measures with torch, a row in each process: ours, the textbook's, the machine's limit."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.benchmark import Measurement, Timer
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from digitsum.cli.console import tune_malloc
from digitsum.data.augmentation import Augmentation
from digitsum.data.batches import Batches, ink_widths
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.shards import SumDataset, open_shards
from digitsum.evaluation.predict import write_predictions
from digitsum.models.checkpoints import load_model
from digitsum.models.export import export
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.onnx_model import load_onnx
from digitsum.models.reader import ReaderSettings
from digitsum.models.two_conv import TwoConv, TwoConvSettings


@dataclass
class Rows:
    """What measures the rows and returns what it found: `value` and numbers beside it. The fields are a row's job."""

    data: str  # a folder with `train/` and `val/`, each with shards
    scratch: str  # a folder for what it writes
    device: str  # `cpu` or `cuda`
    warmup: int  # how many steps of a training come before the clock starts, 1 or more
    steps: int  # and how many are timed, 1 or more
    seconds: float  # for how long to do anything else

    def measure(self, name: str) -> dict[str, float]:
        """Measure a row by its own method, or by that of its section, which is told the rest of its name."""
        section, _, row = name.partition("/")
        own = getattr(self, f"{section}_{row}", None)
        return own() if own else getattr(self, section)(row)

    def training_textbook(self) -> dict[str, float]:
        """Tutorial code, with Lightning's own logger and checkpoint; the clock prints what it found."""
        train, clock = self._split("train"), step_clock(self.warmup)
        trainer = self._trainer(max_epochs=1, limit_train_batches=self.warmup + self.steps, callbacks=[clock])
        trainer.fit(_Textbook(train.images.image_size), _textbook_loader(train, shuffle=True))
        return {}

    def training_bare(self) -> dict[str, float]:
        """Our network, loss, optimiser and batches in a loop of a few lines."""
        train = self._split("train")
        step = self._step(SumModule("two_conv", train.images.image_size), Batches(train, 64, shuffle_seed=0))
        return {"value": 64 / measured(step, 10 * self.seconds).mean}

    def training_limit(self, sides: tuple[int, ...] = (1024, 2048, 4096)) -> dict[str, float]:
        """How many images the machine could learn from if all it did were its best product of squares, in float32.

        Every operation of the textbook's network is counted: a way that skips some of them can be faster than this.
        """
        train, best = self._split("train", 1), 0.0
        with FlopCounterMode(display=False) as counter:
            _Textbook(train.images.image_size).net(next(iter(_textbook_loader(train)))[0]).sum().backward()
        flops = counter.get_total_flops()
        torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions on a GPU do without being told
        for side in sides:
            product = partial(torch.mm, *torch.randn(2, side, side, device=self.device))
            best = max(best, 2 * side**3 / min(measured(product, self.seconds).times))
        return {"value": best / flops, "gflop_per_second": best / 1e9, "gflop_per_image": flops / 1e9}

    def prediction(self, row: str) -> dict[str, float]:
        """What scripts/predict.py does with a folder of shards, until predictions.csv is complete; figures apart."""
        network = "reader" if row == "reader" else "two_conv"
        trainer, folder = self._trainer(logger=False), Path(self.scratch, "predictions")
        for val in (self._split("val", 256), self._split("val")):  # the first one warms up
            module = SumModule(network, val.images.image_size).eval()
            begin = time.time()
            write_predictions(trainer, module, {"input": Batches(val, module.net.prediction_batch_size)}, folder)
        end, table = time.time(), (folder / "predictions.csv").stat().st_mtime
        return {"value": len(val) / (table - begin), "figures_seconds": end - table}

    def composing(self, row: str) -> dict[str, float]:
        """Canvases of the default layout, on one core: NumPy uses no more for them."""
        pool, starts = load_glyph_pools("bundled")["train"], count(step=1_000)
        canvases = partial(compose, Layout(), pool, seed=0, stream=0, count=1_000)
        return {"value": 1_000 / measured(lambda: canvases(start=next(starts)), self.seconds).mean}

    def reader(self, row: str) -> dict[str, float]:
        """A training step as experiment=reader has it, or had it in version 0.4."""
        train, cut = self._split("train"), row in ("float32", "bfloat16")
        settings, optimizer = ReaderSettings(), OptimizerSettings("muon")
        if row == "of_0_4":
            settings, optimizer = ReaderSettings(width=32, depth=4, fast=False), OptimizerSettings("adam")
        module = SumModule("reader", train.images.image_size, settings, optimizer)
        batches = Batches(train, 64, shuffle_seed=0, widths=ink_widths(train) if cut else None)
        augment = Augmentation(scale=0.1, shear=0.2, shift=2, elastic=1.2)
        step = self._step(module, batches, augment, bfloat16=row == "bfloat16")
        return {"value": 64 / measured(step, 10 * self.seconds).mean}

    def formats(self, row: str) -> dict[str, float]:
        """What a reader answers in batches of 64, and one image at a time: itself, or exported to the format `row`."""
        module, path = load_model("reader"), Path(self.scratch, "exported.pt2")
        (batch,) = Batches(self._split("val", 64), 64)
        images, answer = batch["images"], module.predict
        if row != "torch":
            export(module, path, images, format=row, width=images.shape[2])
            answer = load_onnx(path).predict if row == "onnx" else torch.export.load(path).module()
        with torch.inference_mode():
            speeds = [n / measured(partial(answer, images[:n]), self.seconds).mean for n in (64, 1)]
        return {"value": speeds[0], "one_by_one": speeds[1]}

    def _split(self, name: str, most: int | None = None) -> SumDataset:
        """The images and sums of `train` or `val`, or the first of them."""
        found = open_shards(Path(self.data, name))
        return SumDataset(found.images, found.sums, found.index[:most])

    def _trainer(self, **options: Any) -> L.Trainer:
        """A Trainer as it comes, but on one device."""
        return L.Trainer(accelerator=self.device, devices=1, default_root_dir=self.scratch, **options)

    def _step(self, module: SumModule, batches: Batches, augment: Any = None, *, bfloat16: bool = False) -> Callable:
        """A training step, of other images each time."""
        endless, optimizer = chain.from_iterable(repeat(batches)), module.to(self.device).make_optimizer()

        def step() -> None:
            batch = next(endless)
            images, sums = batch["images"].to(self.device), batch["sums"].to(self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=bfloat16):
                loss = module.net.loss(module.net(augment(images) if augment else images), sums)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


class _Textbook(L.LightningModule):
    """The tutorial's module, with the reference network of torch's own layers, laid out as they come (NCHW)."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.net = TwoConv(image_size, TwoConvSettings(fast=False)).to(memory_format=torch.contiguous_format)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def _textbook_loader(split: SumDataset, *, shuffle: bool = False) -> DataLoader:
    """The tutorial's batches of 64, of images and sums that are kept in memory as float."""
    (whole,) = Batches(split, len(split))
    return DataLoader(TensorDataset(whole["images"] / 255, whole["sums"].float()), 64, shuffle)


def step_clock(warmup: int) -> LambdaCallback:
    """A callback that times the steps of a training after `warmup`, and prints what it found as a line of JSON.

    `value`, in images per second, is from the end of an epoch's first step to the end of its last. The clock waits for
    a GPU at these ends and not between.
    """
    ends: list[float] = []  # of all steps
    timed: list[tuple[int, float]] = []  # of some steps, how many images they had and their seconds

    def on_train_batch_end(trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if torch.cuda.is_initialized() and batch_idx + 1 in (1, warmup, trainer.num_training_batches):
            torch.cuda.synchronize()
        ends.append(time.time())
        if len(ends) > warmup and batch_idx:  # before an epoch's first step is whatever comes between two epochs
            timed.append((len(batch["images"] if isinstance(batch, dict) else batch[0]), ends[-1] - ends[-2]))

    def on_fit_end(trainer: Any, module: Any) -> None:
        end_of_epoch, (images, seconds) = time.time() - ends[-1], map(sum, zip(*timed, strict=True))
        found = {"value": images / seconds, "end_of_epoch_seconds": end_of_epoch, "peak_mb": own_memory()}
        print(json.dumps({**found, "threads": torch.get_num_threads(), "first_step": ends[0]}))

    return LambdaCallback(on_train_batch_end=on_train_batch_end, on_fit_end=on_fit_end)


def own_memory(status: Path = Path("/proc/self/status")) -> float | None:
    """The process's own memory in MB, without mapped files; under `tune_malloc` also its peak. None but on Linux."""
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else None


def measured(function: Callable[[], Any], at_least: float) -> Measurement:
    """How long `function` takes, after it has warmed up: again and again for `at_least` so many seconds."""
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least)


if __name__ == "__main__":
    name, job = sys.argv[1:]
    if not name.endswith(("/textbook", "/limit")):
        tune_malloc()  # as every script of ours does
    found = Rows(**json.loads(job)).measure(name)
    if found:
        print(json.dumps({**found, "threads": torch.get_num_threads()}))
