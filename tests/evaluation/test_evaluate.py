"""A pass over images: metrics, the sample for the plot, and the largest errors."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

import digitsum.evaluation.evaluate
from digitsum.data.batches import Batches
from digitsum.data.shards import MemmapImages, SumDataset
from digitsum.evaluation.evaluate import Evaluation, metrics_table, predict
from digitsum.models.base import Prediction
from digitsum.models.module import SumModule
from digitsum.models.two_conv import TwoConvSettings


def feed(evaluation, preds, target, size=7):
    for start in range(0, len(preds), size):
        rows = slice(start, start + size)
        batch = {
            "sums": target[rows],
            "index": torch.arange(len(preds))[rows],
            "images": torch.arange(len(preds), dtype=torch.uint8)[rows, None, None].expand(-1, 2, 3),
        }
        evaluation.update(batch, Prediction(preds[rows]), part="val")


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 37, (100,), generator=generator)
    return target + 3 * torch.randn(100, generator=generator), target


def test_the_model_and_the_mean_baseline_stand_side_by_side(pairs):
    preds, target = pairs
    evaluation = Evaluation(train_mean=17.5)
    feed(evaluation, preds, target)
    rows = evaluation.row()
    assert rows["model"]["mae"] == pytest.approx((preds - target).abs().mean().item(), rel=1e-5)
    assert rows["baseline"]["mse"] == pytest.approx(((17.5 - target) ** 2).float().mean().item(), rel=1e-5)
    assert rows["model"]["count"] == rows["baseline"]["count"] == 100
    assert set(rows["model"]) == {"mse", "rmse", "mae", "within_5", "within_1", "exact", "count"}


def test_the_largest_errors_are_kept_in_order_with_their_images(pairs):
    preds, target = pairs
    evaluation = Evaluation(train_mean=0.0, num_worst=5)
    feed(evaluation, preds, target)
    expected = (preds - target).abs().argsort(descending=True)[:5].tolist()
    assert [one.name for one in evaluation.worst] == [f"val {index}" for index in expected]
    for index, one in zip(expected, evaluation.worst, strict=True):
        assert (one.image == index).all()
        assert (one.pred, one.target) == (preds[index].item(), target[index].item())


def test_equal_errors_need_no_comparison_of_images():
    evaluation = Evaluation(train_mean=0.0, num_worst=3)
    feed(evaluation, torch.ones(20), torch.zeros(20, dtype=torch.long))
    assert [one.name for one in evaluation.worst] == ["val 0", "val 1", "val 2"]


def test_all_points_are_kept_while_they_are_few(pairs):
    evaluation = Evaluation(train_mean=0.0)
    feed(evaluation, *pairs)
    assert np.array_equal(evaluation.points[:, 0], pairs[1].float().numpy())
    assert np.array_equal(evaluation.points[:, 1], pairs[0].numpy())


@pytest.mark.parametrize("size", [1, 7, 64])
def test_many_points_are_thinned_evenly(monkeypatch, size):
    monkeypatch.setattr(digitsum.evaluation.evaluate, "MAX_POINTS", 50)
    evaluation = Evaluation(train_mean=0.0)
    numbers = torch.arange(1000)
    feed(evaluation, numbers.float(), numbers, size=size)
    kept = evaluation.points[:, 0]
    assert 25 <= len(kept) <= 50
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0
    assert evaluation.count == 1000


def test_the_table_has_a_line_for_each_answer_with_fractions_in_percent():
    row = {"mse": 12.3456, "rmse": 3.5, "mae": 2.75, "within_5": 0.875, "within_1": 0.25, "exact": 0.125, "count": 1200}
    lines = metrics_table({"test": {"model": row, "last": row, "baseline": row}}).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == [
        "split",
        "answer",
        "images",
        "MSE",
        "RMSE",
        "MAE",
        "within",
        "5",
        "within",
        "1",
        "exact",
    ]
    assert lines[1].split() == ["test", "model", "1,200", "12.346", "3.500", "2.750", "87.50%", "25.00%", "12.50%"]
    assert "last epoch" in lines[2]
    assert "baseline" in lines[3]


# --- a pass


class Watcher(L.Callback):
    def __init__(self):
        self.called = []

    def on_predict_start(self, trainer, pl_module):
        self.called.append("predict")


def some_batches(count=10, size=4):
    images = torch.randint(0, 256, (count, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batches(SumDataset(MemmapImages([images.numpy()]), None, torch.arange(count)), size)


def passed(batches, **arguments):
    """A pass of an untrained model: what a listener was given, the model, and the trainer."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", **quiet | arguments)
    torch.manual_seed(0)
    module = SumModule("two_conv", (40, 60), TwoConvSettings(conv1_channels=2, conv2_channels=3, hidden_units=8))
    found = []
    predict(trainer, module, batches, lambda *pair: found.append(pair), title="predicting val")
    return found, module, trainer


def test_a_pass_is_in_evaluation_mode_without_gradients_and_gives_each_batch():
    found, module, _ = passed(some_batches())
    assert not module.training
    assert torch.cat([batch["index"] for batch, _ in found]).tolist() == list(range(10))
    for batch, prediction in found:
        assert not prediction.estimate.requires_grad
        assert torch.equal(prediction.estimate, module(batch["images"]).detach())


def test_a_pass_calls_no_callback_and_leaves_the_list_of_them_alone():
    watcher = Watcher()
    _, _, trainer = passed(some_batches(), callbacks=[watcher])
    assert watcher in trainer.callbacks
    assert watcher.called == []


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (1.0, 3), (2, 2), (9, 3), (0.4, 1), (0, 0)])
def test_a_pass_ends_after_so_many_batches_as_the_trainer_is_limited_to(limit, count):
    assert len(passed(some_batches(), limit_predict_batches=limit)[0]) == count


def test_the_progress_bar_says_what_is_predicted(capfd):
    passed(some_batches(), callbacks=[TQDMProgressBar()], enable_progress_bar=True)
    assert "predicting val" in capfd.readouterr().err


def test_no_progress_bar_is_shown_where_the_trainer_has_none(capfd):
    passed(some_batches())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("bf16-mixed", torch.float32)])
def test_a_pass_in_half_precision_is_close_to_one_in_full(precision, dtype):
    full, half = passed(some_batches())[0], passed(some_batches(), precision=precision)
    assert next(half[1].parameters()).dtype == dtype
    for (_, one), (_, other) in zip(full, half[0], strict=True):
        assert not torch.equal(one.estimate, other.estimate.float())
        assert torch.allclose(one.estimate, other.estimate.float(), rtol=0.05, atol=0.05)
