"""Every figure, from plain arrays to a matplotlib Figure; knows no Lightning."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

OWN_STYLE = ("default", {"axes.grid": True, "grid.alpha": 0.3})
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


def falls_far(errors: np.ndarray) -> bool:
    """Whether errors fall to a thirtieth or less, so that the later ones would lie on the ground of a linear axis."""
    errors = errors[np.isfinite(errors)]
    return len(errors) > 0 and bool(0 < 30 * errors.min() <= errors.max())


@style.context(OWN_STYLE)
def loss_figure(epochs: np.ndarray, train_mse: np.ndarray, val_mse: np.ndarray, baseline_mse: float) -> Figure:
    """Training and validation error over epochs, each `(E,)`, beside the mean baseline's on the validation set.

    `epochs` count from 1. `train_mse` is the mean over the epoch while learning, with dropout and augmentation;
    `val_mse` is measured after it.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, train_mse, color=ORANGE, marker="o", markersize=4, label="training (running mean while learning)")
    axes.plot(epochs, val_mse, color=BLUE, marker="s", markersize=4, label="validation")
    axes.axhline(baseline_mse, color=GREY, linestyle=":", label=f"mean baseline ({baseline_mse:.1f})")
    axes.set(xlabel="epoch", ylabel="mean squared error (sum²)", title="Training and validation loss")
    if falls_far(np.concatenate([train_mse, val_mse])):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


@style.context(OWN_STYLE)
def scatter_figure(target: np.ndarray, preds: np.ndarray, title: str, *, total: int | None = None) -> Figure:
    """Actual against predicted sums, both `(N,)`, with the line of the perfect prediction and the band of +-5.

    `total` is how many images there are in all, where the arrays are a sample of them.
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
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", ylabel="predicted sum")
    axes.set_xlabel("actual sum (spread sideways by up to 0.3)")
    shown = f"{len(target):,} of {total:,} images" if total not in (None, len(target)) else f"{len(target):,} images"
    axes.set_title(f"{title}\n{shown}", fontsize=11)
    axes.legend(loc="upper left")
    return figure


@dataclass(frozen=True)
class Example:
    """One image with all that is shown beside it."""

    name: str
    image: np.ndarray  # (H, W) uint8 or float in [0, 1]
    pred: float  # the predicted sum
    target: int | None = None  # the true sum, if it is known
    probs: np.ndarray | None = None  # (S,) the probability of each sum, if the network predicts digits
    digits: tuple[int, ...] = ()
    positions: tuple[float, ...] = ()  # how far to the right the middle of each digit is, in pixels


@style.context(OWN_STYLE)
def examples_figure(examples: Sequence[Example], title: str, *, named: bool = True) -> Figure:
    """One or more images of one height, each with the predicted and, where known, the true sum.

    Where the network predicts them, digits stand above their positions and the distribution of the sum beneath.
    """
    with_bars = examples[0].probs is not None
    width = max(one.image.shape[1] for one in examples)  # parts of a user's folder may differ
    images = [np.pad(one.image, ((0, 0), (0, width - one.image.shape[1]))) for one in examples]
    figure, panels = _grid(np.stack(images), title, with_bars=with_bars)
    for one, axes in zip(examples, panels[:: 1 + with_bars].flat, strict=False):
        pred = f"{one.pred:.1f}" if one.probs is None else f"{one.pred:.0f} ({one.probs[int(one.pred)]:.0%})"
        name, true = f"{one.name}: " if named else "", "" if one.target is None else f", true {one.target}"
        axes.set_title(f"{name}predicted {pred}{true}", fontsize=9, pad=19 if with_bars else None)
        for digit, place in zip(one.digits, one.positions, strict=True):
            axes.text(place, -2, str(digit), color=BLUE, fontsize=11, fontweight="bold", ha="center", va="bottom")
    for one, axes in zip(examples, panels[1::2].flat if with_bars else (), strict=False):
        if one.probs is not None:
            _bars(axes, one.probs, int(one.pred), one.target)
    return figure


@style.context(OWN_STYLE)
def canvases_figure(images: np.ndarray, sums: np.ndarray, title: str) -> Figure:
    """Images `(N, H, W)`, uint8 or float in [0, 1], with their sums `(N,)`; `N` of 1 or more."""
    figure, panels = _grid(images, title)
    for axes, total in zip(panels.flat, sums, strict=False):
        axes.set_title(f"sum {total:.0f}", fontsize=9)
    return figure


def _grid(images: np.ndarray, title: str, *, with_bars: bool = False) -> tuple[Figure, np.ndarray]:
    """Images in up to three columns of panels, where asked for each above an empty panel."""
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    width, height = (4.2, 2.1) if with_bars else (3.4, 3.3 * images.shape[1] / images.shape[2] + 0.35)
    figure = Figure(figsize=(max(width * columns, 5), rows * height + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    ratios = [1.3, 1] if with_bars else [1]
    panels = figure.subplots(len(ratios) * rows, columns, squeeze=False, height_ratios=ratios * rows)
    for axes in panels.flat:
        axes.axis("off")
    for axes, image in zip(panels[:: len(ratios)].flat, images, strict=False):
        brightest = 255 if image.dtype == np.uint8 else 1
        axes.imshow(image, cmap="gray", vmin=0, vmax=brightest, aspect="auto" if with_bars else "equal")
    return figure, panels


def _bars(axes: Axes, probs: np.ndarray, pred: int, target: int | None) -> None:
    """The distribution of a sum around its bulk: the predicted one in blue, the true one, if another, in orange."""
    axes.axis("on")
    axes.grid(False)
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
    axes.spines[["top", "right"]].set_visible(False)


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

    For each bin, `(B,)`, there are the mean `confidence`, the share of right predictions, and the number of images; for
    each `coverage` `(A,)`, a share of the images that have the highest confidence, that of right predictions.
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
    shown = coverage >= 0.01  # the first few images make a ragged line
    other.plot(coverage[shown], selective_accuracy[shown], color=BLUE)
    other.set(xlim=(0, 1.02), xlabel="coverage: share of images, the most confident first", ylabel="accuracy on them")
    other.set_title("Selective accuracy", fontsize=10)
    return figure


@style.context(OWN_STYLE)
def speeds_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]], limits: Mapping[str, float], title: str
) -> Figure:
    """Measured speeds as bars: medians, with a line from the lowest round to the highest.

    `panels` has by heading, by name of the bar, its speed in each round; the first bar of a panel stands out. `limits`
    has by heading, where there is one, the machine's limit, a dashed line.
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
        highest = max(map(max, bars.values()))
        if heading in limits:
            highest = max(highest, limits[heading])
            axes.axvline(limits[heading], color=RED, linestyle="--")
            heading += f" (dashed: the best matrix product, {limits[heading]:,.0f})"
        axes.set(xlim=(0, 1.13 * highest), ylim=(len(bars) - 0.5, -0.5), axisbelow=True)
        axes.set_title(heading, fontsize=10, loc="left")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(False, axis="y")
    return figure


@style.context(OWN_STYLE)
def scaling_figure(sizes: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> Figure:
    """What depends on the number of training images, on a logarithmic axis: medians, and every round as a dash.

    `curves` has by name with its unit, for each of the `sizes`, the value in each round.
    """
    figure = Figure(figsize=(7, 0.5 + 2.5 * len(curves)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(curves), 1, squeeze=False, sharex=True)
    for axes, (name, rounds) in zip(grid.flat, curves.items(), strict=True):
        axes.plot(sizes, [np.median(values) for values in rounds], color=BLUE, marker="o", markersize=5)
        axes.plot(sizes, rounds, color=BLUE, linestyle="", marker="_", markersize=10)
        axes.set(ylabel=name, xscale="log", ylim=(0, 1.15 * max(map(max, rounds))))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    grid[-1, 0].set_xlabel("training images")
    return figure
