"""What a row of the benchmark is told, and what it measures with."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Found = dict[str, Any]
"""What a row found: `value`, its speed, and what is reported beside it."""


@dataclass
class Job:
    """What every row is told; plain values, for they travel as JSON.

    Attributes:
        data: a folder with `train/`, `val/` and `test/`, each with shards.
        scratch: a folder for what a row must write.
        checkpoint: of a trained reference network, for predictions.
        accelerator: `cpu` or `gpu`.
        warmup: steps before the clock starts, 1 or more.
        steps: steps that are timed, 1 or more.
        seconds: for how long to load, to compose and to multiply matrices of one size.
        split: which images to predict.
    """

    data: str
    scratch: str
    checkpoint: str = ""
    accelerator: str = "cpu"
    warmup: int = 10
    steps: int = 50
    seconds: float = 2.0
    split: str = "val"

    @property
    def device(self) -> str:
        """The device as torch calls it."""
        return "cuda" if self.accelerator == "gpu" else "cpu"

    def now(self) -> float:
        """The clock in seconds, read after the device has finished."""
        if self.accelerator == "gpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


class StepClock:
    """Adds up the time from the end of the last step that warms up to the end of the epoch's last step.

    In further epochs it starts at the end of their first step: what happens between epochs is not counted. It waits for
    the device when it starts and when it stops, not between.

    Attributes:
        images: how many were learnt from in that time.
        seconds: that time.
        stopped: when it stopped last, by `Job.now`.
    """

    def __init__(self, job: Job) -> None:
        self.images, self.seconds, self.stopped = 0, 0.0, 0.0
        self._job = job
        self._seen = 0
        self._begin: float | None = None

    def step(self, images: int, *, last: bool) -> None:
        """A step with so many images has ended, the last one of its epoch or not."""
        self._seen += 1
        if self._begin is not None:
            self.images += images
            if last:
                self.stopped = self._job.now()
                self.seconds += self.stopped - self._begin
                self._begin = None
        elif self._seen >= self._job.warmup and not last:
            self._begin = self._job.now()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook; the clock belongs behind the other callbacks, so that a step includes them."""
        last = batch_idx + 1 == trainer.num_training_batches or trainer.global_step == trainer.max_steps
        self.step(count_images(batch), last=last)

    @property
    def speed(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class PeakMemory:
    """Watches, inside a `with` block, the process's own memory (RssAnon, without mapped files; Linux alone).

    Attributes:
        megabytes: the most that was seen; None where the system does not say.
    """

    def __init__(self, read: Callable[[], str] = Path("/proc/self/status").read_text) -> None:
        self.megabytes: float | None = None
        self._read = read
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            try:
                fields = dict(line.split(":", 1) for line in self._read().splitlines())
                self.megabytes = max(self.megabytes or 0.0, int(fields["RssAnon"].split()[0]) * 1024 / 1e6)
            except (OSError, KeyError):
                return
            if self._done.wait(0.02):
                return


def first_step() -> Any:
    """A callback that ends the process, successfully, as soon as it has trained one step."""
    import torch
    from lightning.pytorch.callbacks import LambdaCallback

    def leave(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        os._exit(0)

    return LambdaCallback(on_train_batch_end=leave)


def count_images(batch: Any) -> int:
    """Of our batches, which are mappings, and of a DataLoader's, which are lists."""
    return len(batch["images"] if isinstance(batch, dict) else batch[0])
