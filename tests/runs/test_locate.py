"""Finding runs and sweeps, and reading what a run recorded."""

import os

import pytest
from conftest import fake_run

from digitsum.errors import InputError
from digitsum.runs.locate import (
    BEST_CHECKPOINT,
    CONFIG_FILE,
    METRICS_FILE,
    find_runs,
    newest_run,
    newest_sweep,
    read_config,
)


def test_runs_are_found_below_folders_once_each_by_name(tmp_path):
    for name in ("b", "a/deep/er"):
        fake_run(tmp_path / name)
    fake_run(tmp_path / "b" / "below a run")
    assert find_runs([tmp_path, tmp_path / "b"]) == [tmp_path / "a" / "deep" / "er", tmp_path / "b"]
    with pytest.raises(InputError, match="expected a folder of runs"):
        find_runs([tmp_path / "c"])
    with pytest.raises(InputError, match="expected a folder of runs"):
        find_runs([tmp_path / ("x" * 300)])


def test_the_newest_sweep_is_the_one_that_changed_last(tmp_path):
    with pytest.raises(InputError, match="found no sweep"):
        newest_sweep(tmp_path)
    for name, age in (("b", 2), ("a", 1), ("c", 3)):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        os.utime(tmp_path / "sweeps" / name, (10_000 - age, 10_000 - age))
    (tmp_path / "sweeps" / "file").touch()
    assert newest_sweep(tmp_path).name == "a"


def test_configs_are_read_as_they_were_written(tmp_path, finished_run):
    config = read_config(finished_run)
    assert config["model"]["epsilon"] == 1e-7
    assert config["model"]["hidden_units"] == 8
    assert config["init_from"] is None
    assert config["logger"]["name"] == ""


def test_the_newest_run_of_a_network_is_found_among_others(tmp_path):
    for number, (name, network) in enumerate([("a", "reader"), ("b", "reader"), ("c", "two_conv")]):
        run = fake_run(tmp_path / "runs" / name, model__network=network)
        (run / BEST_CHECKPOINT).parent.mkdir()
        (run / BEST_CHECKPOINT).touch()
        os.utime(run / METRICS_FILE, (number, number))
    assert newest_run(tmp_path, finished=True).name == "c"
    assert newest_run(tmp_path, finished=True, network="reader").name == "b"
    (tmp_path / "runs" / "b" / CONFIG_FILE).write_text("model: [")
    assert newest_run(tmp_path, finished=True, network="reader").name == "a"
    with pytest.raises(InputError, match=r"no finished run of a linear; .* model=linear or pass"):
        newest_run(tmp_path, finished=True, network="linear")
