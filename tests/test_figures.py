"""The figures show what they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from digitsum.errors import InputError
from digitsum.figures import (
    RED,
    Example,
    canvases_figure,
    examples_figure,
    loss_figure,
    reliability_figure,
    scaling_figure,
    scatter_figure,
    speeds_figure,
    tolerate_failure,
)


def axes_of(figure):
    return figure.axes[0]


def test_the_loss_figure_has_both_curves_and_the_mean_baseline():
    axes = axes_of(loss_figure(np.arange(1, 4), np.array([30, 20, 10]), np.array([25, 15, 12]), 33.0))
    curves = {line.get_label().split()[0]: line.get_ydata() for line in axes.lines}
    assert list(curves["training"]) == [30, 20, 10]
    assert list(curves["validation"]) == [25, 15, 12]
    assert list(curves["mean"]) == [33, 33]
    assert "epoch" in axes.get_xlabel()
    assert "sum²" in axes.get_ylabel()


def test_the_scatter_figure_has_a_red_dashed_line_of_the_perfect_prediction_and_the_band():
    target, preds = np.array([3.0, 20.0, 36.0]), np.array([5.0, 18.0, 30.0])
    axes = axes_of(scatter_figure(target, preds, "Test"))
    (line,) = axes.lines
    assert to_hex(line.get_color()) == RED.lower()
    assert line.get_linestyle() == "--"
    assert np.array_equal(line.get_xdata(), line.get_ydata())
    band, points = axes.collections
    assert band.get_label() == "±5"
    offsets = points.get_offsets()
    assert np.array_equal(offsets[:, 1], preds)
    assert np.abs(offsets[:, 0] - target).max() <= 0.3
    assert "3 images" in axes.get_title()


def test_a_sample_is_called_one():
    axes = axes_of(scatter_figure(np.arange(5.0), np.arange(5.0), "Test", total=1_000_000))
    assert "5 of 1,000,000 images" in axes.get_title()


def test_predictions_outside_the_range_of_sums_are_in_sight():
    axes = axes_of(scatter_figure(np.array([3.0]), np.array([-12.0]), "Test"))
    assert axes.get_ylim()[0] < -12


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_each_image_has_its_answer_above_it(count):
    image = np.full((40, 168), 9, np.uint8)
    figure = examples_figure(
        [Example(name, image, number + 0.25, number) for number, name in enumerate("abcdefghijkl"[:count])], "Some"
    )
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == count
    assert shown[0].get_title() == "a: predicted 0.2, true 0"
    (axes, *_) = examples_figure([Example("a", image, 0.25)] * count, "Some", named=False).axes
    assert axes.get_title() == "predicted 0.2"


def test_canvases_have_their_sums_and_float_images_their_range():
    figure = canvases_figure(np.ones((2, 4, 6)), np.array([3, 7]), "Two")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["sum 3", "sum 7"]
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_a_reading_shows_its_digits_above_their_places_and_the_answer_among_its_bars():
    image = np.zeros((40, 168), np.uint8)
    probs = np.zeros((2, 37))
    probs[0, 12], probs[1, 30], probs[1, 31] = 1, 0.4, 0.6
    examples = [
        Example("", image, 12, 12, probs[0], (4, 8), (20.0, 60.0)),
        Example("", image, 31, 30, probs[1], (9, 9, 9, 4), (10.0, 40.0, 70.0, 100.0)),
    ]
    figure = examples_figure(examples, "title", named=False)
    above = [axes for axes in figure.axes if axes.images]
    assert [[(text.get_text(), text.get_position()[0]) for text in axes.texts] for axes in above] == [
        [("4", 20.0), ("8", 60.0)],
        [("9", 10.0), ("9", 40.0), ("9", 70.0), ("4", 100.0)],
    ]
    assert [axes.get_title() for axes in above] == ["predicted 12 (100%), true 12", "predicted 31 (60%), true 30"]
    bars = [axes for axes in figure.axes if axes.patches]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars[1].patches}
    assert (heights[30], heights[31], heights[32]) == (0.4, 0.6, 0)


def test_a_true_sum_that_the_model_thinks_impossible_is_no_error_in_the_figure():
    examples_figure([Example("", np.zeros((40, 168), np.uint8), 0, 99, np.ones(1))], "title")


def test_the_reliability_figure_shows_every_bin_with_its_images():
    confidence, accuracy, images = np.array([0.5, 0.99]), np.array([0.4, 0.98]), np.array([10, 1_000])
    figure = reliability_figure(confidence, accuracy, images, np.array([0.5, 1.0]), np.array([1.0, 0.97]), "title")
    reliability, selective = figure.axes
    assert [text.get_text() for text in reliability.texts] == ["10", "1,000"]
    assert selective.lines[0].get_xydata().tolist() == [[0.5, 1.0], [1.0, 0.97]]


def test_errors_that_fall_far_are_shown_on_a_logarithmic_axis():
    epochs = np.arange(1, 4)
    far = axes_of(loss_figure(epochs, np.array([95, 2, 0.8]), np.array([3, 1, 0.4]), 33.0))
    near = axes_of(loss_figure(epochs, np.array([30, 20, 10]), np.array([25, 15, 12]), 33.0))
    assert (far.get_yscale(), near.get_yscale()) == ("log", "linear")
    assert near.get_ylim()[0] == 0


def test_speeds_are_bars_of_the_medians_below_a_line_of_the_limit():
    panels = {
        "training": {"ours": [500.0, 540.0, 560.0], "textbook": [230.0, 231.0, 232.0]},
        "prediction": {"ours": [9.0]},
    }
    figure = speeds_figure(panels, {"training": 1_374.2}, "a machine")
    training, prediction = figure.axes
    assert [bar.get_width() for bar in training.patches] == [540, 231]
    assert [label.get_text().strip() for label in training.get_yticklabels()] == ["ours", "textbook"]
    assert [text.get_text() for text in training.texts] == ["540", "231"]
    spans = [list(line.get_xdata()) for line in training.lines]
    assert spans == [[500, 560], [230, 232], [1_374.2, 1_374.2]]
    assert training.get_xlim()[1] > 1_374.2
    assert "1,374" in training.get_title("left")
    assert len(prediction.lines) == 1  # no limit is known
    assert figure.get_suptitle() == "a machine"


def test_what_depends_on_the_number_of_images_is_shown_over_a_logarithmic_axis():
    figure = scaling_figure([1_000, 100_000], {"images/s": [[4.0, 6.0, 5.0], [3.0, 3.0, 3.0]]}, "a machine")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0
    assert axes.lines[0].get_xydata().tolist() == [[1_000, 5], [100_000, 3]]
    assert axes.get_ylabel() == "images/s"


def test_a_figure_that_cannot_be_drawn_is_one_line_in_the_log(caplog):
    with tolerate_failure("loss.png"):
        raise ValueError("no such\nfont")
    assert [record.message for record in caplog.records] == ["loss.png cannot be drawn: ValueError: no such font"]


def test_a_figure_that_cannot_be_written_is_an_error():
    with pytest.raises(InputError), tolerate_failure("loss.png"):
        raise InputError("the disk is full")
