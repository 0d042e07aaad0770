"""Every figure, from plain arrays to a matplotlib Figure; knows no Lightning."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digitsum.errors import InputError
from digitsum.files import written_whole

log = logging.getLogger(__name__)

# From the Okabe-Ito palette, which stays apart for colour-blind readers. The line of the perfect prediction is red and
# dashed by the reference's wish; the dashes tell it apart where the red does not.
BLUE, ORANGE, GREY, RED = "#0072B2", "#E69F00", "#707070", "#D62728"

OWN_STYLE = "default"
"""Figures look alike on every machine: what a user's matplotlibrc says, LaTeX for all text say, is not theirs."""


@contextmanager
def tolerate_failure(name: str) -> Iterator[None]:
    """Log in one line that the figure `name` cannot be drawn, and go on; a disk that cannot be written is an error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        log.warning("%s cannot be drawn: %s", name, " ".join(f"{type(error).__name__}: {error}".split()))


@style.context(OWN_STYLE)
def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG to `path`, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    with written_whole(path) as file:
        file.write(content.getvalue())


@style.context(OWN_STYLE)
def loss_figure(epochs: np.ndarray, train_mse: np.ndarray, val_mse: np.ndarray, baseline_mse: float) -> Figure:
    """Training and validation error over epochs; on a logarithmic axis where it falls to a thirtieth or less.

    Args:
        epochs: `(E,)` counted from 1.
        train_mse: `(E,)` mean squared error while learning: the mean over the epoch, with dropout and augmentation.
        val_mse: `(E,)` mean squared error on the validation set after each epoch.
        baseline_mse: of the mean baseline on the validation set.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, train_mse, color=ORANGE, marker="o", markersize=4, label="training (running mean while learning)")
    axes.plot(epochs, val_mse, color=BLUE, marker="s", markersize=4, label="validation")
    axes.axhline(baseline_mse, color=GREY, linestyle=":", label=f"mean baseline ({baseline_mse:.1f})")
    axes.set(xlabel="epoch", ylabel="mean squared error (sum²)", title="Training and validation loss")
    errors = np.concatenate([train_mse, val_mse])
    if 0 < 30 * errors.min() <= errors.max():  # the later epochs would lie on the ground
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@style.context(OWN_STYLE)
def scatter_figure(target: np.ndarray, preds: np.ndarray, title: str, *, total: int | None = None) -> Figure:
    """Actual against predicted sums, with the line of the perfect prediction and the band of +-5.

    Args:
        target: `(N,)` true sums.
        preds: `(N,)` predicted sums.
        title: of the figure.
        total: how many images there are in all, if the arrays are a sample of them.
    """
    figure = Figure(figsize=(6.2, 6), layout="constrained")
    axes = figure.subplots()
    low = min(0.0, float(preds.min(initial=0))) - 1
    high = max(float(target.max(initial=1)), float(preds.max(initial=1))) + 1
    # true sums are whole: spread sideways the points show how many lie on one another; fixed, so that a figure repeats
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(target))
    axes.fill_between([low, high], [low - 5, high - 5], [low + 5, high + 5], color=GREY, alpha=0.15, lw=0, label="±5")
    axes.scatter(target + spread, preds, s=9, alpha=max(0.08, min(0.6, 400 / max(1, len(target)))), color=BLUE, lw=0)
    axes.plot([low, high], [low, high], color=RED, linestyle="--", linewidth=1.8, label="perfect prediction")
    axes.set(
        xlim=(low, high), ylim=(low, high), xlabel="actual sum (spread sideways by up to 0.3)", ylabel="predicted sum"
    )
    shown = f"{len(target):,} of {total:,} images" if total not in (None, len(target)) else f"{len(target):,} images"
    axes.set_title(f"{title}\n{shown}", fontsize=11)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


@style.context(OWN_STYLE)
def predictions_figure(
    images: np.ndarray, preds: np.ndarray, target: np.ndarray | None, title: str, names: Sequence[str] | None = None
) -> Figure:
    """Images, each with the predicted and, where known, the true sum.

    Args:
        images: `(N, H, W)` uint8, or float in [0, 1]; `N` of 1 or more.
        preds: `(N,)` predicted sums.
        target: `(N,)` true sums, or None.
        title: of the figure.
        names: what to call each image, `N` strings.
    """
    figure, panels = _grid(images, title)
    for number, axes in enumerate(panels):
        text = f"predicted {preds[number]:.1f}"
        if target is not None:
            text += f", true {target[number]:.0f}"
        if names is not None:
            text = f"{names[number]}: {text}"
        axes.set_title(text, fontsize=9)
    return figure


@style.context(OWN_STYLE)
def canvases_figure(images: np.ndarray, sums: np.ndarray, title: str) -> Figure:
    """Images `(N, H, W)` uint8 with their sums `(N,)`; `N` of 1 or more."""
    figure, panels = _grid(images, title)
    for axes, total in zip(panels, sums, strict=True):
        axes.set_title(f"sum {total:.0f}", fontsize=9)
    return figure


def _grid(images: np.ndarray, title: str) -> tuple[Figure, list[Axes]]:
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    height = 3.3 * images.shape[1] / images.shape[2] + 0.35
    figure = Figure(figsize=(max(3.4 * columns, 5), rows * height + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for axes, image in zip(panels, images, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    return figure, panels[: len(images)]


@style.context(OWN_STYLE)
def sequences_figure(
    images: np.ndarray,
    probs: np.ndarray,
    digits: Sequence[Sequence[int]],
    positions: Sequence[Sequence[float]],
    target: np.ndarray | None,
    title: str,
    names: Sequence[str] | None = None,
) -> Figure:
    """Images, each with the predicted digits above their positions and the distribution of the sum beneath.

    Args:
        images: `(N, H, W)` uint8, or float in [0, 1]; `N` of 1 or more.
        probs: `(N, S)` the probability of each sum from 0 on.
        digits: `N` times the predicted digits.
        positions: `N` times how far to the right the middle of each is, in pixels.
        target: `(N,)` true sums, or None.
        title: of the figure.
        names: what to call each image, `N` strings.
    """
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 5), rows * 2.1 + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1.3, 1] * rows)
    for axes in panels.flat:
        axes.axis("off")
    for number, image in enumerate(images):
        above, below = panels[2 * (number // columns) : 2 * (number // columns) + 2, number % columns]
        above.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, aspect="auto")
        for digit, place in zip(digits[number], positions[number], strict=True):
            above.text(place, -2, str(digit), color=BLUE, fontsize=11, fontweight="bold", ha="center", va="bottom")
        pred = int(probs[number].argmax())
        text = f"predicted {pred} ({probs[number][pred]:.0%})"
        if target is not None:
            text += f", true {target[number]:.0f}"
        if names is not None:
            text = f"{names[number]}: {text}"
        above.set_title(text, fontsize=9, pad=19)
        _bars(below, probs[number], pred, None if target is None else int(target[number]))
    return figure


@style.context(OWN_STYLE)
def reliability_figure(
    confidence: np.ndarray,
    accuracy: np.ndarray,
    images: np.ndarray,
    coverage: np.ndarray,
    selective_accuracy: np.ndarray,
    title: str,
) -> Figure:
    """A reliability diagram, and the accuracy where the model predicts only what it is confident of.

    Args:
        confidence: `(B,)` mean probability that the model gave its predictions, one for each bin of it.
        accuracy: `(B,)` share of right predictions among them.
        images: `(B,)` how many they are.
        coverage: `(A,)` share of the images that have the highest confidence.
        selective_accuracy: `(A,)` share of right predictions among them.
        title: of the figure.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, other = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="calibrated")
    # a share of n images strays by about sqrt(p (1 - p) / n)
    error = np.sqrt(np.maximum(accuracy * (1 - accuracy), 0.25 / images) / images)
    left.errorbar(confidence, accuracy, error, fmt="o", color=BLUE, capsize=3, label="predictions, with standard error")
    for x, y, count in zip(confidence, accuracy, images, strict=True):
        left.annotate(f"{count:,.0f}", (x, y), xytext=(7, -3), textcoords="offset points", fontsize=8, color=GREY)
    left.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence", ylabel="accuracy")
    left.set_title("Reliability (numbers: images)", fontsize=10)
    left.legend(loc="lower right")
    left.grid(alpha=0.3)
    shown = coverage >= 0.01  # the first few images make a ragged line
    other.plot(coverage[shown], selective_accuracy[shown], color=BLUE)
    other.set(xlabel="coverage: share of images, the most confident first", ylabel="accuracy on them")
    other.set_title("Selective accuracy", fontsize=10)
    other.set_xlim(0, 1.02)
    other.grid(alpha=0.3)
    return figure


@style.context(OWN_STYLE)
def speeds_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]], limits: Mapping[str, float], title: str
) -> Figure:
    """Measured speeds as bars: medians, with a line from the lowest round to the highest.

    Args:
        panels: by heading, by name of the bar: its speed in each round. The first bar of a panel stands out.
        limits: by heading, where there is one: the machine's limit, a dashed line.
        title: of the figure.
    """
    heights = [len(bars) + 0.9 for bars in panels.values()]
    figure = Figure(figsize=(9, 0.45 * sum(heights) + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (heading, bars) in zip(grid.flat, panels.items(), strict=True):
        for place, (name, values) in enumerate(bars.items()):
            middle = float(np.median(values))
            axes.barh(f"{name}  ", middle, 0.7, color=GREY if place else BLUE)
            axes.plot([min(values), max(values)], [place, place], color="black", marker="|", markersize=8)
            axes.annotate(
                f"{middle:,.0f}", (max(values), place), (6, 0), textcoords="offset points", va="center",
                bbox={"color": "white", "pad": 1}, zorder=4,
            )  # fmt: skip
        highest = max(max(values) for values in bars.values())
        if heading in limits:
            highest = max(highest, limits[heading])
            axes.axvline(limits[heading], color=RED, linestyle="--")
            heading += f" (dashed: the best matrix product, {limits[heading]:,.0f})"
        axes.set(xlim=(0, 1.13 * highest), ylim=(len(bars) - 0.5, -0.5))
        axes.set_title(heading, fontsize=10, loc="left")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3, axis="x")
        axes.set_axisbelow(True)
    return figure


@style.context(OWN_STYLE)
def scaling_figure(sizes: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> Figure:
    """What depends on the number of training images, on a logarithmic axis: medians, and every round as a dash.

    Args:
        sizes: numbers of images.
        curves: by name with its unit: for each size, the value in each round.
        title: of the figure.
    """
    figure = Figure(figsize=(7, 0.5 + 2.5 * len(curves)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(curves), 1, squeeze=False, sharex=True)
    for axes, (name, rounds) in zip(grid.flat, curves.items(), strict=True):
        axes.plot(sizes, [np.median(values) for values in rounds], color=BLUE, marker="o", markersize=5)
        axes.plot(sizes, rounds, color=BLUE, linestyle="", marker="_", markersize=10)
        axes.set(ylabel=name, xscale="log", ylim=(0, 1.15 * max(max(values) for values in rounds)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
    grid[-1, 0].set_xlabel("training images")
    return figure


def _bars(axes: Axes, probs: np.ndarray, pred: int, target: int | None) -> None:
    """The distribution of a sum around its bulk: the predicted one in blue, the true one, if another, in orange."""
    axes.axis("on")
    marked = [pred] if target is None or target >= len(probs) else [pred, target]
    likely = [*np.flatnonzero(probs > 0.005).tolist(), *marked]
    low, high = max(0, min(likely) - 4), min(len(probs) - 1, max(likely) + 4)
    colors = [BLUE if s == pred else ORANGE if s == target else GREY for s in range(low, high + 1)]
    axes.bar(np.arange(low, high + 1), probs[low : high + 1], color=colors)
    if target is not None and target != pred:
        axes.axvline(target, color=ORANGE, linewidth=1, linestyle=":")
    axes.set(ylim=(0, 1.05), yticks=[0, 1], xlim=(low - 0.6, high + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.tick_params(labelsize=7, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
