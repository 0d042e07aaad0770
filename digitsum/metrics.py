"""Metrics of predicted against true sums."""

from typing import Any

import torch
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric, MetricCollection

from digitsum.errors import InputError, did_you_mean


def round_sums(preds: torch.Tensor) -> torch.Tensor:
    """Round predictions `(N,)` to the nearest whole sum; halves go up. Float in, float out.

    Example:
        >>> round_sums(torch.tensor([1.4, 1.5, 2.5]))
        tensor([1., 2., 3.])
    """
    return torch.floor(preds + 0.5)


class WithinAccuracy(Metric):
    """The share of predictions that are off by at most `tolerance`, boundary included; one that is NaN never is.

    `tolerance` is 0 or more, in units of the sum. Before the first batch since a reset the share is NaN.

    Example:
        >>> WithinAccuracy(tolerance=5)(torch.tensor([10.0, 15.0, 15.1]), torch.tensor([10, 10, 10]))
        tensor(0.6667)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: torch.Tensor
    count: torch.Tensor

    def __init__(self, tolerance: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if tolerance < 0:
            raise ValueError(f"tolerance: expected 0 or more, got {tolerance}")
        self.tolerance = tolerance
        self.add_state("hits", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch of predictions and true sums, both `(N,)`."""
        if preds.shape != target.shape:  # a column against a row would broadcast to a wrong figure without a word
            shapes = f"{tuple(preds.shape)} and {tuple(target.shape)}"
            raise ValueError(f"expected preds and target of one shape, got {shapes}")
        self.hits += ((preds - target).abs() <= self.tolerance).sum()
        self.count += target.numel()

    def compute(self) -> torch.Tensor:
        """The share so far, a float scalar in [0, 1]."""
        return self.hits / self.count


class ExactAccuracy(WithinAccuracy):
    """The share of predictions that `round_sums` to the true sum."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tolerance=0, **kwargs)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch of predictions and true sums, both `(N,)`."""
        super().update(round_sums(preds.float()), target)


def sum_metrics(prefix: str = "") -> MetricCollection:
    """The metrics of every stage: `mse`, `rmse`, `mae`, `within_5`, `within_1`, `exact`, each after `prefix`."""
    return MetricCollection(
        {
            "mse": MeanSquaredError(),
            "rmse": MeanSquaredError(squared=False),
            "mae": MeanAbsoluteError(),
            "within_5": WithinAccuracy(5),
            "within_1": WithinAccuracy(1),
            "exact": ExactAccuracy(),
        },
        prefix=prefix,
        # merged groups are found by equal states after one batch: within 1 and within 5 can agree there by chance
        compute_groups=False,
    )


def monitor_mode(monitor: str, key: str = "monitor") -> str:
    """Whether of a logged metric, `val/mae` say, less or more is better: `min` or `max`, as Lightning has it.

    Raises:
        InputError: no such metric is logged while training; errors call it `key`.
    """
    modes = {"loss": "min"}
    modes |= {name: "max" if metric.higher_is_better else "min" for name, metric in sum_metrics().items()}
    stage, _, name = monitor.partition("/")
    if stage not in ("train", "val") or name not in modes:
        known = [f"{stage}/{name}" for stage in ("val", "train") for name in modes]
        hint = did_you_mean(monitor, known) or "; nothing else is measured in each epoch"
        raise InputError(f"{key}: expected val/ or train/ and one of {', '.join(modes)}, got {monitor!r}{hint}")
    return modes[name]


class StageMetrics(torch.nn.Module):
    """Loss and metrics of a stage, `train` or `val`, so far in this process; `compute` has them over all processes.

    Batches are kept and added several at once: adding costs several times what a small network's host has to do for a
    step, and what is kept never waits for a GPU.
    """

    _AT_ONCE = 32

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.loss_name = f"{stage}/loss"
        self.loss = MeanMetric()
        self.metrics = sum_metrics(f"{stage}/")
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def update(self, loss: torch.Tensor, preds: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a batch's mean loss, a scalar, its predictions and its true sums, both `(B,)`."""
        self._kept.append((loss.detach().float(), preds.detach().float(), sums))
        if len(self._kept) == self._AT_ONCE:
            self._add()

    def compute(self) -> dict[str, torch.Tensor]:
        """Scalars by the names that they are logged under; to be called in all processes."""
        self._add()
        return {self.loss_name: self.loss.compute(), **self.metrics.compute()}

    def reset(self) -> None:
        """Forget all batches."""
        self._kept = []
        self.loss.reset()
        self.metrics.reset()

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs, in tensors on the CPU."""
        kept = [[tensor.cpu().clone() for tensor in batch] for batch in self._kept]
        sums = {
            name: {key: torch.as_tensor(value).cpu().clone() for key, value in metric.metric_state.items()}
            for name, metric in self._all().items()
        }
        return {"kept": kept, "sums": sums}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        device = self.loss.device
        self._kept = [tuple(tensor.to(device) for tensor in batch) for batch in state["kept"]]
        for name, sums in state["sums"].items():
            for key, value in sums.items():
                setattr(self._all()[name], key, value.to(device))

    def _all(self) -> dict[str, Metric]:
        return {self.loss_name: self.loss, **dict(self.metrics.items())}

    def _add(self) -> None:
        if self._kept:
            losses, preds, sums = zip(*self._kept, strict=True)
            self._kept = []
            counts = torch.tensor([len(part) for part in sums], device=losses[0].device)
            self.loss.update(torch.stack(losses), weight=counts)
            self.metrics.update(torch.cat(preds), torch.cat(sums))
