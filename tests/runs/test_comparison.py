"""What differs between runs, and which of them belong together."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import fake_run, metrics_row
from hypothesis import given, settings
from hypothesis import strategies as st

from digitsum.errors import InputError
from digitsum.runs.comparison import Row, Run, compare, differing, labels, read_run, read_runs, recorded_settings


def run(mae=2.0, name="run", **settings):
    found = {key.replace("__", "."): value for key, value in settings.items()}
    return Run(Path(name), found, metrics_row(mae), None, None, [(1.0, mae)], 100.0, 1.0, None)


def test_settings_have_the_names_and_values_of_the_command_line(tmp_path):
    folder = fake_run(tmp_path / "a", model__num_digits=[2, 6], trainer__precision=False, init_from=None)
    found = read_run(folder).settings
    assert found["model.num_digits"] == "[2,6]"
    assert found["model.lr"] == "0.001"
    assert found["trainer.precision"] == "false"
    assert found["init_from"] == "null"
    assert found["logger"] == "TensorBoardLogger"


def test_half_a_character_becomes_one_that_can_be_written():
    assert recorded_settings({"a\ud800": ["\ud800"], "b": "\ud800"}) == {"a?": '["\\ud800"]', "b": "?"}


def test_paths_and_what_follows_from_other_settings_are_no_settings(finished_run):
    found = read_run(finished_run).settings
    assert {"seed", "model.lr", "data.num_train", "data.glyphs"} <= set(found)
    assert not [name for name, value in found.items() if str(finished_run) in value]
    assert not {"data.datasets_dir", "data.mnist_root", "outputs_dir", "callbacks.checkpoint.monitor", "test"} & set(
        found
    )


def test_what_is_equal_in_all_runs_is_no_column_and_the_others_keep_their_order():
    runs = [run(b="1", a="1", same="1", seed="0"), run(b="2", a="2", same="1", seed="1")]
    assert differing(runs) == ["b", "a", "seed"]
    assert differing(runs[:1]) == []


def test_settings_of_another_network_are_columns_only_if_they_differ_among_its_runs():
    runs = [
        run(network="two_conv", units="8", kernel="3"),
        run(network="two_conv", units="16", kernel="3"),
        run(network="reader", width="2"),
    ]
    assert differing(runs) == ["network", "units"]
    assert [row.settings["units"] for row in compare(runs)] == ["8", "16", "-"]


def test_runs_with_and_without_a_setting_are_told_apart_even_if_its_value_never_differs():
    runs = [run(lr="1", seed="0"), run(lr="1", seed="1", stop="EarlyStopping", stop__patience="3")]
    assert differing(runs) == ["seed", "stop"]
    assert [row.settings for row in compare(runs)] == [{"stop": "-"}, {"stop": "EarlyStopping"}]


def test_the_mean_over_seeds_decides_and_the_best_run_of_a_row_comes_first():
    runs = [
        run(1.0, lr="1", seed="0"),
        run(9.0, lr="1", seed="1"),
        run(4.0, lr="2", seed="0"),
        run(3.0, lr="2", seed="1"),
    ]
    rows = compare(runs)
    assert [row.settings["lr"] for row in rows] == ["2", "1"]
    assert rows[0].values("val/mae") == [3.0, 4.0]
    assert rows[1].mean("val/mae") == 5.0
    assert rows[0].values("test/mae") == []
    runs = [replace(one, folder=Path(str(number))) for number, one in enumerate(runs)]
    assert [row.runs[0].val["mae"] for row in compare(runs, each=True)] == [1.0, 3.0, 4.0, 9.0]


def test_rows_go_by_their_rank_and_the_settings_that_they_have():
    rows = [Row([run()], {"model.lr": "0.123456789012", "data.x": "-"}), Row([run()], {"model.lr": "1", "data.x": "y"})]
    assert labels(rows) == ["1: lr=0.1235", "2: lr=1, x=y"]
    rows = [Row([run()], {"a.x": "1", "b.x": "2"}), Row([run()], {})]
    assert labels(rows[:1]) == ["1: a.x=1, b.x=2"]
    assert labels(rows[1:]) == ["1: all runs"]


def test_a_curve_has_gaps_where_its_error_is_not_finite_or_not_measured(tmp_path):
    folder = fake_run(tmp_path / "a", curve=[3.0, "nan", "inf", ""])
    (first, *others) = read_run(folder).curve
    assert first == (1.0, 3.0)
    assert [epoch for epoch, _ in others] == [2, 3, 4]
    assert all(math.isnan(error) for _, error in others)


METRICS = {"val": {"model": metrics_row(2.0)}}


TIMING = {"fit_seconds": 1.0, "epochs": [{"train_images_per_second": 5.0}]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{}"),
        ("metrics.json", "[1, 2]"),
        ("metrics.json", "null"),
        ("metrics.json", "[" * 100_000),
        ("metrics.json", json.dumps({"val": {"model": []}})),
        ("metrics.json", json.dumps({"val": {"model": {**metrics_row(2.0), "mae": float("nan")}}})),
        ("metrics.json", json.dumps({"val": {"model": {**metrics_row(2.0), "mae": 10**400}}})),
        ("metrics.json", json.dumps({"val": {"model": {**metrics_row(2.0), "mae": "2"}}})),
        ("metrics.json", json.dumps({"val": {"model": {**metrics_row(2.0), "mae": True}}})),
        ("metrics.json", json.dumps({"val": {"model": {**metrics_row(2.0), "exact": 1.5}}})),
        ("metrics.json", json.dumps({**METRICS, "test": 3})),
        ("metrics.json", json.dumps({**METRICS, "train": {"model": {"mae": 1}}})),
        ("metrics.json", json.dumps(METRICS) + " " * 10_000_000),
        ("timing.json", "{}"),
        ("timing.json", json.dumps({**TIMING, "epochs": []})),
        ("timing.json", json.dumps({**TIMING, "epochs": [7]})),
        ("timing.json", json.dumps({**TIMING, "fit_seconds": -1})),
        ("timing.json", json.dumps({**TIMING, "num_parameters": [1]})),
        ("history.csv", ""),
        ("history.csv", "epoch,val/mae\n"),
        ("history.csv", "epoch,val/mae\n1\n2,3,4\nx,5\n"),
        ("history.csv", "epoch,val/mae\n2,1\n1,1\n"),
        ("history.csv", "epoch,val/mae\nnan,1\n"),
        ("history.csv", "epoch,val/mae\n1e300,1\n"),
        ("history.csv", "epoch,val/mae\n" + "9" * 200_000 + ",1\n"),
        ("history.csv", "epoch,val/mae\n\0,1\n"),
        ("config.yaml", "[1, 2]"),
        ("config.yaml", "a: &x 1\nb: *x\n"),
        ("config.yaml", "x: " + "[" * 45_000),
        ("config.yaml", "x:\n" + "- " * 20_000),
        ("config.yaml", "\n".join(" " * depth + "a:" for depth in range(300))),
        ("config.yaml", "x: 1\n" * 20_000),
        ("config.yaml", "!!python/object/apply:os.system [echo]"),
    ],
)
def test_a_damaged_run_is_left_out_with_one_line_of_reason(tmp_path, name, text):
    whole = fake_run(tmp_path / "a")
    damaged = fake_run(tmp_path / "b")
    (damaged / name).write_text(text)
    runs, (line,) = read_runs([whole, damaged])
    assert [one.folder for one in runs] == [whole]
    assert line.startswith(str(damaged))
    assert "\n" not in line
    assert len(line) < 1000


def test_a_record_that_is_no_file_is_not_waited_for(tmp_path):
    for name in ("config.yaml", "metrics.json", "timing.json", "history.csv"):
        folder = fake_run(tmp_path / name)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match=name):
            read_run(folder)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["config.yaml", "metrics.json", "timing.json", "history.csv"]),
    st.floats(0, 1),
    st.integers(0, 20),
    st.binary(max_size=6),
)
def test_a_run_damaged_at_random_is_read_or_left_out(tmp_path_factory, name, place, dropped, more):
    folder = fake_run(tmp_path_factory.mktemp("runs") / "a")
    path = folder / name
    content = path.read_bytes()
    place = int(place * len(content))
    path.write_bytes(content[:place] + more + content[place + dropped :])
    runs, left_out = read_runs([folder])
    assert len(runs) + len(left_out) == 1
    if runs:
        compare([*runs, run()])
