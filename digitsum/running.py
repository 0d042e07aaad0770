"""Loss and metrics of a stage while it runs, over several processes, and stopped and resumed in its middle."""

from typing import Any

import torch
from torchmetrics import MeanMetric, Metric

from digitsum.metrics import sum_metrics


class Running(torch.nn.Module):
    """Loss and metrics of a stage so far, in this process; `compute` has them over all processes.

    Batches are kept and added several at once: adding costs several times what a small network's host has to do for a
    step, and what is kept never waits for a GPU.

    Args:
        stage: `train`, `val` or `test`.
    """

    _AT_ONCE = 32

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.loss_name = f"{stage}/loss"
        self.loss = MeanMetric()
        self.metrics = sum_metrics(f"{stage}/")
        self._kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def update(self, loss: torch.Tensor, preds: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a batch's mean loss, a scalar, its answers and its true sums, both `(B,)`."""
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
        return {
            "kept": [[tensor.cpu().clone() for tensor in batch] for batch in self._kept],
            "sums": {
                name: {key: torch.as_tensor(value).cpu().clone() for key, value in metric.metric_state.items()}
                for name, metric in self._all().items()
            },
        }

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
