"""Calibration against plain numpy and torchmetrics, on models that are calibrated, and on some that are not."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from digitsum.evaluation.calibration import Calibration
from digitsum.models.base import Prediction

IMAGES, SUMS = 20_000, 37


def drawn(seed=0, images=IMAGES):
    """Distributions of every sharpness, and sums drawn from them: no model could be better calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, SUMS)) * rng.uniform(0.5, 12, size=(images, 1))
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    sums = (probs.cumsum(1) < rng.uniform(size=(images, 1))).sum(1).clip(max=SUMS - 1)
    return probs, sums


def confidence_of(probs, sums, size=IMAGES):
    """What is found in batches of `size`."""
    probs, sums = torch.from_numpy(probs).float(), torch.from_numpy(sums)
    confidence = Calibration()
    for some, true in zip(probs.split(size), sums.split(size), strict=True):
        confidence.update({"sums": true}, Prediction(some.argmax(1).float(), some))
    return confidence


@pytest.fixture(scope="module")
def calibrated():
    return drawn()


def test_a_calibrated_model_is_found_to_be_calibrated(calibrated):
    report = confidence_of(*calibrated).report()
    assert report["calibration_error"] < 0.015
    assert report["interval_coverage"] > 0.895  # at least 0.9, but for chance: sums are whole numbers


def test_an_overconfident_model_is_found_out(calibrated):
    probs, sums = calibrated
    sharper = probs**5
    sharper /= sharper.sum(1, keepdims=True)
    honest, boasting = confidence_of(probs, sums).report(), confidence_of(sharper, sums).report()
    assert boasting["exact"] == honest["exact"]
    assert boasting["calibration_error"] > 0.15
    assert boasting["interval_coverage"] < 0.85
    assert boasting["nll"] > honest["nll"] + 0.5


def test_a_modest_model_is_found_out(calibrated):
    probs, sums = calibrated
    flatter = probs**0.3
    flatter /= flatter.sum(1, keepdims=True)
    assert confidence_of(flatter, sums).report()["calibration_error"] > 0.15


def test_the_report_equals_plain_numpy_on_everything_at_once(calibrated):
    probs, sums = calibrated
    report = confidence_of(probs, sums, size=999).report()
    rows, values = np.arange(IMAGES), np.arange(SUMS)
    mass = probs.cumsum(1)
    low, median, high = ((mass < level).sum(1) for level in (0.05, 0.5, 0.95))
    answer = probs.argmax(1)
    expected = {
        "nll": -np.log(probs[rows, sums]).mean(),
        "interval_coverage": ((low <= sums) & (sums <= high)).mean(),
        "interval_width": (high - low + 1).mean(),
        "mae_median": np.abs(median - sums).mean(),
        "mse_mean": ((probs @ values - sums) ** 2).mean(),
        "exact": (answer == sums).mean(),
    }
    for name, value in expected.items():
        # a few of the float32 distributions may reach a level one sum away
        assert report[name] == pytest.approx(value, rel=2e-4), name


def test_the_calibration_error_equals_that_of_torchmetrics(calibrated):
    probs, sums = calibrated
    sharper = probs**2
    sharper /= sharper.sum(1, keepdims=True)
    confidence, right = torch.from_numpy(sharper.max(1)).float(), torch.from_numpy(sharper.argmax(1) == sums)
    expected = binary_calibration_error(confidence, right.long(), n_bins=15, norm="l1").item()
    assert expected > 0.05
    assert confidence_of(sharper, sums).report()["calibration_error"] == pytest.approx(expected, abs=1e-5)


def test_the_most_confident_equal_plain_numpy_on_everything_at_once(calibrated):
    probs, sums = calibrated
    report = confidence_of(probs, sums).report()
    right = (probs.argmax(1) == sums)[np.argsort(-probs.max(1))]
    for percent in (90, 95, 98, 99):
        expected = right[: IMAGES * percent // 100].mean()
        assert report[f"exact_at_coverage_{percent}"] == pytest.approx(expected, abs=1e-4)


def test_batches_and_one_shot_give_the_same(calibrated):
    one_shot, batches = (confidence_of(*calibrated, size=size) for size in (IMAGES, 777))
    assert batches.report() == pytest.approx(one_shot.report(), rel=1e-9)
    for mine, other in ((batches.reliability, one_shot.reliability), (batches.selective, one_shot.selective)):
        assert all(np.allclose(a, b, rtol=1e-9) for a, b in zip(mine(), other(), strict=True))


def test_the_reliability_counts_every_image_once(calibrated):
    confidence, accuracy, images = confidence_of(*calibrated).reliability()
    assert images.sum() == IMAGES
    assert (np.diff(confidence) > 0).all()
    assert ((confidence * 15).astype(int) == np.unique((confidence * 15).astype(int))).all()
    assert ((accuracy >= 0) & (accuracy <= 1)).all()


def test_equal_confidence_is_answered_at_once():
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    coverage, accuracy = confidence_of(probs, np.array([1, 0, 1, 0])).selective()
    assert coverage.tolist() == [0.25, 1]
    assert accuracy.tolist() == [1, 0.75]


def test_coverage_goes_from_few_images_to_all_and_ends_at_the_accuracy(calibrated):
    probs, sums = calibrated
    coverage, accuracy = confidence_of(probs, sums).selective()
    assert (np.diff(coverage) > 0).all()
    assert 0 < coverage[0] < 0.5
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx((probs.argmax(1) == sums).mean())
    assert accuracy[0] > accuracy[-1] + 0.1


def test_the_most_confident_come_first():
    probs = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.999, 0.001]])
    coverage, accuracy = confidence_of(probs, np.array([1, 0, 1, 0])).selective()
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert accuracy.tolist() == [1, 1, 1, 0.75]


def test_a_model_that_is_certain_and_right_is_perfect():
    report = confidence_of(np.eye(SUMS), np.arange(SUMS)).report()
    assert report == {
        **dict.fromkeys(["nll", "mae_median", "mse_mean", "calibration_error"], pytest.approx(0, abs=1e-12)),
        **dict.fromkeys(["interval_coverage", "interval_width", "exact"], 1),
        **{f"exact_at_coverage_{percent}": 1 for percent in (90, 95, 98, 99)},
    }


def test_a_model_that_is_certain_and_wrong_has_a_finite_report():
    report = confidence_of(np.eye(SUMS), np.arange(SUMS)[::-1].copy()).report()
    assert np.isfinite(list(report.values())).all()
    assert report["nll"] > 80
    assert report["calibration_error"] == pytest.approx(36 / 37)


def test_a_sum_that_the_distribution_does_not_reach_counts_as_wrong():
    report = confidence_of(np.array([[0.5, 0.5]]), np.array([9])).report()
    assert report["interval_coverage"] == report["exact"] == 0
    assert report["mae_median"] == 9
    assert report["mse_mean"] == pytest.approx(8.5**2)
