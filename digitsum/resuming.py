"""What lets a run be stopped at any moment and go on as if it had not been: signals, random states, event files."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from digitsum.batches import Batches
from digitsum.errors import InputError
from digitsum.module import SumModule


class Interrupted(BaseException):
    """The run was asked to stop by SIGTERM or Ctrl-C; like KeyboardInterrupt no `Exception`, so that a sweep ends too.

    Attributes:
        signum: the signal's number; a shell's exit code for it is 128 more.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Signals:
    """Turns SIGTERM and Ctrl-C into `Interrupted`: at once, or while `deferred` at the next safe place.

    A second signal never waits.

    Attributes:
        deferred: whether the first signal waits for `check`.
    """

    def __init__(self) -> None:
        self.deferred = False
        self._pending: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals inside the block; in the main thread alone, as Python has it."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Become the only handler (again: Lightning adds one of its own, which stops without a checkpoint)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def check(self) -> None:
        """Raise the `Interrupted` that waits, if one does."""
        if self._pending is not None:
            raise Interrupted(self._pending)

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self._pending is not None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.deferred and self._pending is None:
            self._pending = signum
        else:
            raise Interrupted(signum)


class Resumable(Checkpoint):
    """Keeps `last.ckpt` such that training from it equals training without a stop, bit for bit on one machine.

    It adds to each checkpoint the random state (dropout, augmentation) and, in the middle of an epoch, the metrics'
    sums so far. It writes `last.ckpt` at the end of each epoch, every so many steps or minutes, and when a signal asks
    to stop, but never after an epoch's last batch, where validation is still to come. Put it behind the
    `ModelCheckpoint`: what that knows of the best epoch belongs to the checkpoint.

    Args:
        path: of `last.ckpt`.
        signals: who knows of a signal.
        every_n_steps: how often, or None.
        every_n_minutes: how often, or None.

    Raises:
        InputError: a number that is not positive.
    """

    def __init__(
        self,
        path: Path,
        signals: Signals,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        for name, value in (("save_every_n_steps", every_n_steps), ("save_every_n_minutes", every_n_minutes)):
            if value is not None and not value > 0:
                raise InputError(f"{name}: expected a positive number, got {value}")
        self.path = path
        self.signals = signals
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._saved = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._trainer: L.Trainer | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer: `state_dict` is called without it."""
        self._trainer = trainer

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take up the checkpoint's random state and sums, after everything that draws or resets them."""
        assert isinstance(pl_module, SumModule)
        self.signals.take_over()
        self.signals.deferred = True
        self._saved = time.monotonic()
        if self._restored is None:
            return
        torch.set_rng_state(self._restored["rng"].cpu())
        if self._restored["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda_rng"]])
        if self._restored["half_way"] is not None:
            for name, sums in self._restored["half_way"]["metrics"].items():
                for key, value in sums.items():
                    setattr(pl_module.running_metrics[name], key, value.to(pl_module.device))
            batches = trainer.train_dataloader
            assert isinstance(batches, Batches)
            batches.load_state_dict(self._restored["half_way"]["batches"])
        self._restored = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due, or asked for."""
        if batch_idx + 1 >= trainer.num_training_batches or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        minutes = (time.monotonic() - self._saved) / 60
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        late = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        if due or late or self.signals.pending:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = time.monotonic()
            self.signals.check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, after everything else has seen the epoch: Lightning calls `Checkpoint`s last, in their order."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A signal that came during validation waited for the end of the epoch and its checkpoint.

        The loader is told the epoch, because Lightning takes up a loader's state in the middle of an epoch alone.
        """
        self.signals.check()
        if isinstance(trainer.train_dataloader, Batches):
            trainer.train_dataloader.set_epoch(trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing is left to save: signals need not wait any more."""
        self.signals.deferred = False
        self.signals.check()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self.signals.deferred = False

    def state_dict(self) -> dict[str, Any]:
        """The random state and, in the middle of an epoch, the sums of the training metrics and the batches' place.

        Lightning keeps the loader's place as well, but forgets to restore it where a schedule asks how long the
        training is before the checkpoint's loops are loaded.
        """
        assert self._trainer is not None
        trainer, half_way = self._trainer, None
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready < trainer.num_training_batches:
            module = trainer.lightning_module
            assert isinstance(module, SumModule)
            half_way = {
                "batches": trainer.train_dataloader.state_dict(),  # type: ignore[union-attr]
                "metrics": {
                    name: {key: torch.as_tensor(value).clone() for key, value in metric.metric_state.items()}
                    for name, metric in module.running_metrics.items()
                },
            }
        return {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "half_way": half_way,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._restored = state_dict


def trim_events(folder: Path, step: int) -> None:
    """Drop from a run's TensorBoard files what was logged after the checkpoint of `step` that it resumes from.

    Everything logged during training up to a step is written before the checkpoint of that step. What a killed process
    logged after it will be logged again, and so will the summary at the end of a run (`test/...`, HPARAMS). A last
    record that was cut short is dropped as well.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return
    writer = EventFileWriter(str(folder), filename_suffix=".resumed")
    seen = set()  # a process killed in this very function leaves what it had copied twice
    for file in files:
        for event in LegacyEventFileLoader(str(file)).Load():
            tags = [value.tag for value in event.summary.value]
            kept = tags and event.step <= step and all(tag.startswith(("train/", "val/", "lr")) for tag in tags)
            if kept and (event.step, *tags) not in seen:
                seen.add((event.step, *tags))
                writer.add_event(event)
    writer.close()
    for file in files:
        file.unlink()
