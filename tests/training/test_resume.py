"""A run that is stopped and resumed equals one that is not, bit for bit."""

import csv
import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import train
import yaml
from conftest import ROOT, TINY_READER
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from digitsum.errors import InputError
from digitsum.models.checkpoints import load_model
from digitsum.training import recompose
from digitsum.training.resume import Resumable, end_processes
from digitsum.training.signals import Interrupted, Signals

# 5 steps an epoch, the last batch smaller; three epochs
RUN = (
    "data.num_train=70", "data.num_val=20", "data.num_test=10", "data.batch_size=16", "trainer.max_epochs=3",
    "trainer.accelerator=cpu", "trainer.log_every_n_steps=2", "model.hidden_units=8", "model.conv1_channels=2",
    "model.conv2_channels=3", "trainer.enable_progress_bar=false",
    "callbacks.prediction_logger.num_images=1",
)  # fmt: skip


@pytest.fixture
def run(command, tmp_path, datasets_dir):
    def run_(folder, *words):
        places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path / folder}")
        return command(train.main, *RUN, *places, *words)

    return run_


@pytest.fixture
def resume(command, tmp_path):
    return lambda folder, *words: command(
        train.main, f"resume='{tmp_path / folder}'", f"outputs_dir={tmp_path}", *words
    )


@pytest.fixture
def stop_at(monkeypatch):
    """Let a signal arrive in the middle of a training step."""

    def arm(step, signum):
        original = Resumable.on_train_batch_end

        def on_train_batch_end(self, trainer, *arguments):
            if trainer.global_step == step:
                monkeypatch.setattr(Resumable, "on_train_batch_end", original)
                os.kill(os.getpid(), signum)
            original(self, trainer, *arguments)

        monkeypatch.setattr(Resumable, "on_train_batch_end", on_train_batch_end)

    return arm


def scalars_of(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return sorted((tag, event.step, event.value) for tag in board.Tags()["scalars"] for event in board.Scalars(tag))


def images_of(folder):
    board = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return sorted((tag, event.step) for tag in board.Tags()["images"] for event in board.Images(tag))


def same_tensors(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same_tensors(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same_tensors, ours, theirs))
    return ours == theirs


def assert_equal_runs(ours, theirs):
    for name in ("history.csv", "metrics.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    for name in ("best.ckpt", "last.ckpt"):
        contents = [torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (ours, theirs)]
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert same_tensors(contents[0][part], contents[1][part]), (name, part)
        assert same_tensors(*(content["callbacks"]["Resumable"] for content in contents)), name
    assert scalars_of(ours) == scalars_of(theirs)
    assert images_of(ours) == images_of(theirs)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Filled by the first test that needs it."""
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def whole(uninterrupted, run):
    if not (uninterrupted / "metrics.json").exists():
        assert run(uninterrupted).code == 0
    return uninterrupted


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 10, 14, 15])
def test_a_run_stopped_at_any_step_and_resumed_equals_the_whole_one(whole, run, resume, stop_at, tmp_path, step):
    stop_at(step, signal.SIGTERM)
    result = run("stopped")
    assert result.code == 143, result.text
    assert f"resume={tmp_path / 'stopped'}" in result.out
    assert resume("stopped").code == 0
    assert_equal_runs(tmp_path / "stopped", whole)


def test_a_run_stopped_many_times_equals_the_whole_one(whole, run, resume, stop_at, tmp_path):
    stop_at(2, signal.SIGINT)
    assert run("stopped").code == 130
    for step in (3, 6, 8, 13):
        stop_at(step, signal.SIGINT)
        assert resume("stopped").code == 130
    assert resume("stopped").code == 0
    assert_equal_runs(tmp_path / "stopped", whole)


def test_ctrl_c_ends_a_whole_sweep(command, stop_at, tmp_path, datasets_dir):
    stop_at(2, signal.SIGINT)
    places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.sweep.dir={tmp_path}/sweep")
    assert command(train.main, "-m", *RUN, *places, "seed=0,1").code == 130
    assert [path.name for path in sorted((tmp_path / "sweep").iterdir()) if path.is_dir()] == ["00_seed-0"]


def test_a_schedule_is_resumed_in_its_middle(run, resume, stop_at, tmp_path):
    assert run("whole", "model.schedule=one_cycle").code == 0
    stop_at(7, signal.SIGTERM)
    assert run("stopped", "model.schedule=one_cycle").code == 143
    assert resume("stopped").code == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


def test_without_any_checkpoint_a_resumed_run_starts_from_the_beginning(whole, run, resume, tmp_path):
    assert run("early", "trainer.max_epochs=3").code == 0
    folder = tmp_path / "early"
    for name in ("metrics.json", "history.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        (folder / name).unlink()
    result = resume("early")
    assert "from the beginning" in result.out
    assert_equal_runs(folder, whole)


def test_a_finished_run_resumed_says_so_and_changes_nothing(whole, command, tmp_path):
    def state():
        return {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}

    before = state()
    result = command(train.main, f"resume='{whole}'", f"outputs_dir={tmp_path}")
    assert result.code == 0
    assert "is finished" in result.out
    assert state() == before


def test_a_finished_run_is_trained_longer_as_if_it_had_been_planned_so(whole, run, resume, tmp_path):
    assert run("short", "trainer.max_epochs=1").code == 0
    assert resume("short", "trainer.max_epochs=3").code == 0
    assert_equal_runs(tmp_path / "short", whole)
    assert yaml.safe_load((tmp_path / "short" / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_a_schedule_that_was_laid_out_cannot_be_made_longer(run, resume):
    assert run("cosine", "model.schedule=cosine", "trainer.max_epochs=1").code == 0
    result = resume("cosine", "trainer.max_epochs=3")
    assert result.code == 1
    assert "laid out for 1 epochs" in result.text


def test_latest_is_the_newest_run(command, tmp_path, datasets_dir):
    words = (*RUN, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", "trainer.max_epochs=1")
    assert command(train.main, *words).code == 0
    result = command(train.main, "resume=latest", f"outputs_dir={tmp_path}")
    assert "is finished" in result.out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_changed_setting_is_refused(whole, resume, run, tmp_path):
    assert run("base", "trainer.max_epochs=1").code == 0
    result = resume("base", "model.lr=1e-2", "trainer.max_epochs=2")
    assert result.code == 1
    assert "model.lr cannot change in a resumed run" in result.text


def test_changed_data_are_refused(command, tmp_path):
    root = tmp_path / "arrays"
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 30), dtype=np.uint8)
    np.save(root / "data0.npy", images)
    np.save(root / "lab0.npy", np.arange(40, dtype=np.uint8))
    keys = [word for word in RUN if not word.startswith("data.")]
    words = ("data=arrays", f"data.root={root}", f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run", *keys)
    assert command(train.main, *words, "trainer.max_epochs=1").code == 0
    np.save(root / "lab0.npy", np.arange(40, dtype=np.uint8)[::-1])
    result = command(train.main, f"resume={tmp_path}/run", f"outputs_dir={tmp_path}", "trainer.max_epochs=2")
    assert result.code == 1
    assert "data have changed since the checkpoint" in result.text


def test_no_folder_is_made_for_a_run_that_does_not_exist(command, tmp_path):
    result = command(train.main, f"resume={tmp_path}/nothing", f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert "expected a run's folder with config.yaml" in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text
    assert not (tmp_path / "nothing").exists()


def test_a_new_run_starts_from_the_weights_of_a_checkpoint(whole, run, tmp_path):
    assert (
        run("tuned", f"init_from='{whole}/checkpoints/best.ckpt'", "model.lr=1e-12", "trainer.max_epochs=1").code == 0
    )
    weights = [
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, tmp_path / "tuned")
    ]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-8) for name in weights[0])


def test_weights_of_another_shape_are_refused(whole, run):
    result = run("other", f"init_from='{whole}/checkpoints/best.ckpt'", "model.hidden_units=9")
    assert result.code == 1
    assert "do not fit this network" in result.text


def test_a_reader_has_the_size_of_the_weights_that_it_starts_from(command, tmp_path, datasets_dir):
    older = ROOT / "tests" / "models" / "checkpoints_0_4" / "reader.ckpt"
    places = f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path / 'tuned'}"
    result = command(train.main, *TINY_READER, *places, f"init_from='{older}'", "model.width=5", "test=false")
    assert result.code == 0, result.text
    assert "init_from: weights of model.width=2 model.depth=4" in result.text
    settings = load_model(tmp_path / "tuned" / "checkpoints" / "best.ckpt").net.settings
    assert (settings.width, settings.depth, settings.num_digits) == (2, 4, 4)


def test_a_reader_recorded_before_there_was_a_depth_goes_on_with_its_own(command, resume, tmp_path, datasets_dir):
    folder = tmp_path / "older"
    places = f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={folder}"
    options = "warm_start=none", "model.depth=4", "model.optimizer=adam", "model.schedule=constant", "test=false"
    result = command(train.main, *TINY_READER, *places, *options)
    assert result.code == 0, result.text
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["model"]["depth"], config["model"]["optimizer"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = resume("older", "trainer.max_epochs=2")
    assert result.code == 0, result.text
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["depth"] == 4


def test_checkpoints_are_written_within_an_epoch_on_request(run, stop_at, tmp_path, monkeypatch):
    saved = []
    original = Resumable.on_train_batch_end

    def watch(self, trainer, *arguments):
        original(self, trainer, *arguments)
        if self.path.exists():
            saved.append(torch.load(self.path, weights_only=True)["global_step"])

    monkeypatch.setattr(Resumable, "on_train_batch_end", watch)
    assert run("often", "save_every_n_steps=2", "trainer.max_epochs=1").code == 0
    assert sorted(set(saved)) == [2, 4]
    saved.clear()
    assert run("timed", "save_every_n_minutes=1e-9", "trainer.max_epochs=1").code == 0
    assert sorted(set(saved)) == [1, 2, 3, 4]


@pytest.mark.parametrize("word", ["save_every_n_steps=0", "save_every_n_minutes=-1"])
def test_an_interval_that_is_not_positive_is_refused(run, word):
    result = run("never", word)
    assert result.code == 1
    assert "expected a positive number" in result.text


def test_a_second_signal_does_not_wait_unless_it_repeats_the_first(monkeypatch):
    signals = Signals()
    with signals.listening():
        signals.deferred = True
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.pending == signal.SIGINT
        monkeypatch.setattr("digitsum.training.signals.REPEAT", 0.0)
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.signum == signal.SIGINT


def test_a_signal_outside_of_training_acts_at_once_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    signals = Signals()
    with signals.listening(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_a_run_writes_into_is_refused_to_another(run, tmp_path):
    from digitsum.files import locked

    with locked(tmp_path / "busy"):
        result = run("busy")
    assert result.code == 1
    assert "another process is writing" in result.text
    assert run("busy").code == 0


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    from digitsum.cli.output_dirs import run_folder

    folders = {run_folder(str(tmp_path), None) for _ in range(5)}
    assert len(folders) == 5


def test_a_loss_that_is_no_number_stops_the_run_and_says_why(run, tmp_path):
    result = run("exploded", "model.lr=1e30")
    assert result.code == 1
    assert "the loss is" in result.text
    assert "model.lr too high" in result.text
    assert "Traceback" not in result.text
    assert not (tmp_path / "exploded" / "metrics.json").exists()


@pytest.mark.parametrize(("error", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
@pytest.mark.parametrize("write", [1, 2, 3, 4, 5, 7, 10, 13])
def test_a_disk_that_fails_at_any_write_is_one_line_and_the_run_can_be_resumed(
    whole, run, resume, tmp_path, monkeypatch, write, error, words
):
    writes = itertools.count(1)
    flush = os.fsync

    def fsync(number):
        if next(writes) == write:
            raise OSError(error, os.strerror(error))
        flush(number)

    with monkeypatch.context() as patch:
        patch.setattr("digitsum.files.os.fsync", fsync)
        result = run("failed")
    assert result.code == 1
    assert words in result.text
    assert str(tmp_path / "failed") in result.text
    assert "Traceback" not in result.text
    left = [path.name for path in (tmp_path / "failed").rglob("*") if path.suffix in (".tmp", ".ckpt")]
    assert not [name for name in left if name.endswith(".tmp")]
    for name in left:
        torch.load(tmp_path / "failed" / "checkpoints" / name, weights_only=True)  # whole, if it is there
    if (tmp_path / "failed" / "config.yaml").exists():
        assert resume("failed").code == 0
        assert_equal_runs(tmp_path / "failed", whole)


def test_an_outputs_folder_that_cannot_be_written_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("")
    result = command(train.main, *RUN, f"outputs_dir={tmp_path}/file")
    assert result.code == 1
    assert f"cannot write {tmp_path}/file/runs" in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text


def test_too_little_space_for_checkpoints_is_found_before_the_first_epoch(run, monkeypatch, tmp_path):
    monkeypatch.setattr("digitsum.files.shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    result = run("small")
    assert result.code == 1
    assert "MB of free space for checkpoints, found 1 MB" in result.text
    assert not (tmp_path / "small" / "history.csv").exists()


def test_a_record_neither_downloads_nor_keeps_data_sets_elsewhere(run, resume, tmp_path):
    assert run("base", "trainer.max_epochs=1").code == 0
    path = tmp_path / "base" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"download": True, "datasets_dir": str(tmp_path / "elsewhere")}
    path.write_text(yaml.safe_dump(config))
    assert resume("base", "trainer.max_epochs=2").code == 0
    assert not (tmp_path / "elsewhere").exists()
    assert yaml.safe_load(path.read_text())["data"]["download"] is False


def test_weights_alone_cannot_be_resumed(run, resume, tmp_path):
    assert run("base", "trainer.max_epochs=1").code == 0
    path = tmp_path / "base" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({key: content[key] for key in ("state_dict", "hyper_parameters", "global_step")}, path)
    result = resume("base", "trainer.max_epochs=2")
    assert result.code == 1
    assert "found weights alone; use init_from" in result.text
    assert (tmp_path / "base" / "metrics.json").exists()


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path):
    with pytest.raises(InputError, match="an older version wrote it"):
        Resumable(tmp_path / "last.ckpt", Signals()).load_state_dict({"rng": torch.get_rng_state(), "mid_epoch": None})


def test_weights_are_left_as_safetensors_on_request(run, tmp_path):
    assert run("safe", "safetensors=true", "trainer.max_epochs=1").code == 0
    images = torch.zeros((2, 40, 168), dtype=torch.uint8)
    folder = tmp_path / "safe"
    models = [load_model(folder / name) for name in ("best.safetensors", "checkpoints/best.ckpt")]
    assert torch.equal(*(model(images) for model in models))


def test_what_a_killed_process_logged_after_its_checkpoint_is_not_seen_again(whole, run, resume, stop_at, tmp_path):
    stop_at(7, signal.SIGTERM)
    assert run("killed").code == 143
    time.sleep(1)  # event files are read in the order of the seconds in their names
    with SummaryWriter(str(tmp_path / "killed")) as board:
        board.add_scalar("lr", 99, 8)
        board.add_image("val/scatter", np.zeros((3, 4, 4)), 10)
        board.add_scalar("val/mae", 99, 10)
        board.add_scalar("val/mae", 99, 15)
    last = max((tmp_path / "killed").glob("events*"))
    last.write_bytes(last.read_bytes()[:-7])  # in the middle of a record
    time.sleep(1)
    assert resume("killed").code == 0
    assert_equal_runs(tmp_path / "killed", whole)


def test_a_run_killed_before_the_end_of_its_summary_logs_it_anew(whole, run, resume, tmp_path):
    assert run("killed").code == 0
    (tmp_path / "killed" / "metrics.json").unlink()  # it is written last
    assert resume("killed").code == 0
    assert_equal_runs(tmp_path / "killed", whole)


def test_a_run_stopped_while_it_accumulates_gradients_equals_the_whole_one(run, resume, stop_at, tmp_path):
    words = ("trainer.accumulate_grad_batches=3", "trainer.max_epochs=1")  # steps after the third and the fifth batch
    assert run("whole", *words).code == 0
    assert [step for tag, step, _ in scalars_of(tmp_path / "whole") if tag == "lr"] == [2]
    stop_at(0, signal.SIGTERM)  # after the first batch
    assert run("stopped", *words).code == 143
    assert resume("stopped").code == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


def test_history_and_table_are_the_same_numbers(whole):
    rows = list(csv.DictReader(io.StringIO((whole / "history.csv").read_text())))
    results = json.loads((whole / "metrics.json").read_text())
    assert float(rows[-1]["val/mae"]) == pytest.approx(results["val"]["last"]["mae"], rel=1e-5)


def test_the_processes_that_lightning_started_end_with_the_first():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    launcher = SimpleNamespace(procs=[child])
    end_processes(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
    assert child.returncode == -signal.SIGKILL
    assert launcher.procs == []


def test_an_interval_must_be_positive_in_python_too(tmp_path):
    with pytest.raises(InputError, match="save_every_n_steps"):
        Resumable(tmp_path / "x", Signals(), every_n_steps=-1)


def test_the_readers_augmented_recipe_is_resumed_in_its_middle(command, resume, stop_at, tmp_path, datasets_dir):
    def run(folder):
        places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.run.dir={tmp_path / folder}")
        return command(train.main, *TINY_READER, "trainer.max_epochs=2", *places)

    assert run("whole").code == 0
    stop_at(4, signal.SIGTERM)
    assert run("stopped").code == 143
    assert resume("stopped").code == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("step", [5, 8])
def test_a_run_on_recomposed_canvases_is_resumed_in_its_middle(
    command, resume, stop_at, tmp_path, datasets_dir, monkeypatch, step
):
    asked = []

    def read_digits(trainer, module):  # a network that has learned nothing reads nothing
        asked.append(trainer.current_epoch)
        train = trainer.datamodule.folder / "train" / "truth0.npz"
        return torch.from_numpy(np.load(train)["digits"])

    def read_glyphs(trainer, module, recomposition):  # nor does it tell glyphs apart
        asked.append("glyphs")
        return torch.linspace(0.5, 1, recomposition.num_drawn)

    monkeypatch.setattr(recompose, "read_digits", read_digits)
    monkeypatch.setattr(recompose, "read_glyphs", read_glyphs)
    words = (
        *TINY_READER, "recompose=0.5", "hard_glyphs=8", "warm_start=none", f"outputs_dir={tmp_path}",
        "trainer.max_epochs=4", f"data.datasets_dir={datasets_dir}",
    )  # fmt: skip
    whole = command(train.main, *words, f"hydra.run.dir={tmp_path}/whole")
    assert "recompose: from 1" in whole.text  # a hundred and some glyphs
    assert asked == [1, "glyphs", 2, "glyphs"]
    assert command(train.main, *words, "recompose=0", f"hydra.run.dir={tmp_path}/without").code == 0
    assert command(train.main, *words, "hard_glyphs=2", f"hydra.run.dir={tmp_path}/softer").code == 0
    histories = {(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "without", "softer")}
    assert len(histories) == 3
    asked.clear()
    stop_at(step, signal.SIGINT)
    assert command(train.main, *words, f"hydra.run.dir={tmp_path}/stopped").code == 130
    assert resume("stopped").code == 0
    assert asked == [1, "glyphs", 2, "glyphs"]  # within an epoch it does not read again: the weights are others by then
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("step", [3, 7, 12])
def test_the_csv_loggers_rows_are_those_of_the_whole_run(run, resume, stop_at, tmp_path, step):
    assert run("whole", "logger=csv").code == 0
    stop_at(step, signal.SIGTERM)
    assert run("cut", "logger=csv").code == 143
    assert resume("cut").code == 0
    assert (tmp_path / "cut" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_mlflow_goes_on_in_the_same_run(run, resume, stop_at, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs MLflow, which the extra `mlflow` installs")
    stop_at(7, signal.SIGTERM)
    assert run("cut", "logger=mlflow").code == 143
    result = resume("cut", "trainer.max_epochs=4")
    assert result.code == 0, result.text
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'digitsum'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("cut", "FINISHED")
    assert [entry.step for entry in client.get_metric_history(found.info.run_id, "val/mae")] == [5, 10, 15, 20]
    metrics = json.loads((tmp_path / "cut" / "metrics.json").read_text())
    assert found.data.metrics["test/mae"] == pytest.approx(metrics["test"]["model"]["mae"])
    assert found.data.params["data"] == "demo"


def test_wandb_writes_offline_and_goes_on_under_the_same_id(run, resume, stop_at, tmp_path):
    pytest.importorskip("wandb", reason="needs Weights & Biases, which the extra `wandb` installs")
    stop_at(7, signal.SIGTERM)
    assert run("cut", "logger=wandb").code == 143
    result = resume("cut")
    assert result.code == 0, result.text
    import wandb

    wandb.teardown()  # as the end of a process does: only then all is on the disk
    files = sorted((tmp_path / "cut" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.stem for file in files}) == 1
    before, after = (file.read_bytes() for file in files)
    assert b"val/mae" in before
    assert b"test/mae" not in before
    assert b"test/mae" in after


def test_a_resumed_run_sends_nothing_for_its_records_sake(run, resume, stop_at, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs MLflow, which the extra `mlflow` installs")
    stop_at(7, signal.SIGTERM)
    assert run("cut", "logger=mlflow").code == 143
    path = tmp_path / "cut" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["logger"]["tracking_uri"] = f"sqlite:///{tmp_path}/theirs.db"
    path.write_text(yaml.safe_dump(config))
    assert resume("cut").code == 0
    assert not (tmp_path / "theirs.db").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_one_line(run, monkeypatch, name):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
    result = run("none", f"logger={name}")
    assert result.code == 1
    assert f"logger={name} needs {name}; install it with: pip install -e '.[{name}]'" in result.text
    assert "Traceback" not in result.text
