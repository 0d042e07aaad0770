"""Training and prediction with the reference network: tutorial code, ours, and ours without a Trainer."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig, OmegaConf

from benchmarks.clocks import Found, Job, PeakMemory, StepClock, count_images
from benchmarks.textbook import textbook_loader, textbook_network
from digitsum.cli.build import build_datamodule, build_module, build_trainer, build_training, model_arguments, register
from digitsum.cli.console import tune_malloc
from digitsum.cli.project import PROJECT
from digitsum.data.batches import Batch, Batches
from digitsum.data.shards import SumDataset, open_shards
from digitsum.evaluation.predict import write_predictions
from digitsum.models.checkpoints import model_of, read_checkpoint
from digitsum.training.signals import Signals


class Textbook(L.LightningModule):
    """The tutorial's module: mean squared error and Adam, nothing else."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.net = textbook_network(image_size)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """One batch of images `(B, 1, H, W)` float and sums `(B,)` float."""
        images, sums = batch
        loss = F.mse_loss(self.net(images).squeeze(1), sums)
        self.log("train_loss", loss)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """One batch; returns the answers `(B,)`."""
        return self.net(batch[0]).squeeze(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam as it comes."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def train_textbook(job: Job) -> Found:
    """Tutorial code: its Trainer as it comes, with its own logger and checkpoint."""
    arrays = open_shards(Path(job.data, "train"))
    assert arrays.sums is not None
    loader = textbook_loader(arrays.images.gather(arrays.index), arrays.sums, shuffle=True)
    clock = StepClock(job)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator=job.accelerator,
        devices=1,
        limit_train_batches=job.warmup + job.steps,
        default_root_dir=job.scratch,
        callbacks=[LambdaCallback(on_train_batch_end=clock.on_train_batch_end)],
    )
    trainer.fit(Textbook(arrays.images.image_size), loader)
    return {"value": clock.speed}


def train_ours(job: Job) -> Found:
    """What scripts/train.py runs, through its config, with all its logging, metrics and callbacks."""
    clock, end = _fit(job, {"max_epochs": 1, "limit_train_batches": job.warmup + job.steps})
    return {"value": clock.speed, "end_of_epoch_seconds": end - clock.stopped}


def train_many(job: Job) -> Found:
    """The same for a number of steps, with epochs as long as they are, and the peak of the memory."""
    with PeakMemory() as peak:
        clock, _ = _fit(job, {"max_epochs": -1, "max_steps": job.warmup + job.steps, "limit_val_batches": 1})
    return {"value": clock.speed, "peak_mb": peak.megabytes}


def train_bare(job: Job) -> Found:
    """Our network, loss, optimiser and batches in a loop of a few lines."""
    clock, total = StepClock(job), job.warmup + job.steps
    for number, (batch, step) in enumerate(islice(_bare_steps(job), total), 1):
        step()
        clock.step(count_images(batch), last=number == total)
    return {"value": clock.speed}


def profile_bare(job: Job) -> Found:
    """Where the time of such a step goes, by torch's profiler; what it cannot name is `other`."""
    steps = _bare_steps(job)
    for _, step in islice(steps, job.warmup):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        begin = job.now()
        for _, step in islice(steps, job.steps):
            step()
        seconds = job.now() - begin
    spent = dict.fromkeys((*PARTS.values(), "other"), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for name, kind in PARTS.items() if event.key.startswith(name)), "other")
        spent[kind] += event.self_cpu_time_total / 1e3 / job.steps
    return {"value": 64 * job.steps / seconds, **{f"{kind} ms": milliseconds for kind, milliseconds in spent.items()}}


PARTS = {  # the beginning of a name in torch's profile: what it is in the reference network on a CPU
    "_BlankStepBackward": "first convolution backward",
    "_BlankStep": "first convolution with pooling",
    "_StepBackward": "second convolution backward",
    "aten::mkldnn_convolution": "second convolution",
    "aten::max_pool2d": "second pooling",
    "aten::addmm": "dense layers",
    "aten::mm": "dense layers backward",
    "aten::_fused_adamw_": "Adam",
    "aten::random_": "dropout",
    "aten::ge": "dropout",
    "aten::mul": "dropout",
}


def _bare_steps(job: Job) -> Iterator[tuple[Batch, Callable[[], None]]]:
    """Batches, each with what trains a step on it, for ever."""
    tune_malloc()
    cfg = _config("train", job, ["data=arrays"], {"data": {"root": job.data}})
    datamodule = build_datamodule(cfg)
    datamodule.setup()
    torch.manual_seed(cfg.seed)
    module = build_module(model_arguments(cfg), datamodule).to(job.device).train()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    loader = datamodule.train_dataloader()
    while True:
        for batch in loader:

            def step(batch: Batch = batch) -> None:
                loss = module.net.loss(module.net(batch["images"].to(job.device)), batch["sums"].to(job.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            yield batch, step


def predict_ours(job: Job) -> Found:
    """What scripts/predict.py does with a folder of shards, until predictions.csv is complete; figures apart."""
    tune_malloc()
    cfg = _config("predict", job, [], {})
    path, folder = Path(job.checkpoint), Path(job.scratch, "predictions")
    module = model_of(read_checkpoint(path), path)
    trainer = build_trainer(cfg, logger=False, callbacks=[], default_root_dir=job.scratch)
    arrays = open_shards(Path(job.data, job.split))
    few = SumDataset(arrays.images, arrays.sums, arrays.index[: 4 * cfg.batch_size])
    write_predictions(trainer, module, {"input": Batches(few, cfg.batch_size)}, folder)
    begin = time.time_ns()
    write_predictions(trainer, module, {"input": Batches(arrays, cfg.batch_size)}, folder)
    end, table = time.time_ns(), (folder / "predictions.csv").stat().st_mtime_ns
    return {
        "value": len(arrays) / (table - begin) * 1e9,
        "figures_seconds": (end - table) / 1e9,
        "batch_size": cfg.batch_size,
    }


def predict_textbook(job: Job) -> Found:
    """`Trainer.predict` of the tutorial code, which collects the answers and writes nothing."""
    arrays = open_shards(Path(job.data, job.split))
    assert arrays.sums is not None
    images, module = arrays.images.gather(arrays.index), Textbook(arrays.images.image_size)
    trainer = L.Trainer(accelerator=job.accelerator, devices=1, logger=False, default_root_dir=job.scratch)
    trainer.predict(module, textbook_loader(images[:256], arrays.sums[:256], shuffle=False))
    loader = textbook_loader(images, arrays.sums, shuffle=False)
    begin = job.now()
    trainer.predict(module, loader)
    return {"value": len(arrays) / (job.now() - begin)}


def _fit(job: Job, limits: dict[str, Any]) -> tuple[StepClock, float]:
    """Train with these arguments of the Trainer; returns the clock, and when `fit` came to its end."""
    tune_malloc()
    cfg = _config("train", job, ["data=arrays"], {"data": {"root": job.data}, "trainer": limits})
    datamodule = build_datamodule(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = build_training(cfg, Signals(), in_sweep=False)
    datamodule.prepare_data()
    datamodule.setup()
    module = build_module(model_arguments(cfg), datamodule)
    clock = StepClock(job)
    trainer.callbacks.append(LambdaCallback(on_train_batch_end=clock.on_train_batch_end))  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=datamodule)
    return clock, job.now()


def _config(name: str, job: Job, words: list[str], values: dict[str, Any]) -> DictConfig:
    """A script's config, with `values` in it that a command line would have to quote."""
    register()
    with initialize_config_dir(f"{PROJECT}/conf", version_base="1.3"):
        cfg = compose(name, [*words, f"trainer.accelerator={job.accelerator}"])
    folders = {"run_dir": str(Path(job.scratch, "run")), "outputs_dir": job.scratch}
    merged = OmegaConf.merge(cfg, folders, values)
    assert isinstance(merged, DictConfig)
    return merged
