"""What happens beside the training: the history, the learning rate, the clock, and the figures in TensorBoard."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from digitsum.errors import InputError
from digitsum.evaluation.evaluate import MAX_POINTS, example_from_batch, gather_across_ranks
from digitsum.figures import Example, examples_figure, scatter_figure, tolerate_failure
from digitsum.files import write_csv, written_whole
from digitsum.runs.locate import BEST_CHECKPOINT


class MetricsHistory(Checkpoint):
    """Writes what the module logs of each epoch to a CSV file at `path`.

    No times are in the file, so that equal runs have equal files. It is a `Checkpoint` because Lightning calls these
    alone after the module; put it before the others, so that the row is written before the checkpoint of its step.

    Attributes:
        rows: for each epoch `epoch` (counted from 1), `step`, and every metric that was measured, by its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Add the epoch's row and write the file anew."""
        metrics = dict(sorted(pl_module.epoch_metrics.items()))
        self.rows.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics})
        measured = sorted({name for row in self.rows for name in row} - {"epoch", "step"})  # not all in each epoch
        names = ["epoch", "step", *measured]
        if trainer.is_global_zero:
            write_csv(self.path, names, ([row.get(name) for name in names] for row in self.rows))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far belong to the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of a checkpoint."""
        self.rows = state_dict["rows"]


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best weights as `best.ckpt`, whatever is monitored and however many epochs are kept.

    An epoch without validation is not compared: Lightning would take the last value for its own. Where several epochs
    are kept they are named after their numbers, and `best.ckpt` is a copy of the best of them.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Compare the epoch that has ended."""
        if self.monitor not in pl_module.epoch_metrics:
            return
        super().on_train_epoch_end(trainer, pl_module)
        best = Path(self.dirpath or "", BEST_CHECKPOINT.name)
        kept = Path(self.best_model_path)  # a file that is gone, or another's, is none to copy
        if trainer.is_global_zero and kept != best and kept.is_file():
            with written_whole(best) as file:
                file.write(kept.read_bytes())


class LearningRateLogger(L.Callback):
    """Logs the learning rate that the next batch learns with, as `lr`, every `log_every_n_steps` steps.

    Lightning's `LearningRateMonitor` logs when the next batch begins, after the step's checkpoint: resumed, twice.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log it; the schedule has already stepped."""
        every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]
        if trainer.logger is not None and every and step % every == 0 and has_stepped(trainer, batch_idx):
            trainer.logger.log_metrics({"lr": trainer.optimizers[0].param_groups[0]["lr"]}, step=step)


def has_stepped(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimiser has stepped after this batch, the last of those whose gradients are accumulated."""
    count = batch_idx + 1
    return count % trainer.accumulate_grad_batches == 0 or count >= trainer.num_training_batches


class EpochTimer(L.Callback):
    """Measures each epoch, or what came of it after it was resumed.

    Attributes:
        epochs: for each epoch `epoch` (counted from 1), `train_seconds`, `val_seconds`, `train_images_per_second`.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._images = 0
        self._begin = self._val_begin = self._val_seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self._begin, self._val_seconds, self._images = time.perf_counter(), 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images."""
        self._images += len(batch["images"])

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Validation runs inside the epoch: its time is taken apart."""
        self._val_begin = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Add up the validation's time."""
        self._val_seconds += time.perf_counter() - self._val_begin

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keep the epoch's figures."""
        train_seconds = time.perf_counter() - self._begin - self._val_seconds
        images = trainer.strategy.reduce(torch.tensor(self._images, device=pl_module.device), reduce_op="sum")
        seconds = {"train_seconds": round(train_seconds, 3), "val_seconds": round(self._val_seconds, 3)}
        speed = round(int(images) / train_seconds, 1)
        self.epochs.append({"epoch": trainer.current_epoch + 1, **seconds, "train_images_per_second": speed})

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far belong to the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the epochs of a checkpoint."""
        self.epochs = state_dict["epochs"]


class PredictionLogger(L.Callback):
    """Shows validation images with their predictions, the same each time, and the scatter plot in TensorBoard, if any.

    Raises:
        InputError: `every_n_epochs` or `num_images` below 1.
    """

    def __init__(self, every_n_epochs: int = 1, num_images: int = 12) -> None:
        if every_n_epochs < 1 or num_images < 1:
            raise InputError("callbacks.prediction_logger: expected every_n_epochs and num_images of 1 or more")
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self._points: list[np.ndarray] = []
        self._examples: list[Example] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Forget the last pass."""
        self._points, self._examples = [], []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the batch's estimates, and the first images with all that the network says of them."""
        if not self._due(trainer):
            return
        if sum(map(len, self._points)) < MAX_POINTS:
            sums, preds = gather_across_ranks(batch["sums"], outputs)
            self._points.append(torch.stack([sums.float(), preds.float()], dim=1).cpu().numpy())
        missing = self.num_images - len(self._examples)
        if missing > 0 and trainer.is_global_zero and len(batch["sums"]):
            images = batch["images"][:missing]
            prediction = pl_module.predict(images)
            self._examples += [example_from_batch(batch, prediction, row) for row in range(len(images))]

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Draw both figures."""
        if not (self._due(trainer) and trainer.is_global_zero):
            return
        assert isinstance(trainer.logger, TensorBoardLogger)
        board, step, epoch = trainer.logger.experiment, trainer.global_step, trainer.current_epoch + 1
        with tolerate_failure("val/scatter"):
            target, preds = np.concatenate(self._points).T
            board.add_figure("val/scatter", scatter_figure(target, preds, f"Validation after epoch {epoch}"), step)
        with tolerate_failure("val/answers"):
            figure = examples_figure(self._examples, f"Validation images after epoch {epoch}", named=False)
            board.add_figure("val/answers", figure, step)

    def _due(self, trainer: L.Trainer) -> bool:
        wanted = not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return wanted and isinstance(trainer.logger, TensorBoardLogger)
