"""The figures of a comparison, and the axes that settings get."""

import os

import numpy as np
import pytest
from conftest import fake_run
from matplotlib.colors import to_hex

from digitsum.figures import BLUE, GREY, ORANGE
from digitsum.runs.comparison import compare, labels, read_run
from digitsum.runs.comparison_figures import along_figure, curves_figure, parallel_figure, scale_of, settings_figure


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
        along_figure(dict(list(values.items())[:2]), scores, "error", "title"),
        parallel_figure(values, scores, "error", "title"),
        curves_figure(groups, "title"),
    ):
        figure.savefig(os.devnull, format="png")


def test_numbers_that_are_spaced_so_have_a_logarithmic_axis():
    assert scale_of(["0.001", "0.01", "0.0001"]).log
    assert scale_of(["32", "64", "128", "16"]).log
    assert not scale_of(["1", "2", "3"]).log
    assert not scale_of(["0.1", "0.2"]).log
    scale = scale_of(["0.001", "0.1", "0.01"])
    assert scale.ticks == [0.001, 0.01, 0.1]
    assert np.allclose(scale.to_unit(scale.positions), [0, 1, 0.5])
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
    assert [order[int(position)] for position in scale.positions] == values


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


def test_a_score_along_a_setting_has_points_for_runs_and_a_line_of_means_for_each_value_of_the_other():
    settings = {"data.num_train": ["300", "3000", "300", "300"], "warm_start": ["none", "none", "auto", "none"]}
    (axes,) = along_figure(settings, np.array([1.0, 2.0, 5.0, 3.0]), "error", "title").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"warm_start=auto": [[300, 5]], "warm_start=none": [[300, 2], [3000, 2]]}
    assert sorted(len(points.get_offsets()) for points in axes.collections) == [1, 3]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("data.num_train", "error")
    (axes,) = along_figure({"model.lr": ["1", "2"]}, np.array([1.0, 2.0]), "error", "title").axes
    assert len(axes.lines) == 1
    assert axes.get_legend() is None


def test_parallel_lines_pass_their_values_and_the_best_one_stands_out():
    settings = {"a": ["1", "2", "3"], "b": ["x", "y", "x"], "c": ["0.1", "0.1", "0.2"]}
    axes = parallel_figure(settings, np.array([1.0, 2.0, 3.0]), "error", "title").axes[0]
    (best,) = [line for line in axes.lines if line.get_label() == "best"]
    assert to_hex(best.get_color()) == ORANGE.lower()
    assert np.allclose(best.get_ydata(), [0, 0, 0, 0], atol=0.03)
    worst = axes.lines[0]
    assert np.allclose(worst.get_ydata(), [1, 0, 1, 1], atol=0.03)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c", "error"]
