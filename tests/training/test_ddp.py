"""Training on several processes: the same figures as on one, one folder, and a stop that stops them all."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import predict
import pytest
import torch
import train
from conftest import ROOT, TINY
from test_resume import assert_equal_runs

from digitsum.cli.output_dirs import from_rank_zero, is_rank_zero, run_folder
from digitsum.errors import InputError
from digitsum.models.base import Prediction
from digitsum.models.module import SumModule
from digitsum.models.two_conv import TwoConvSettings

TRAIN = str(ROOT / "scripts" / "train.py")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
QUIET = ("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=2")


def start(*words, program=(sys.executable,)):
    """A session of its own, so that whatever it leaves running is found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "LOCAL_"))}
    return subprocess.Popen(
        [*program, TRAIN, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process):
    """Exit code and output; nothing is left running."""
    output = process.communicate(timeout=500)[0]
    for _ in range(50):  # the last process of a session may take a moment to go
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, output
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"left processes behind: {output}")


def rows_of(folder):
    with (folder / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_processes_have_the_curve_and_the_figures_of_one(tmp_path, datasets_dir):
    words = (
        *TINY, *QUIET, "trainer.max_epochs=2", "data.num_train=33", "data.num_val=21", "model.conv_dropout=0",
        "model.dense_dropout=0", f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}",
    )  # fmt: skip
    code, output = finish(start(*words, f"hydra.run.dir={tmp_path}/one"))
    assert code == 0, output
    code, output = finish(start(*words, *TWO))  # the last of three batches is one image: one process has none
    assert code == 0, output
    (two,) = (tmp_path / "runs").iterdir()
    for ours, theirs in zip(rows_of(two), rows_of(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    tables = [json.loads((folder / "metrics.json").read_text()) for folder in (two, tmp_path / "one")]
    for split, rows in tables[1].items():
        for who, row in rows.items():
            assert tables[0][split][who] == pytest.approx(row, rel=1e-5)
    names = [{path.name.split(".")[0] for path in folder.rglob("*")} for folder in (two, tmp_path / "one")]
    assert names[0] == names[1]
    for text in (output, (two / "train.log").read_text()):
        assert text.count("mean baseline") == 1
        assert text.count("results go to") == 1
        assert "sync_dist" not in text


@pytest.mark.slow
def test_two_processes_stopped_within_an_epoch_and_resumed_equal_two_that_torchrun_started(tmp_path, datasets_dir):
    words = (
        *TINY, *QUIET, *TWO, "trainer.max_epochs=2", "data.num_train=301", "data.batch_size=4", "save_every_n_steps=1",
        f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}",
    )  # fmt: skip
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    code, output = finish(start(*words, program=torchrun))
    assert code == 0, output
    (whole,) = (tmp_path / "runs").iterdir()

    stopped, process = tmp_path / "stopped", start(*words, f"hydra.run.dir={tmp_path}/stopped")
    while process.poll() is None and not (stopped / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    process.terminate()
    code, output = finish(process)
    assert code == 143, output
    assert f"go on with: python scripts/train.py resume={stopped}" in output
    assert "Traceback" not in output
    states = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Resumable"]["processes"]
    assert [state["mid_epoch"] is not None for state in states] == [True, True]
    assert not torch.equal(states[0]["rng"], states[1]["rng"])  # dropout is not the same twice

    code, output = finish(start(f"resume='{stopped}'", f"outputs_dir={tmp_path}"))
    assert code == 0, output
    assert_equal_runs(stopped, whole)
    code, output = finish(start(f"resume='{stopped}'", f"outputs_dir={tmp_path}", "trainer.max_epochs=3",
                                "trainer.strategy=auto", "trainer.devices=1"))  # fmt: skip
    assert code == 1
    assert "trainer.devices: the run was made by 2 processes, got 1" in output


@pytest.mark.slow
def test_a_mistake_of_both_processes_is_told_once_and_nothing_hangs(tmp_path, datasets_dir):
    words = (*TINY, *QUIET, *TWO, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", "model.lr=1e30")
    code, output = finish(start(*words, "trainer.max_epochs=3"))
    assert code == 1, output
    assert output.count("error: the loss is") == 1
    assert "Traceback" not in output


@pytest.mark.parametrize("words", [("trainer=ddp", "trainer.devices=2"), ("trainer.devices=2",),
                                   ("trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2")])  # fmt: skip
def test_a_sweep_on_several_devices_is_refused_before_its_first_job(command, tmp_path, words):
    result = command(train.main, "-m", *TINY, *words, "trainer.accelerator=cpu", "seed=0,1", f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert result.text.count("expected one device for each job of a sweep") == 1, result.text
    assert not list(tmp_path.rglob("config.yaml"))
    assert not (tmp_path / "datasets").exists()


def test_prediction_on_several_devices_is_refused(command, finished_run, tmp_path):
    checkpoint = finished_run / "checkpoints" / "best.ckpt"
    result = command(predict.main, f"ckpt_path='{checkpoint}'", *TWO, f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert "trainer.devices: expected one device, got 2" in result.text


def test_another_strategy_than_ddp_is_refused_for_several_devices(command, tmp_path):
    result = command(train.main, *TINY, *TWO, "trainer.strategy=ddp_spawn", f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert "trainer.strategy: expected auto or ddp, got ddp_spawn" in result.text


def test_torchrun_with_another_number_of_processes_is_refused(command, tmp_path, monkeypatch):
    for name, value in torchrun_environment().items():
        monkeypatch.setenv(name, value)
    result = command(train.main, *TINY, f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert "expected those of the 2 processes of torchrun, got 1" in result.text


def torchrun_environment(rank=0):
    """What torchrun tells a process, where its own store is at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }  # fmt: skip


@pytest.fixture
def torchrun(monkeypatch):
    """Be one of two processes of torchrun."""
    environment = torchrun_environment()
    store = torch.distributed.TCPStore(
        "127.0.0.1", int(environment["MASTER_PORT"]), is_master=True, wait_for_workers=False
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def become(rank):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))

    become.store = store  # it serves for as long as it lives
    return become


def test_the_processes_of_torchrun_get_one_folder(torchrun, tmp_path):
    folders = []
    for rank in (0, 1):
        torchrun(rank)
        folders.append(run_folder(str(tmp_path), None))
    assert folders[0] == folders[1]
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_what_fails_in_the_first_process_fails_in_the_others(torchrun):
    def fail():
        raise InputError("no such data")

    with pytest.raises(InputError, match="no such data"):
        from_rank_zero("data", fail)
    torchrun(1)
    with pytest.raises(InputError, match="the first process has failed"):
        from_rank_zero("data", fail)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_a_process_that_cannot_agree_on_a_folder_is_refused(monkeypatch, tmp_path, name):
    assert is_rank_zero()
    monkeypatch.setenv(name, "1")
    assert not is_rank_zero()
    with pytest.raises(InputError, match=r"hydra\.run\.dir: expected a folder, the same for all"):
        run_folder(str(tmp_path), None)


def test_a_process_without_an_image_of_a_batch_has_answers_of_none_and_a_gradient_of_zero():
    module = SumModule("two_conv", (40, 60), TwoConvSettings(conv1_channels=2, conv2_channels=3, hidden_units=8))
    module._check_finite = lambda loss, batch_idx: None
    batch = {"images": torch.empty((0, 40, 60), dtype=torch.uint8), "sums": torch.empty(0, dtype=torch.int64)}
    module.training_step(batch | {"loss_weight": 0.0}, 0).backward()
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in module.parameters())
    assert len(module.validation_step(batch, 0)) == 0
    prediction = module.predict(batch["images"])
    assert isinstance(prediction, Prediction)
    assert len(prediction.estimate) == 0


def test_a_part_of_a_batch_counts_by_its_share():
    torch.manual_seed(0)
    options = {"conv1_channels": 2, "conv2_channels": 3, "hidden_units": 8, "conv_dropout": 0.0, "dense_dropout": 0.0}
    module = SumModule("two_conv", (40, 60), TwoConvSettings(**options))
    module._check_finite = module.log = lambda *_, **__: None
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (5, 40, 60), dtype=np.uint8))
    sums = torch.from_numpy(rng.integers(0, 37, 5))
    whole = module.training_step({"images": images, "sums": sums}, 0)
    parts = [
        module.training_step({"images": images[part], "sums": sums[part], "loss_weight": share}, 0)
        for part, share in ((slice(0, 3), 3 * 2 / 5), (slice(3, 5), 2 * 2 / 5))
    ]
    assert (sum(parts) / 2).item() == pytest.approx(whole.item(), rel=1e-5)
    results = module.train_metrics.compute()
    assert results["train/loss"].item() == pytest.approx(whole.item(), rel=1e-5)  # each image twice: the same mean
