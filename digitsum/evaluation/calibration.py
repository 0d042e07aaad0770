"""How well a model knows what it knows: its distributions of the sum against the true sums."""

import numpy as np

from digitsum.data.batches import Batch
from digitsum.models.base import Prediction, interval_of, mean_of, median_of, probability_of

_RELIABILITY_BINS = 15
_COVERAGES = (90, 95, 98, 99)  # percent


class Calibration:
    """Results of one pass over images with known sums, gathered batch by batch; of each image 5 bytes are kept.

    torchmetrics' `BinaryCalibrationError` keeps more and shows no bins, which the figure needs; a test compares both.
    """

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._confidence: list[np.ndarray] = []
        self._right: list[np.ndarray] = []

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Add a batch of images with sums and the predictions for it, which have distributions."""
        assert prediction.probs is not None
        sums, probs = batch["sums"].cpu(), prediction.probs.cpu().double()
        low, high = interval_of(probs)
        estimate = prediction.estimate.cpu()
        for name, values in {
            "nll": -probability_of(probs, sums).clamp_min(1e-38).log(),
            "interval_coverage": (low <= sums) & (sums <= high),
            "interval_width": high - low + 1,
            "mae_median": (median_of(probs) - sums).abs(),
            "mse_mean": (mean_of(probs) - sums).square(),
            "exact": estimate == sums,
        }.items():
            self._totals[name] = self._totals.get(name, 0.0) + values.double().sum().item()
        self._confidence.append(probability_of(probs, estimate).float().numpy())
        self._right.append((estimate == sums).numpy())

    def report(self) -> dict[str, float]:
        """What the distributions are worth.

        Returns:
            `nll` (mean of -log P(true sum), nats, of one image 87 at most), `interval_coverage` of the central 90 %
            interval and its mean `interval_width` (sums in it), `mae_median` and `mse_mean` (of the point estimates
            that are best for them), `exact` of the most probable sum, `calibration_error` (mean distance of confidence
            and accuracy in the bins of `reliability`, weighted by images), and `exact_at_coverage_90`, `_95`, `_98`,
            `_99` (of that share of the images, those with the highest confidence).
        """
        confidence, accuracy, images = self.reliability()
        coverage, exact = self.selective()
        return {
            **{name: total / images.sum() for name, total in self._totals.items()},
            "calibration_error": float((images * np.abs(confidence - accuracy)).sum() / images.sum()),
            **{f"exact_at_coverage_{p}": float(np.interp(p / 100, coverage, exact)) for p in _COVERAGES},
        }

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each bin of the confidence its mean, the accuracy, and the number of images, each `(B,)`.

        The confidence is the probability of the estimate. There are 15 equal bins from 0 to 1 (Guo et al., 2017); those
        without an image are left out.
        """
        confidence, right = np.concatenate(self._confidence), np.concatenate(self._right)
        bins = np.minimum((confidence * _RELIABILITY_BINS).astype(int), _RELIABILITY_BINS - 1)
        images, total, hits = (np.bincount(bins, weights, _RELIABILITY_BINS) for weights in (None, confidence, right))
        kept = images > 0
        return total[kept] / images[kept], hits[kept] / images[kept], images[kept]

    def selective(self) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and selective accuracy, each `(B,)`: for each confidence the images that have no less."""
        confidence, right = np.concatenate(self._confidence), np.concatenate(self._right)
        order = np.argsort(-confidence)
        last = np.append(np.diff(confidence[order]) < 0, True)  # of those with equal confidence
        count = np.arange(1, len(order) + 1)
        return (count / len(order))[last], (right[order].cumsum() / count)[last]
