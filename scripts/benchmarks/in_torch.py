"""What scripts/benchmark.py measures with torch: ours, the textbook's, and the machine's limit.

    python scripts/benchmarks/in_torch.py training/bare '{"data": "FOLDER", ...}'     (see turns.py)

What takes long to import is imported in the methods: a row waits for its own.
"""

import functools
import itertools
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, TensorDataset

from digitsum.cli.console import tune_malloc
from digitsum.data.augmentation import Augmentation
from digitsum.data.batches import Batches, ink_widths
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.data.shards import SumDataset, open_shards

Found = dict[str, Any]


@dataclass
class Rows:
    """A method for each row, which returns what it found; told what `benchmarks.turns` says."""

    data: str
    scratch: str
    device: str
    warmup: int
    steps: int
    seconds: float
    sides: tuple[int, ...] = (1024, 2048, 4096)  # of the square matrices whose products are the limit

    def training_textbook(self) -> None:
        """Tutorial code, with Lightning's own logger and checkpoint; the clock prints what it found."""
        limits = {"max_epochs": 1, "limit_train_batches": self.warmup + self.steps}
        module, trainer = self._textbook(callbacks=[step_clock(self.warmup)], **limits)
        trainer.fit(module, textbook_loader(self._split("train"), shuffle=True))

    def training_bare(self) -> Found:
        """Our network, loss, optimiser and batches in a loop of a few lines."""
        return {"value": 64 / mean(seconds_of(self._step("two_conv"), 10 * self.seconds))}

    def training_limit(self) -> Found:
        """How many images the machine could learn from if all it did were its best matrix product, in float32.

        Every operation of the textbook's network is counted: a way that skips some of them can be faster than this.
        """
        from torch.utils.flop_counter import FlopCounterMode

        network, one, best = self._plain_network(), self._split("train", 1), 0.0
        with FlopCounterMode(display=False) as counter:
            network(one.images.gather(one.index)).sum().backward()
        flops = counter.get_total_flops()
        torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions on a GPU do without being told
        for side in self.sides:
            product = functools.partial(torch.mm, *torch.randn(2, side, side, device=self.device))
            best = max(best, 2 * side**3 / min(seconds_of(product, self.seconds)))
        return {"value": best / flops, "gflop_per_second": best / 1e9, "gflop_per_image": flops / 1e9}

    def prediction_ours(self, network: str = "two_conv") -> Found:
        """What scripts/predict.py does with a folder of shards, until predictions.csv is complete; figures apart."""
        import lightning as L

        from digitsum.evaluation.predict import write_predictions
        from digitsum.models.module import SumModule

        trainer, folder = L.Trainer(accelerator=self.device, devices=1, logger=False), Path(self.scratch, "predictions")
        for val in (self._split("val", 256), self._split("val")):  # the first one warms up
            module, begin = SumModule(network, val.images.image_size).eval(), time.time()
            write_predictions(trainer, module, {"input": Batches(val, module.net.prediction_batch_size)}, folder)
        end, table = time.time(), (folder / "predictions.csv").stat().st_mtime
        return {"value": len(val) / (table - begin), "figures_seconds": end - table}

    prediction_reader = functools.partialmethod(prediction_ours, "reader")

    def prediction_textbook(self) -> Found:
        """`Trainer.predict` of the tutorial code, which collects the answers and writes nothing."""
        module, trainer = self._textbook(logger=False)
        for val in (self._split("val", 256), self._split("val")):  # the first one warms up
            loader, begin = textbook_loader(val), time.time()
            trainer.predict(module, loader)
        return {"value": len(val) / (time.time() - begin)}

    def loading_ours(self) -> Found:
        """Whole epochs of shuffled batches off the memory map, uint8."""
        return self._loading(Batches(self._split("train"), 64, shuffle_seed=0))

    def loading_textbook(self, **options: Any) -> Found:
        """The same off a TensorDataset, float."""
        return self._loading(textbook_loader(self._split("train"), shuffle=True, **options))

    loading_workers = functools.partialmethod(loading_textbook, num_workers=2, persistent_workers=True)

    def composing_ours(self) -> Found:
        """Canvases of the default layout, on one core."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        pool, starts = load_glyph_pools("bundled")["train"], itertools.count(step=1_000)
        canvases = functools.partial(compose, Layout(), pool, seed=0, stream=0, count=1_000)
        return {"value": 1_000 / mean(seconds_of(lambda: canvases(start=next(starts)), self.seconds))}

    def reader_float32(self, dtype: torch.dtype = torch.float32, **options: Any) -> Found:
        """A training step of the reader as experiment=reader has it, and the share of it that its loss takes."""
        augment = Augmentation(scale=0.1, shear=0.2, shift=2, elastic=1.2)
        step = self._step("reader", augment, optimizer="muon", dtype=dtype, **{"cut": True, **options})
        whole, loss = mean(seconds_of(step, 10 * self.seconds)), median(seconds_of(step(), self.seconds))
        return {"value": 64 / whole, "loss_share": loss / whole}

    reader_bfloat16 = functools.partialmethod(reader_float32, torch.bfloat16)
    reader_uncut = functools.partialmethod(reader_float32, cut=False)
    reader_plain = functools.partialmethod(reader_float32, cut=False, fast=False)

    def formats_torch(self, format: str | None = None) -> Found:
        """What a reader answers in batches of 64, and one image at a time: itself, or exported to a format."""
        from digitsum.models.checkpoints import load_model
        from digitsum.models.export import export

        module, val, path = (
            load_model("reader"),
            self._split("val", 64),
            Path(self.scratch, f"exported.{'pt2' if format == 'torch_export' else format}"),
        )
        images = val.images.gather(val.index)
        if format is not None:
            export(module, path, images, format=format, width=images.shape[2])
        answer: Callable[[torch.Tensor], Any] = module.predict
        if format == "torch_export":
            answer = torch.export.load(path).module()
        elif format == "onnx":
            from digitsum.models.onnx_model import load_onnx

            answer = load_onnx(path).predict
        with torch.inference_mode():
            speeds = [n / mean(seconds_of(functools.partial(answer, images[:n]), self.seconds)) for n in (64, 1)]
        return {"value": speeds[0], "one_by_one": speeds[1]}

    formats_torch_export = functools.partialmethod(formats_torch, "torch_export")
    formats_onnx = functools.partialmethod(formats_torch, "onnx")

    def _split(self, name: str, most: int | None = None) -> SumDataset:
        """The images and sums of `train` or `val`, or the first of them."""
        found = open_shards(Path(self.data, name))
        return SumDataset(found.images, found.sums, found.index[:most])

    def _step(
        self,
        network: str,
        augment: Any = None,
        *,
        optimizer: str = "adam",
        dtype: torch.dtype = torch.float32,
        cut: bool = False,
        fast: bool = True,
    ) -> Callable[[], Any]:
        """A training step of 64 images, others each time, cut behind their ink or whole.

        It returns what does the step's loss alone again, forward and backward.
        """
        from digitsum.models.module import OptimizerSettings, SumModule
        from digitsum.models.registry import network_settings

        train = self._split("train")
        batches = Batches(train, 64, shuffle_seed=0, widths=ink_widths(train) if cut else None)
        endless = itertools.chain.from_iterable(itertools.repeat(batches))
        torch.manual_seed(0)
        settings = network_settings(network, {"fast": fast})
        module = SumModule(network, train.images.image_size, settings, OptimizerSettings(optimizer)).to(self.device)
        steps: Any = module.configure_optimizers()

        def step() -> Callable[[], None]:
            batch = next(endless)
            images, sums = batch["images"].to(self.device), batch["sums"].to(self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = module.net(augment(images) if augment else images)
                loss = module.net.loss(output, sums)
            steps.zero_grad()
            loss.backward()
            steps.step()
            return lambda: module.net.loss(output.detach().requires_grad_(), sums).backward()

        return step

    def _plain_network(self) -> torch.nn.Module:
        """The reference network of torch's own layers, laid out as they come (NCHW)."""
        from digitsum.models.two_conv import TwoConv, TwoConvSettings

        network = TwoConv(self._split("train").images.image_size, TwoConvSettings(fast=False))
        return network.to(memory_format=torch.contiguous_format)

    def _textbook(self, **options: Any) -> Any:
        """The tutorial's LightningModule, and its Trainer: as it comes, but on one device."""
        import lightning as L

        class Textbook(L.LightningModule):
            def __init__(self, net: torch.nn.Module) -> None:
                super().__init__()
                self.net = net

            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
                self.log("train_loss", loss)
                return loss

            def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                return self.net(batch[0])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.Adam(self.parameters(), lr=1e-3)

        trainer = L.Trainer(accelerator=self.device, devices=1, default_root_dir=self.scratch, **options)
        return Textbook(self._plain_network()), trainer

    def _loading(self, batches: Any) -> Found:
        seconds = mean(seconds_of(lambda: deque(batches, maxlen=0), self.seconds))
        return {"value": len(self._split("train")) / seconds}


def seconds_of(function: Callable[[], Any], at_least: float) -> list[float]:
    """How long `function` takes, after it has warmed up: again and again for `at_least` so many seconds."""
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).times


def step_clock(warmup: int) -> Any:
    """A callback that times the steps of a training after `warmup`, and prints what it found as a line of JSON.

    `value`, in images per second, is from the end of an epoch's first step to the end of its last. The clock waits for
    a GPU at these ends and not between.
    """
    from lightning.pytorch.callbacks import LambdaCallback

    ends: list[tuple[float, int, int]] = []  # when, the number of the batch in its epoch, how many images it has

    def on_train_batch_end(trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if torch.cuda.is_initialized() and batch_idx + 1 in (1, warmup, trainer.num_training_batches):
            torch.cuda.synchronize()
        ends.append((time.time(), batch_idx, len(batch["images"] if isinstance(batch, dict) else batch[0])))

    def on_fit_end(trainer: Any, module: Any) -> None:
        end_of_epoch = time.time() - ends[-1][0]
        steps = [(images, b - a) for (a, *_), (b, number, images) in itertools.pairwise(ends[warmup - 1 :]) if number]
        images, seconds = (sum(column) for column in zip(*steps, strict=True))
        found = {"value": images / seconds, "end_of_epoch_seconds": end_of_epoch, "peak_mb": own_memory()}
        print(json.dumps({**found, "threads": torch.get_num_threads(), "first_step": ends[0][0]}))

    return LambdaCallback(on_train_batch_end=on_train_batch_end, on_fit_end=on_fit_end)


def own_memory(status: Path = Path("/proc/self/status")) -> float | None:
    """The process's own memory in MB, without mapped files; under `tune_malloc` also its peak. None but on Linux."""
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / 1e6 if found else None


def textbook_loader(split: SumDataset, **options: Any) -> Any:
    """The tutorial's batches of 64, of images and sums that are kept in memory as float."""
    assert split.sums is not None
    tensors = TensorDataset(split.images.gather(split.index) / 255, split.sums[split.index].float())
    return DataLoader(tensors, 64, **options)


if __name__ == "__main__":
    row = sys.argv[1].replace("/", "_")
    if not row.endswith(("_textbook", "_workers", "_limit")):
        tune_malloc()  # as every script of ours does
    found = getattr(Rows(**json.loads(sys.argv[2])), row)()
    if found:
        print(json.dumps({**found, "threads": torch.get_num_threads()}))
