"""The metrics against plain arithmetic, in one shot and over uneven batches."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error
from torchmetrics.utilities import dim_zero_sum

from digitsum.metrics import ExactAccuracy, WithinAccuracy, round_sums, sum_metrics


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 37, (1000,), generator=generator)
    return target + 4 * torch.randn(1000, generator=generator), target


def in_uneven_batches(metric, preds, target):
    for start, stop in ((0, 1), (1, 500), (500, 993), (993, 1000)):
        metric.update(preds[start:stop], target[start:stop])
    return metric.compute()


@pytest.mark.parametrize(
    ("error", "tolerance", "within"),
    [
        (5.0, 5, True),
        (-5.0, 5, True),
        (5.001, 5, False),
        (-5.001, 5, False),
        (0.0, 0, True),
        (0.5, 0.5, True),
        (1, 0, False),
    ],
)
def test_within_includes_its_boundary(error, tolerance, within):
    target = torch.tensor([10])
    assert WithinAccuracy(tolerance)(target + error, target).item() == within


@pytest.mark.parametrize(
    ("pred", "rounded"), [(0.4999, 0), (0.5, 1), (1.5, 2), (2.5, 3), (-0.4, 0), (-0.6, -1), (36.49, 36)]
)
def test_sums_are_rounded_to_the_nearest_with_halves_up(pred, rounded):
    assert round_sums(torch.tensor([pred])).item() == rounded


def test_exact_is_rounding_to_the_true_sum(pairs):
    preds, target = pairs
    expected = (np.floor(preds.numpy() + 0.5) == target.numpy()).mean()
    assert ExactAccuracy()(preds, target).item() == pytest.approx(expected)


def test_a_prediction_that_is_not_a_number_is_never_right():
    nan, target = torch.tensor([float("nan")]), torch.tensor([1])
    assert WithinAccuracy(100)(nan, target) == 0
    assert ExactAccuracy()(nan, target) == 0


@pytest.mark.parametrize("metric", [WithinAccuracy(), ExactAccuracy()])
def test_a_column_against_a_row_is_refused(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric.update(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("tolerance", [0, 1, 5])
def test_within_over_batches_equals_one_shot(pairs, tolerance):
    preds, target = pairs
    assert in_uneven_batches(WithinAccuracy(tolerance), *pairs) == ((preds - target).abs() <= tolerance).float().mean()


def test_exact_over_batches_equals_one_shot(pairs):
    assert in_uneven_batches(ExactAccuracy(), *pairs) == ExactAccuracy()(*pairs)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance"):
        WithinAccuracy(-1)


@pytest.mark.parametrize("metric", [WithinAccuracy(3), ExactAccuracy()])
def test_metrics_survive_clone_pickle_and_reset(metric, pairs):
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    expected = in_uneven_batches(metric, *pairs)
    for copy in copies:
        assert in_uneven_batches(copy, *pairs) == expected
        copy.reset()
        assert copy.count == 0


@pytest.mark.parametrize(("error", "within"), [(5.0, 1), (5.5, 0)])
def test_the_tolerance_is_5_unless_said_otherwise(error, within):
    preds, target = torch.tensor([10 + error]), torch.tensor([10])
    assert WithinAccuracy()(preds, target) == within


@pytest.mark.parametrize("metric", [WithinAccuracy(3), ExactAccuracy()])
def test_counts_of_several_processes_add_up_and_more_is_better(metric):
    assert set(metric._reductions.values()) == {dim_zero_sum}
    assert metric.higher_is_better


def test_the_collection_equals_an_outside_implementation(pairs):
    preds, target = pairs
    values = in_uneven_batches(sum_metrics("val/"), preds, target)
    error = np.abs(preds.numpy() - target.numpy())
    assert values["val/mse"].item() == pytest.approx(mean_squared_error(target, preds), rel=1e-5)
    assert values["val/rmse"].item() == pytest.approx(mean_squared_error(target, preds) ** 0.5, rel=1e-5)
    assert values["val/mae"].item() == pytest.approx(mean_absolute_error(target, preds), rel=1e-5)
    assert values["val/within_5"].item() == pytest.approx((error <= 5).mean())
    assert values["val/within_1"].item() == pytest.approx((error <= 1).mean())
    assert set(values) == {f"val/{name}" for name in ("mse", "rmse", "mae", "within_5", "within_1", "exact")}


def test_within_1_and_within_5_stay_apart_when_the_first_batch_cannot_tell_them_apart():
    metrics = sum_metrics()
    metrics.update(torch.tensor([10.0, 20.0]), torch.tensor([10, 20]))  # both states are equal after this
    metrics.update(torch.tensor([13.0, 20.0]), torch.tensor([10, 20]))
    values = metrics.compute()
    assert values["within_5"] == 1
    assert values["within_1"] == 0.75
