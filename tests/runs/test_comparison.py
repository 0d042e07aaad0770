"""What differs between runs, which of them belong together, and the figures of both."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import fake_run, metrics_row
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from digitsum.errors import InputError
from digitsum.figures import BLUE, GREY, ORANGE
from digitsum.runs.comparison import Row, Run, compare, differing, flat, labels, read_run, read_runs
from digitsum.runs.comparison_figures import curves_figure, parallel_figure, scale_of, settings_figure
from digitsum.runs.locate import find_runs, newest_sweep, read_config


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
    assert flat({"a\ud800": ["\ud800"], "b": "\ud800"}) == {"a?": '["\\ud800"]', "b": "?"}


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


def test_strange_values_of_settings_are_shown_as_text_and_drawn(tmp_path):
    strange = ["1e400", "$x^$", "\\frac", "-", "", "1e-320", "a" * 500, "{}", "ü\n", ".nan"]
    runs = [
        read_run(fake_run(tmp_path / str(number), 2.0 + number, model__lr=value))
        for number, value in enumerate(strange)
    ]
    rows = compare(runs)
    assert len(rows) == len(strange)
    values = {"model.lr": [row.settings["model.lr"] for row in rows]}
    scores = np.array([row.mean("val/mae") for row in rows])
    groups = [(label, [np.array(one.curve) for one in row.runs]) for label, row in zip(labels(rows), rows, strict=True)]
    for figure in (
        settings_figure(values, scores, "error", "title"),
        parallel_figure(values, scores, "error", "title"),
        curves_figure(groups, "title"),
    ):
        figure.savefig(os.devnull, format="png")


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


def test_numbers_that_are_spaced_so_have_a_logarithmic_axis():
    assert scale_of(["0.001", "0.01", "0.0001"]).log
    assert scale_of(["32", "64", "128", "16"]).log
    assert not scale_of(["1", "2", "3"]).log
    assert not scale_of(["0.1", "0.2"]).log
    scale = scale_of(["0.001", "0.1", "0.01"])
    assert scale.ticks == [0.001, 0.01, 0.1]
    assert np.allclose(scale.to_unit(scale.places), [0, 1, 0.5])
    assert scale_of(["3000", "24000", "12000", "6000"]).labels == ["3000", "6000", "12000", "24000"]


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["max", "average", "max"], ["average", "max"]),
        (["4", "null", "-", "16"], ["4", "16", "-", "null"]),
        (["0.01", "0", "0.0001", "0.001"], ["0", "0.0001", "0.001", "0.01"]),
    ],
)
def test_what_no_axis_of_numbers_could_show_becomes_categories(values, order):
    scale = scale_of(values)
    assert scale.categories
    assert list(scale.labels) == order
    assert [order[int(place)] for place in scale.places] == values


def curve(*errors):
    return np.column_stack([np.arange(1.0, len(errors) + 1), errors])


def test_curves_of_seeds_are_thin_and_their_mean_goes_as_far_as_all_of_them():
    axes = curves_figure([("first", [curve(4, 2, 1), curve(6, 4)]), ("second", [curve(7, 7)])], "title").axes[0]
    first = [line for line in axes.lines if to_hex(line.get_color()) == BLUE.lower()]
    assert sorted(len(line.get_ydata()) for line in first) == [2, 2, 3]
    (mean,) = [line for line in first if line.get_label() == "first"]
    assert list(mean.get_ydata()) == [5, 3]
    assert mean.get_linewidth() > max(line.get_linewidth() for line in first if line is not mean)


def test_of_many_groups_the_best_few_have_colours_and_the_others_are_grey():
    figure = curves_figure([(f"group {rank}", [curve(rank + 2, rank + 1)]) for rank in range(30)], "title")
    colours = [to_hex(line.get_color()) for line in figure.axes[0].lines]
    assert colours.count(GREY) == 25
    assert len(set(colours)) == 6
    assert [text.get_text() for text in figure.legends[0].texts] == [
        *(f"group {rank}" for rank in range(5)),
        "the other 25",
    ]


def test_ten_groups_are_told_apart():
    figure = curves_figure([(f"group {rank}", [curve(rank + 2, rank + 1)]) for rank in range(10)], "title")
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 10


def test_errors_that_fall_far_are_drawn_on_a_logarithmic_axis():
    assert curves_figure([("", [curve(40, 1)])], "title").axes[0].get_yscale() == "log"
    assert curves_figure([("", [curve(20, 1)])], "title").axes[0].get_yscale() == "linear"


def test_the_settings_figure_has_a_panel_for_each_setting_with_every_run_and_the_means():
    settings = {"lr": ["0.01", "0.001", "0.1", "0.01"], "pooling": ["max", "max", "average", "average"]}
    figure = settings_figure(settings, np.array([1.0, 2.0, 4.0, 3.0]), "error", "title")
    left, right = (axes for axes in figure.axes if axes.get_xlabel())
    assert (left.get_xlabel(), left.get_xscale()) == ("lr", "log")
    assert left.get_ylabel() == "error"
    assert [list(point) for point in left.collections[0].get_offsets()] == [[0.01, 1], [0.001, 2], [0.1, 4], [0.01, 3]]
    means, best = left.lines
    assert (list(means.get_xdata()), list(means.get_ydata())) == ([0.001, 0.01, 0.1], [2, 2, 4])
    assert list(best.get_xdata()) == [0.01, 0.01]
    assert [text.get_text() for text in right.get_xticklabels()] == ["average", "max"]
    assert list(right.lines[0].get_ydata()) == [3.5, 1.5]


def test_of_very_many_settings_the_first_twelve_are_drawn_and_it_says_so():
    settings = {f"s{number}": ["1", "2"] for number in range(20)}
    figure = settings_figure(settings, np.array([1.0, 2.0]), "error", "title")
    assert sum(bool(axes.get_xlabel()) for axes in figure.axes) == 12
    assert "the first 12 of 20 settings" in figure.get_suptitle()
    axes = parallel_figure(settings, np.array([1.0, 2.0]), "error", "title").axes[0]
    assert len(axes.get_xticks()) == 13


def test_parallel_lines_pass_their_values_and_the_best_one_stands_out():
    settings = {"a": ["1", "2", "3"], "b": ["x", "y", "x"], "c": ["0.1", "0.1", "0.2"]}
    axes = parallel_figure(settings, np.array([1.0, 2.0, 3.0]), "error", "title").axes[0]
    (best,) = [line for line in axes.lines if line.get_label() == "best"]
    assert to_hex(best.get_color()) == ORANGE.lower()
    assert np.allclose(best.get_ydata(), [0, 0, 0, 0], atol=0.03)
    worst = axes.lines[0]
    assert np.allclose(worst.get_ydata(), [1, 0, 1, 1], atol=0.03)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c", "error"]
