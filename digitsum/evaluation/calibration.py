"""How well a model knows what it knows: its distributions of the sum against the true sums."""

import numpy as np

from digitsum.data.batches import Batch
from digitsum.models.base import Prediction, interval_of, mean_of, median_of, probability_of

_INTERVAL = 0.9
_LOGIT_BINS = np.linspace(-12, 18, 3_001)  # fine enough to be summed up to any coarser ones: a hundredth of a nat
_RELIABILITY_BINS = 15
_COVERAGES = (90, 95, 98, 99)  # percent


class Calibration:
    """Results of one pass over images with known sums, gathered batch by batch in bounded memory."""

    def __init__(self) -> None:
        self._count = 0
        self._totals = {
            "nll": 0.0,
            "interval_coverage": 0.0,
            "interval_width": 0.0,
            "mae_median": 0.0,
            "mse_mean": 0.0,
            "exact": 0.0,
        }
        # by the probability of the answer: how many, how many right, and their probabilities added up
        self._bins = np.zeros((3, len(_LOGIT_BINS) + 1))

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch of images with sums and the answers to it, which have distributions."""
        assert prediction.probs is not None
        sums, probs = batch["sums"].cpu(), prediction.probs.cpu().double()
        low, high = interval_of(probs, _INTERVAL)
        estimate = prediction.estimate.cpu()
        right = (estimate == sums).double()
        for name, values in {
            "nll": -probability_of(probs, sums).clamp_min(1e-38).log(),
            "interval_coverage": (low <= sums) & (sums <= high),
            "interval_width": high - low + 1,
            "mae_median": (median_of(probs) - sums).abs(),
            "mse_mean": (mean_of(probs) - sums).square(),
            "exact": right,
        }.items():
            self._totals[name] += values.double().sum().item()
        self._count += len(sums)
        sure = probability_of(probs, estimate).numpy()
        with np.errstate(divide="ignore"):
            place = np.digitize(np.log(sure) - np.log1p(-np.minimum(sure, 1 - 1e-16)), _LOGIT_BINS)
        for row, weights in zip(self._bins, (np.ones_like(sure), right.numpy(), sure), strict=True):
            row += np.bincount(place, weights, len(row))

    def report(self) -> dict[str, float]:
        """What the distributions are worth.

        Returns:
            `nll` (mean of -log P(true sum), nats, of one image 87 at most), `interval_coverage` of the central 90 %
            interval and its mean `interval_width` (sums in it), `calibration_error` (see `reliability`: mean distance
            of the answers' probability from the share of right ones, weighted by images),
            `mae_median` and `mse_mean` (of the point estimates that are best for them), `exact` of the most probable
            sum, and `exact_at_coverage_90`, `_95`, `_98`, `_99` (where the other 10, 5, 2, 1 % are set aside).
        """
        confidence, accuracy, images = self.reliability()
        error = float((images * np.abs(confidence - accuracy)).sum() / images.sum())
        answered, right = self.selective()
        return {
            **{name: total / self._count for name, total in self._totals.items()},
            "calibration_error": error,
            **{f"exact_at_coverage_{p}": float(np.interp(p / 100, answered, right)) for p in _COVERAGES},
        }

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per step of the answers' probability its mean, the share of right ones, and how many, each `(B,)`.

        There are 15 equal steps from 0 to 1 (Guo et al., 2017); those without an image are left out.
        """
        count, right, sure = (row[self._bins[0] > 0] for row in self._bins)
        step = np.minimum((sure / count * _RELIABILITY_BINS).astype(int), _RELIABILITY_BINS - 1)
        count, right, sure = (np.bincount(step, row, _RELIABILITY_BINS) for row in (count, right, sure))
        kept = count > 0
        return sure[kept] / count[kept], right[kept] / count[kept], count[kept]

    def selective(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of images answered and share of right answers among them, the surest first, each `(B,)`."""
        count, right, _ = (row[self._bins[0] > 0][::-1].cumsum() for row in self._bins)
        return count / self._count, right / count
