"""What lets a run be stopped at any moment and go on as if it had not been: random states, places, events."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from digitsum.data.batches import Batches
from digitsum.errors import InputError
from digitsum.training.callbacks import has_stepped
from digitsum.training.signals import Signals


class Resumable(Checkpoint):
    """Keeps `last.ckpt` such that training from it equals training without a stop, bit for bit on one machine.

    It adds to each checkpoint the random state and, in the middle of an epoch, the metrics' sums so far, of each of the
    run's processes. It writes `last.ckpt`, at `path`, after each epoch, every so many steps or minutes, and when
    a signal asks one of them to stop, but never after an epoch's last batch, where validation is still to come. Put it
    behind the `ModelCheckpoint`: what that knows of the best epoch belongs to the checkpoint.

    Raises:
        InputError: a number that is not positive.
    """

    def __init__(
        self, path: Path, signals: Signals, every_n_steps: int | None = None, every_n_minutes: float | None = None
    ) -> None:
        for name, value in (("save_every_n_steps", every_n_steps), ("save_every_n_minutes", every_n_minutes)):
            if value is not None and not value > 0:
                raise InputError(f"{name}: expected a positive number, got {value}")
        self.path = path
        self.signals = signals
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._saved = time.monotonic()
        self._restored: list[dict[str, Any]] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Restore the checkpoint's random state and sums, after everything that draws or resets them."""
        self.signals.take_over()
        self.signals.deferred = True
        self._saved = time.monotonic()
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            # what SummaryWriter does with a purge_step, which it would have to know earlier: whoever reads the events
            # forgets those that a killed process logged after the checkpoint
            start = SessionLog(status=SessionLog.START)
            trainer.logger.experiment.file_writer.add_event(Event(step=trainer.global_step + 1, session_log=start))
        if self._restored is None:
            return
        if len(self._restored) != trainer.world_size:
            raise InputError(
                f"trainer.devices: the run was made by {len(self._restored)} processes, got {trainer.world_size}; "
                "resume it with as many, or start a new run with init_from=CHECKPOINT"
            )
        state = self._restored[trainer.global_rank]
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), pl_module.device)
        if state["mid_epoch"] is not None:
            pl_module.train_metrics.load_state(state["mid_epoch"]["metrics"])
            batches: Any = trainer.train_dataloader
            batches.load_state_dict(state["mid_epoch"]["batches"])
        self._restored = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save where it is due, or asked for; between two steps, because no checkpoint holds accumulated gradients."""
        last = batch_idx + 1 >= trainer.num_training_batches
        if last or not has_stepped(trainer, batch_idx) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        late = self.every_n_minutes is not None and time.monotonic() - self._saved >= 60 * self.every_n_minutes
        any_late = signum = 0
        if trainer.world_size == 1 or pl_module.may_sync_device(trainer.global_step):
            any_late, signum = all_reduce_max(trainer, late, self.signals.pending)
        if due or any_late or signum:
            self._save(trainer)
        if signum:
            self.signals.act(signum)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save, after everything else has seen the epoch: Lightning calls `Checkpoint`s last, in their order."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A signal that came during validation waited for the end of the epoch and its checkpoint."""
        self._stop_if_asked(trainer)
        if isinstance(trainer.train_dataloader, Batches):  # Lightning restores it in the middle of an epoch alone
            trainer.train_dataloader.set_epoch(trainer.current_epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Nothing is left to save: signals need not wait any more."""
        self.signals.deferred = False
        self._stop_if_asked(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Signals need not wait any more, and no other process waits for this one."""
        self.signals.deferred = False
        end_processes(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add each process's random state and, in the middle of an epoch, its training metrics and batches' place.

        Lightning keeps the loader's place as well, but forgets to restore it where a schedule asks how long the
        training is before the checkpoint's loops are loaded.
        """
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.flush()  # what was logged before a checkpoint must be on the disk before it
        batches: Any = trainer.train_dataloader
        mid_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.ready < trainer.num_training_batches
        place = {"batches": batches.state_dict(), "metrics": pl_module.train_metrics.state()} if mid_epoch else None
        device = trainer.strategy.root_device
        cuda_rng = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        state = {"rng": torch.get_rng_state(), "cuda_rng": cuda_rng, "mid_epoch": place}
        states = [state] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, state)
        checkpoint["callbacks"][self.state_key] = {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts; an InputError if a version wrote it that knew no processes."""
        if "processes" not in state_dict:
            raise InputError(f"{self.path}: an older version wrote it; start a new run with init_from=CHECKPOINT")
        self._restored = state_dict["processes"]

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        (signum,) = all_reduce_max(trainer, self.signals.pending)
        if signum:
            self.signals.act(signum)


def keep_logged_rows(logger: CSVLogger, step: int) -> None:
    """Keep of a run's `metrics.csv` what was logged up to `step`, which Lightning's logger would delete.

    To be called before anything is logged. The summary at a run's end (`test/...`) will be logged again.
    """
    path = Path(logger.log_dir, "metrics.csv")
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    logger.experiment.metrics = [
        row for row in rows if int(row["step"]) <= step and not any(name.startswith("test/") for name in row)
    ]
    logger.save()


def all_reduce_max(trainer: L.Trainer, *wishes: int) -> list[int]:
    """Of each number the largest that any of the run's processes has."""
    if trainer.world_size == 1:
        return list(wishes)
    return trainer.strategy.reduce(torch.tensor(wishes, device=trainer.strategy.root_device), reduce_op="max").tolist()


def end_processes(trainer: L.Trainer) -> None:
    """End the processes that Lightning started, when this one has failed: they may wait for it for ever."""
    children = getattr(trainer.strategy.launcher, "procs", [])
    ended, children[:] = children[:], []  # Lightning watches them, and would kill this process when it sees one end
    for child in ended:
        child.kill()
    for child in ended:
        child.wait()
