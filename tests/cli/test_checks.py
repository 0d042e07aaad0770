"""Each of the Trainer's arguments leaves a whole record, or is refused in a line before anything is trained."""

import json

import pytest
import torch
import train
from conftest import TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digitsum.metrics import monitor_mode

RECORD = ("config.yaml", "environment.json", "history.csv", "metrics.json", "timing.json", "checkpoints/best.ckpt")


@pytest.fixture
def run(command, tmp_path, datasets_dir):
    places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path}/run")
    quiet = ("trainer.enable_progress_bar=false", "test=false")

    def run_(*words):
        result = command(train.main, *TINY, *quiet, *places, *words)
        result.folder = tmp_path / "run"
        return result

    return run_


RUNS = [
    ("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"),
    ("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2", "callbacks.checkpoint.save_top_k=-1"),
    ("trainer.max_epochs=2", "trainer.val_check_interval=0.5"),
    ("trainer.max_epochs=-1", "trainer.max_steps=4"),
    ("trainer.max_epochs=-1", "trainer.max_time='00:00:00:01'"),
    ("trainer.accumulate_grad_batches=2",),
    ("trainer.gradient_clip_val=0.5", "trainer.gradient_clip_algorithm=value"),
    ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
    ("trainer.overfit_batches=1",),
    ("trainer.num_sanity_val_steps=2",),
    ("trainer.log_every_n_steps=1", "logger=csv"),
    ("logger=none",),
    ("trainer.detect_anomaly=true", "trainer.inference_mode=false"),
    ("trainer.enable_model_summary=true", "trainer.profiler=simple"),
    ("callbacks=early_stopping", "monitor=val/within_5", "trainer.max_epochs=2"),
    ("monitor=train/loss",),
    ("~callbacks.prediction_logger",),
]


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_a_run_leaves_a_whole_record(run, words):
    result = run(*words)
    assert result.code == 0, result.text
    assert [name for name in RECORD if not (result.folder / name).is_file()] == []
    assert set(json.loads((result.folder / "metrics.json").read_text())) == {"train", "val"}


REFUSED = [
    (("~callbacks.checkpoint",), "callbacks: expected callbacks.checkpoint"),
    (("callbacks=null",), "Config group override must be a string or a list"),
    (("trainer.strategy=ddp_spawn",), "trainer.strategy: expected auto or ddp, got ddp_spawn"),
    (("trainer.strategy=fsdp",), "trainer.strategy: expected auto or ddp, got fsdp"),
    (("trainer.barebones=true",), "trainer.barebones: expected false"),
    (("trainer.enable_checkpointing=false",), "trainer.enable_checkpointing: expected true"),
    (("trainer.reload_dataloaders_every_n_epochs=1",), "trainer.reload_dataloaders_every_n_epochs: expected 0"),
    (("trainer.limit_val_batches=0", "callbacks=early_stopping"), "trainer.limit_val_batches: expected more than 0"),
    (("trainer.limit_train_batches=0",), "trainer.limit_train_batches: expected more than 0"),
    (("trainer.max_epochs=0",), "trainer.max_epochs: expected 1 or more"),
    (("trainer.max_steps=0",), "trainer.max_steps: expected 1 or more"),
    (("trainer.check_val_every_n_epoch=2",), "trainer.check_val_every_n_epoch: expected at most trainer.max_epochs=1"),
    (("trainer.gradient_clip_algorithm=sum",), "trainer: "),
    (("trainer.profiler=no",), "trainer: "),
    (("trainer.precision=7",), "trainer: "),
    (("trainer.accelerator=quantum",), "trainer: "),
    (("callbacks.checkpoint.save_top_k=0",), "callbacks.checkpoint.save_top_k: expected 1 or more, or -1"),
    (("callbacks.checkpoint.save_top_k=-2",), "callbacks.checkpoint.save_top_k: expected 1 or more, or -1"),
    (("callbacks.checkpoint.mode=max",), "callbacks.checkpoint.mode: expected min, as less of val/mae is better"),
    (
        ("callbacks.checkpoint.monitor=val/mse",),
        "callbacks.checkpoint.monitor: expected val/mae, as a run has it, got val/mse",
    ),
    (("monitor=val/mea",), "monitor: expected val/ or train/ and one of"),
    (("monitor=test/mae",), "monitor: expected val/ or train/ and one of"),
    (("monitor=mae",), "did you mean val/mae?"),
    (("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/exakt"), "did you mean val/exact?"),
    (
        ("callbacks=early_stopping", "monitor=train/mae"),
        "callbacks.early_stopping.monitor: expected a metric of the val",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_would_leave_none_is_refused_in_one_line_before_training(run, words, message):
    result = run(*words)
    assert result.code == 1
    assert message in result.text
    assert "Traceback" not in result.text
    assert len(result.err.strip().splitlines() or [""]) == 1
    assert not (result.folder / "history.csv").exists()


def rows_of(folder):
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.mark.parametrize("top_k", [1, 2, -1])
@pytest.mark.parametrize("monitor", ["val/mae", "val/exact", "val/within_5", "val/loss"])
def test_best_is_the_best_epoch_of_what_is_monitored(run, monitor, top_k):
    words = ("trainer.max_epochs=4", "model.lr=4e-2", "model.dense_dropout=0", "model.conv_dropout=0")
    result = run(*words, f"monitor={monitor}", f"callbacks.checkpoint.save_top_k={top_k}", "logger=tensorboard")
    assert result.code == 0, result.text
    rows = rows_of(result.folder)
    better = max if monitor_mode(monitor) == "max" else min
    best = better(rows, key=lambda row: float(row[monitor]))  # the first of equals, as Lightning has it
    saved = torch.load(result.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["global_step"] == int(best["step"])
    kept = {path.name for path in (result.folder / "checkpoints").iterdir()} - {"best.ckpt", "last.ckpt"}
    assert len(kept) == {1: 0, 2: 2, -1: 4}[top_k]
    board = EventAccumulator(str(result.folder)).Reload()
    assert f"best/{monitor.replace('/', '_')}" in board.Tags()["scalars"]


@pytest.mark.parametrize(("monitor", "better"), [("val/exact", max), ("val/mse", min)])
def test_a_sweep_names_the_job_that_is_best_in_what_is_monitored(command, tmp_path, datasets_dir, monitor, better):
    places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.sweep.dir={tmp_path}/sweep")
    words = ("seed=0,1", f"monitor={monitor}", "model.lr=1e-2", "trainer.max_epochs=2")
    result = command(train.main, "-m", *TINY, *places, *words)
    assert result.code == 0, result.text
    scores = {
        folder.name: better(float(row[monitor]) for row in rows_of(folder))
        for folder in sorted((tmp_path / "sweep").glob("0*"))
    }
    best = better(scores, key=scores.get)
    assert f"best of 2: {best} ({monitor} {scores[best]:.4f})" in result.text
