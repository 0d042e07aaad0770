"""The LightningModule: what it logs, and that learning is what it says."""

from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from digitsum.errors import InputError
from digitsum.metrics import StageMetrics, sum_metrics
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.two_conv import TwoConvSettings

SMALL = TwoConvSettings(conv1_channels=2, conv2_channels=3, hidden_units=8)
NAMES = {"loss", "mse", "rmse", "mae", "within_5", "within_1", "exact"}


def batches(count=5, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        [
            {
                "images": torch.randint(0, 256, (size - number % 2, 40, 60), dtype=torch.uint8, generator=generator),
                "sums": torch.randint(0, 37, (size - number % 2,), generator=generator),
            }
            for number in range(count)
        ],
        batch_size=None,
    )


def quiet_trainer(**arguments):
    return L.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **{"logger": False, **arguments},
    )  # fmt: skip


@pytest.fixture
def module():
    torch.manual_seed(0)
    return SumModule("two_conv", (40, 60), SMALL, train_mean=18.0)


class Recorder(DummyLogger):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step):
        self.lines.append((step, metrics))


def validated(module):
    """The metrics of a pass over the batches."""
    trainer = quiet_trainer()
    trainer.validate(module, batches(), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_an_epochs_metrics_are_logged_at_once_and_are_what_monitors_see(module):
    trainer = quiet_trainer(max_epochs=2, logger=(recorder := Recorder()))
    trainer.fit(module, batches(), batches())
    (first, before), (second, after) = recorder.lines
    assert (first, second) == (5, 10)
    assert set(before) == set(after) == {f"{stage}/{name}" for stage in ("train", "val") for name in NAMES}
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == after


def test_an_epoch_that_ends_before_its_validation_has_no_metrics_of_the_last_one(module):
    trainer = quiet_trainer(max_steps=7, logger=(recorder := Recorder()))
    trainer.fit(module, batches(), batches())
    step, metrics = recorder.lines[-1]
    assert step == 7
    assert set(metrics) == {f"train/{name}" for name in NAMES}


def test_metrics_are_computed_once_an_epoch(module, monkeypatch):
    computed, compute = [], StageMetrics.compute
    monkeypatch.setattr(StageMetrics, "compute", lambda self: computed.append(self.loss_name) or compute(self))
    quiet_trainer(max_epochs=2).fit(module, batches(), batches())
    assert computed == ["val/loss", "train/loss"] * 2


def test_logged_figures_are_those_of_all_images_though_batches_are_uneven(module):
    logged = validated(module)
    module.eval()
    preds = torch.cat([module(batch["images"]) for batch in batches()])
    target = torch.cat([batch["sums"] for batch in batches()])
    expected = sum_metrics("val/")
    expected.update(preds, target)
    for name, value in expected.compute().items():
        assert logged[name] == pytest.approx(value.item(), rel=1e-4)
    assert logged["val/loss"] == pytest.approx(logged["val/mse"], rel=1e-4)


def test_a_few_epochs_between_two_validations_bring_the_loss_down(module):
    before = validated(module)["val/loss"]
    quiet_trainer(max_epochs=12).fit(module, batches(), batches())
    assert validated(module)["val/loss"] < 0.5 * before


def test_the_optimiser_takes_its_own_settings():
    settings = OptimizerSettings(lr=3e-4, beta1=0.8, beta2=0.9, epsilon=1e-5, weight_decay=0.1)
    optimizer = SumModule("two_conv", (40, 60), SMALL, settings).configure_optimizers()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-4, (0.8, 0.9), 1e-5, 0.1)


def test_without_weight_decay_a_step_is_adams():
    torch.manual_seed(0)
    settings = replace(SMALL, conv_dropout=0.0, dense_dropout=0.0)
    ours, theirs = (SumModule("two_conv", (40, 60), settings) for _ in "ab")
    theirs.load_state_dict(ours.state_dict())
    optimizers = ours.configure_optimizers(), torch.optim.Adam(theirs.parameters(), lr=1e-3, eps=1e-7)
    for _ in range(3):
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            for batch in batches():
                optimizer.zero_grad()
                module.net.loss(module.net(batch["images"]), batch["sums"]).backward()
                optimizer.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-6)


class RateRecorder(L.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(("schedule", "check"), [
    ("constant", lambda rates: set(rates) == {1e-3}),
    ("cosine", lambda rates: rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and rates[-1] < 1e-4),
    ("one_cycle", lambda rates: max(rates) == pytest.approx(1e-3, rel=0.05) and 1 < rates.index(max(rates)) < 8
     and rates[0] < 1e-4 and rates[-1] < 1e-4),
])  # fmt: skip
def test_the_schedule_runs_over_the_whole_training(schedule, check):
    module, recorder = SumModule("two_conv", (40, 60), SMALL, OptimizerSettings(schedule=schedule)), RateRecorder()
    quiet_trainer(max_epochs=4, callbacks=[recorder]).fit(module, batches(), batches())
    assert len(recorder.rates) == 20
    assert check(recorder.rates), recorder.rates


@pytest.mark.parametrize(("key", "value"), [
    ("lr", 0.0), ("lr", float("inf")), ("beta1", 1.0), ("beta2", -0.1), ("epsilon", -1e-9),
    ("weight_decay", float("nan")),
    ("schedule", "steps"),
])  # fmt: skip
def test_an_optimiser_setting_out_of_range_is_refused_by_its_name(key, value):
    with pytest.raises(InputError, match=f"model.{key}"):
        OptimizerSettings(**{key: value})


def test_a_rise_of_one_step_is_a_schedule_too():
    module = SumModule("two_conv", (40, 168), optimizer=OptimizerSettings(schedule="one_cycle", warmup=0.1))
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, max_epochs=1)
    assert module.configure_optimizers()["lr_scheduler"]["interval"] == "step"


def test_a_schedule_without_an_end_is_refused():
    module = SumModule("two_conv", (40, 168), optimizer=OptimizerSettings(schedule="one_cycle"))
    module._trainer = SimpleNamespace(estimated_stepping_batches=float("inf"), max_epochs=-1)
    with pytest.raises(InputError, match="needs an end, got -1"):
        module.configure_optimizers()
