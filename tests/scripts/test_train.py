"""`scripts/train.py` as people call it: what a run leaves behind, sweeps, and mistakes."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import train
import yaml
from conftest import ROOT, TINY, TINY_READER
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import digitsum.cli.train

METRICS = {"mse", "rmse", "mae", "within_5", "within_1", "exact", "count"}


@pytest.fixture
def tiny(command, tmp_path, datasets_dir):
    """Train a tiny run, or a sweep of them, below `tmp_path`."""

    def run(*words):
        flags = [word for word in words if word.startswith("-")]  # Hydra takes them before the overrides alone
        rest = [word for word in words if word not in flags]
        places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}")
        return command(train.main, *flags, *TINY, *places, *rest)

    return run


def board_of(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def read_rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_run_leaves_every_file(finished_run):
    files = {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()}
    assert {
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "environment.json", "history.csv", "loss.png",
        "metrics.json", "scatter.png", "timing.json",
    } <= files  # fmt: skip
    assert not [name for name in files if name.endswith(".tmp")]


def test_the_metrics_file_has_each_split_and_answer(finished_run):
    results = json.loads((finished_run / "metrics.json").read_text())
    assert set(results) == {"train", "val", "test"}
    for split, count in (("train", 40), ("val", 20), ("test", 10)):
        assert set(results[split]) == {"model", "last", "baseline"}
        for row in results[split].values():
            assert set(row) == METRICS
            assert row["count"] == count
            assert 0 <= row["exact"] <= row["within_1"] <= row["within_5"] <= 1
            assert row["rmse"] == pytest.approx(row["mse"] ** 0.5, rel=1e-5)


def test_the_validation_figures_of_history_and_table_agree(finished_run):
    (row,) = read_rows(finished_run / "history.csv")
    table = json.loads((finished_run / "metrics.json").read_text())["val"]["last"]
    for name in METRICS - {"count"}:
        assert float(row[f"val/{name}"]) == pytest.approx(table[name], rel=1e-4)


def test_the_history_has_no_times_and_one_row_an_epoch(tiny, tmp_path):
    assert tiny("trainer.max_epochs=3", "test=false").code == 0
    rows = read_rows(next((tmp_path / "runs").iterdir()) / "history.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["step"]) for row in rows] == [3, 6, 9]
    assert not [name for name in rows[0] if "time" in name or "second" in name]


def test_the_config_and_the_environment_tell_how_the_run_was_made(finished_run):
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["model"]["hidden_units"] == 8
    assert "${" not in (finished_run / "config.yaml").read_text()
    environment = json.loads((finished_run / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith("2.")
    assert environment["command"].startswith("python ")
    assert environment["machine"]["cores"] >= 1


def test_figures_are_pictures_of_a_legible_size(finished_run):
    for name in ("loss.png", "scatter.png"):
        with Image.open(finished_run / name) as picture:
            assert min(picture.size) >= 500
            assert np.asarray(picture.convert("L")).std() > 10


def test_tensorboard_has_all_stages_pictures_and_hyperparameters(finished_run):
    board = board_of(finished_run)
    scalars = set(board.Tags()["scalars"])
    for name in METRICS - {"count"}:
        assert {f"train/{name}", f"val/{name}", f"test/{name}"} <= scalars
    assert {"train/loss", "val/loss", "best/val_mae"} <= scalars
    assert {"val/scatter", "val/answers"} <= set(board.Tags()["images"])
    with Image.open(io.BytesIO(board.Images("val/answers")[0].encoded_image_string)) as picture:
        assert picture.size[0] >= 500
    results = json.loads((finished_run / "metrics.json").read_text())
    assert board.Scalars("test/mae")[-1].value == pytest.approx(results["test"]["model"]["mae"])
    assert board.Scalars("best/val_mae")[-1].value == pytest.approx(results["val"]["model"]["mae"], rel=1e-5)
    assert "_hparams_/session_start_info" in board.summary_metadata


def hparams_of(folder):
    content = board_of(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items()
    }


def test_the_hparams_tab_has_the_main_settings_of_a_run_and_what_its_command_names(tiny, tmp_path):
    assert tiny("experiment=smoke", "model.hidden_units=9").code == 0
    values = hparams_of(next((tmp_path / "runs").iterdir()))
    assert (values["data"], values["model"]) == ("demo", "two_conv")
    assert (values["experiment"], values["model.lr"], values["seed"]) == ("smoke", 1e-3, 0)
    assert (values["model.hidden_units"], values["data.num_train"]) == (9, 40)
    assert not [name for name in values if name.endswith(("_dir", "root"))]


def test_the_hparams_tab_has_what_differs_between_the_jobs_of_a_sweep(tiny, tmp_path):
    assert tiny("-m", "model.lr=1e-3,3e-4", "model.pooling=max,average", "seed=3").code == 0
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert hparams_of(sweep / "03_lr-3e-4_pooling-average") == {"model.lr": 3e-4, "model.pooling": "average"}


def test_a_single_run_prints_table_paths_and_the_next_commands(tiny):
    result = tiny()
    assert result.code == 0, result.text
    for words in ("within 5", "baseline", "last epoch", "metrics.json", "scripts/predict.py ckpt_path=", "tensorboard"):
        assert words in result.out
    assert "Tip" not in result.text


def test_the_table_rates_the_best_checkpoint_and_the_last_epoch_apart(tiny, tmp_path):
    # a rate this high makes the second epoch worse than the first
    assert tiny("trainer.max_epochs=2", "model.lr=0.3", "seed=1").code == 0
    folder = next((tmp_path / "runs").iterdir())
    rows = read_rows(folder / "history.csv")
    best = min(float(row["val/mae"]) for row in rows)
    assert best < float(rows[-1]["val/mae"])
    checkpoints = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    }
    assert [checkpoints[name]["global_step"] for name in ("best", "last")] == [3, 6]
    table = json.loads((folder / "metrics.json").read_text())["val"]
    assert table["model"]["mae"] == pytest.approx(best, rel=1e-4)
    assert table["last"]["mae"] == pytest.approx(float(rows[-1]["val/mae"]), rel=1e-4)


def test_the_test_set_is_left_alone_when_asked(tiny, tmp_path):
    assert tiny("test=false").code == 0
    folder = next((tmp_path / "runs").iterdir())
    assert "test" not in json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(("logger", "left"), [("csv", {"metrics.csv", "hparams.yaml"}), ("none", set())])
def test_other_loggers_leave_no_events(tiny, tmp_path, logger, left):
    assert tiny(f"logger={logger}").code == 0
    names = {path.name for path in next((tmp_path / "runs").iterdir()).iterdir()}
    assert left <= names
    assert not [name for name in names if name.startswith("events")]
    assert {"history.csv", "loss.png", "metrics.json"} <= names


def test_early_stopping_stops(tiny, tmp_path):
    stop = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100")
    assert tiny(*stop, "trainer.max_epochs=5").code == 0
    assert len(read_rows(next((tmp_path / "runs").iterdir()) / "history.csv")) == 2


def test_a_dry_run_of_one_batch_works(tiny):
    result = tiny("trainer.fast_dev_run=true")
    assert result.code == 0, result.text


def test_equal_seeds_give_equal_weights_and_others_others(tiny, tmp_path):
    for number, seed in enumerate((0, 0, 1)):
        assert tiny(f"seed={seed}", f"run_dir={tmp_path}/{number}", "test=false").code == 0
    weights = [
        torch.load(tmp_path / str(number) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for number in range(3)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    histories = [(tmp_path / str(number) / "history.csv").read_bytes() for number in range(3)]
    assert histories[0] == histories[1] != histories[2]


def test_a_sweep_has_a_named_folder_a_log_and_no_test_figures_for_each_job(tiny, tmp_path):
    result = tiny("-m", "model.lr=1e-3,3e-4", "seed=0,1")
    assert result.code == 0, result.text
    (sweep,) = (tmp_path / "sweeps").iterdir()
    folders = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert folders == ["00_lr-1e-3_seed-0", "01_lr-1e-3_seed-1", "02_lr-3e-4_seed-0", "03_lr-3e-4_seed-1"]
    for name in folders:
        assert "within 5" in (sweep / name / "train.log").read_text()
        assert "test" not in json.loads((sweep / name / "metrics.json").read_text())
    assert "Epoch" not in result.err


def test_the_jobs_of_a_sweep_equal_the_same_runs_alone(tiny, tmp_path):
    assert tiny("-m", "seed=0,1").code == 0
    assert tiny("seed=1", "test=false", f"run_dir={tmp_path}/alone").code == 0
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert (sweep / "01_seed-1" / "history.csv").read_bytes() == (tmp_path / "alone" / "history.csv").read_bytes()


def test_a_failing_job_has_its_reason_in_its_log_and_at_the_end_and_stops_no_other(tiny, tmp_path):
    result = tiny("-m", "model.lr=-1,1e-3")
    assert result.code != 0
    assert "model.lr" in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.text
    (sweep,) = (tmp_path / "sweeps").iterdir()
    assert "model.lr: expected a positive number" in (sweep / "00_lr-1" / "train.log").read_text()
    assert (sweep / "01_lr-1e-3" / "metrics.json").exists()


def test_the_objective_is_the_best_validation_score(finished_run):
    # main returns what run returns; the fixture's run is one of the same settings
    results = json.loads((finished_run / "metrics.json").read_text())
    checkpoint = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    saver = next(state for name, state in checkpoint["callbacks"].items() if name.startswith("BestCheckpoint"))
    assert float(saver["best_model_score"]) == pytest.approx(results["val"]["model"]["mae"], rel=1e-5)


def test_own_arrays_are_trained_on(command, tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "own data"
    root.mkdir()
    for shard in range(2):
        np.save(root / f"data{shard}.npy", rng.integers(0, 256, (30, 30, 50, 1), dtype=np.uint8))
        np.save(root / f"label{shard}.npy", rng.integers(0, 37, (30, 1)).astype(np.float32))
    keys = [word for word in TINY if word.startswith(("model", "trainer"))]
    result = command(train.main, "data=arrays", f"data.root='{root}'", f"outputs_dir={tmp_path}", *keys)
    assert result.code == 0, result.text
    assert "48 train, 6 val, 6 test images of 30x50" in result.out


def test_bad_data_is_one_line_and_leaves_no_checkpoint(tiny, tmp_path, command):
    result = command(train.main, "data=arrays", f"data.root={tmp_path}/nowhere", f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert result.text.strip().count("\n") == 0, result.text
    assert "expected a folder of shards, found nothing" in result.text
    assert not list(tmp_path.rglob("*.ckpt"))


def test_debug_shows_the_traceback(command, tmp_path):
    with pytest.raises(ValueError, match="found nothing"):
        command(train.main, "data=arrays", f"data.root={tmp_path}/no", f"outputs_dir={tmp_path}", "debug=true")


def test_help_is_answered_without_the_long_imports():
    code = (
        f"import runpy, sys; sys.argv = ['train.py', '--help']; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'hydra', 'lightning'} & set(sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "python scripts/train.py experiment=smoke" in outcome.stdout


def test_tensorboard_shows_what_the_reader_reads_each_epoch(finished_reader):
    board = EventAccumulator(str(finished_reader), size_guidance={"images": 0}).Reload()
    assert {"val/answers", "val/scatter"} <= set(board.Tags()["images"])


@pytest.mark.parametrize("told", ["4", "[2,5]", "[3,6]"])
def test_a_reader_told_of_other_counts_than_the_canvases_hold_is_refused(command, tmp_path, told):
    words = ("data.layout.num_digits=[2,6]", "data.layout.width=252", f"model.num_digits={told}")
    result = command(train.main, *TINY_READER, *words, f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 1
    assert "the canvases hold [2,6] digits; set model.num_digits=[2,6], or null where" in result.text


@pytest.mark.parametrize("told", ["[2,6]", "[1,8]", "null"])
def test_a_reader_told_of_counts_that_hold_the_canvases_is_trained(command, tmp_path, datasets_dir, told):
    words = ("data.layout.num_digits=[2,6]", "data.layout.width=252", f"model.num_digits={told}", "logger=none")
    places = (f"outputs_dir={tmp_path}", f"hydra.run.dir={tmp_path}/run", f"data.datasets_dir={datasets_dir}")
    result = command(train.main, *TINY_READER, *words, *places)
    assert result.code == 0, result.text


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key.*")  # there is no best epoch: that is so
def test_a_run_that_ends_before_its_first_validation_has_no_loss_figure_but_all_else(tiny, tmp_path):
    result = tiny("trainer.max_steps=1")
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "loss.png").exists()
    assert set(json.loads((folder / "metrics.json").read_text())) == {"train", "val", "test"}
    (row,) = read_rows(folder / "history.csv")
    assert row["step"] == "1"
    assert not [name for name in row if name.startswith("val/")]


def test_an_epoch_that_ends_before_its_validation_does_not_show_that_of_the_one_before(tiny, tmp_path):
    result = tiny("trainer.max_epochs=-1", "trainer.max_steps=4")  # of three an epoch
    assert result.code == 0, result.text
    (folder,) = (tmp_path / "runs").iterdir()
    whole, cut = read_rows(folder / "history.csv")
    assert float(whole["val/mae"]) > 0
    assert cut["val/mae"] == ""
    assert (folder / "loss.png").exists()


def test_a_compiled_network_is_compiled_in_place(tiny, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    assert tiny("compile=true").code == 0
    assert [type(network).__name__ for network in compiled] == ["TwoConv"]


def test_a_network_that_cannot_be_compiled_is_told_in_one_line(tiny, monkeypatch):
    def fail(*_, **__):
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(digitsum.cli.train, "train", fail)
    result = tiny("compile=true")
    assert result.code == 1
    assert "error: compile: the network cannot be compiled here (No working C++ compiler found)" in result.text
    assert "Traceback" not in result.text
