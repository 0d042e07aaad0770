"""A pass of a trained model over images: its metrics beside the mean baseline's, and what a figure needs."""

import itertools
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm import tqdm

from digitsum.data.batches import Batch, Batches
from digitsum.data.pictures import PictureBatches
from digitsum.figures import Example
from digitsum.metrics import sum_metrics
from digitsum.models.base import Prediction
from digitsum.models.module import SumModule

MAX_POINTS = 30_000
"""The most points that a scatter plot shows."""


def example_from_batch(batch: Batch, prediction: Prediction, row: int, part: str = "") -> Example:
    """What to show of one row of a batch."""
    sums = batch.get("sums")
    rest: dict[str, Any] = {}
    if prediction.probs is not None:
        digits, positions = prediction.sequence.digits[row], prediction.sequence.positions[row]
        rest = {
            "probs": prediction.probs[row].float().cpu().numpy(),
            "digits": tuple(digits[digits >= 0].tolist()),
            "positions": tuple(positions[digits >= 0].tolist()),
        }
    return Example(
        name=f"{part} {int(batch['index'][row])}".strip(),
        image=batch["images"][row].cpu().numpy(),
        pred=prediction.estimate[row].item(),
        target=None if sums is None else int(sums[row]),
        **rest,
    )


class Evaluation:
    """Results of one pass, gathered batch by batch in bounded memory: `count` images so far.

    `train_mean` is the mean baseline; the `num_worst` largest errors are kept with their images.
    """

    def __init__(self, train_mean: float, num_worst: int = 0) -> None:
        self.train_mean = train_mean
        self.count = 0
        self._num_worst = num_worst
        self._model = sum_metrics()
        self._baseline = sum_metrics()
        for metric in (*self._model.values(), *self._baseline.values()):
            metric.distributed_available_fn = None  # each process has all images: there is nothing to add up
        self._worst: list[tuple[float, Example]] = []
        self._points: list[np.ndarray] = []
        self._stride = 1

    def update(self, batch: Batch, prediction: Prediction, part: str = "") -> None:
        """Add a batch with sums, in each of several processes its part; `part` is what the batch belongs to."""
        sums, preds = (rows.cpu() for rows in gather_across_ranks(batch["sums"], prediction.estimate.float()))
        self._model.update(preds, sums)
        self._baseline.update(torch.full_like(preds, self.train_mean), sums)
        self._keep_points(torch.stack([sums.float(), preds], dim=1).numpy())
        if self._num_worst:
            self._keep_worst(batch, prediction, (preds - sums).abs(), part)
        self.count += len(sums)

    def row(self) -> dict[str, dict[str, float]]:
        """`model` and `baseline`, each with `mse, rmse, mae, within_5, within_1, exact` and `count`."""
        return {
            who: {**{name: value.item() for name, value in metrics.compute().items()}, "count": self.count}
            for who, metrics in (("model", self._model), ("baseline", self._baseline))
        }

    @property
    def points(self) -> np.ndarray:
        """`(P, 2)` float32, true and predicted sums of at most `MAX_POINTS` images, evenly spaced over the pass."""
        return np.concatenate(self._points) if self._points else np.empty((0, 2), np.float32)

    @property
    def worst(self) -> list[Example]:
        """The images with the largest errors, the largest first."""
        return [one for _, one in self._worst]

    def _keep_points(self, points: np.ndarray) -> None:
        first = -self.count % self._stride  # of this batch, where every stride-th image of the pass is kept
        self._points.append(points[first :: self._stride])
        if sum(map(len, self._points)) > MAX_POINTS:
            self._points = [self.points[::2]]
            self._stride *= 2

    def _keep_worst(self, batch: Batch, prediction: Prediction, errors: torch.Tensor, part: str) -> None:
        for row in errors.argsort(descending=True, stable=True)[: self._num_worst].tolist():
            error = errors[row].item()
            if len(self._worst) < self._num_worst or error > self._worst[-1][0]:
                self._worst.append((error, example_from_batch(batch, prediction, row, part)))
                self._worst.sort(key=lambda kept: kept[0], reverse=True)  # of equal errors the first image stays first
                del self._worst[self._num_worst :]


def predict(
    trainer: L.Trainer, module: SumModule, batches: Batches | PictureBatches, *listeners: Any, title: str
) -> None:
    """Run the model in evaluation mode over all batches, or as many as `trainer.limit_predict_batches` says.

    How many batches pictures will be nobody knows before they are read: a share is then all of them.

    Each listener is called with `(batch, prediction)`. Nothing is collected here, so memory does not grow with the
    number of images. It is a loop of its own because `trainer.predict` calls all the callbacks of a training again.

    `trainer` says on which device, where `module` is left, in which precision, and whether with a progress bar. Of
    several processes, `batches` are this one's part.
    """
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    precision.convert_module(module).to(device).eval()
    limit, bar = trainer.limit_predict_batches, trainer.progress_bar_callback
    size = len(batches) if isinstance(batches, Batches) else None
    count = limit if isinstance(limit, int) else None if size is None else int(limit * size)
    count = count if size is None or count is None else min(count, size)
    quiet, every = bar is None or not trainer.is_global_zero, getattr(bar, "refresh_rate", 1)
    with torch.inference_mode():
        taken = itertools.islice(batches, count)
        first = list(itertools.islice(taken, 1))  # before the bar: what is wrong with it is one line
        rest = itertools.chain(first, taken)
        for batch in tqdm(rest, title, count, leave=False, disable=quiet, miniters=every):
            batch = move_data_to_device(precision.convert_input(batch), device)
            with precision.predict_step_context():
                prediction = module.predict(batch["images"])
            for listener in listeners:
                listener(batch, prediction)


def gather_across_ranks(*parts: torch.Tensor) -> list[torch.Tensor]:
    """Each tensor `(B, ...)` and those of the other processes, of any length, in their order; to be called in all."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(parts)
    return [torch.cat(gather_all_tensors(part)) for part in parts]


METRIC_TITLES = {
    "mse": "MSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "within_5": "within 5",
    "within_1": "within 1",
    "exact": "exact",
}


def metrics_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """A plain-text table of `{split: {who: metrics}}`, one line for each, fractions in percent."""
    lines = [f"{'split':<8}{'answer':<14}{'images':>9}" + "".join(f"{title:>10}" for title in METRIC_TITLES.values())]
    names = {"model": "model", "last": "last epoch", "baseline": "baseline"}
    for split, rows in results.items():
        for who in (name for name in names if name in rows):
            cells = "".join(
                f"{rows[who][key]:>10.3f}" if key in ("mse", "rmse", "mae") else f"{rows[who][key]:>10.2%}"
                for key in METRIC_TITLES
            )
            lines.append(f"{split:<8}{names[who]:<14}{int(rows[who]['count']):>9,}{cells}")
    return "\n".join(lines)


_NO_FRACTIONS = ("nll", "interval_width", "mae_median", "mse_mean", "position_offset")


def details_table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The rows `calibration` and `transcription` as plain text, a column for each split; empty where there are none."""
    lines = []
    for name in ("calibration", "transcription"):
        found = {split: rows[name] for split, rows in results.items() if name in rows}
        if found:
            lines.append(f"{name:<22}" + "".join(f"{split:>10}" for split in found))
        for key in next(iter(found.values()), {}):
            form = "10.4f" if key in _NO_FRACTIONS else "10.2%"
            lines.append(f"  {key:<20}" + "".join(f"{row[key]:>{form}}" for row in found.values()))
    return "\n".join(lines)
