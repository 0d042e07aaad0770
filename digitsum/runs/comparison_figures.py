"""The figures of a comparison of runs, from plain values to a matplotlib Figure."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from digitsum.figures import BLUE, GREY, ORANGE, OWN_STYLE, falls_far
from digitsum.runs.comparison import printable

# the rest of the Okabe-Ito palette but its yellow, which is too pale for lines
_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MAX_LINES, _NUM_HIGHLIGHTED = 10, 5
_MAX_SETTINGS, _MAX_TICKS = 12, 8


@style.context(OWN_STYLE)
def curves_figure(groups: Sequence[tuple[str, Sequence[np.ndarray]]], title: str) -> Figure:
    """Validation error over epochs, a colour for each group; of many groups the first few, and the others in grey.

    `groups` are 1 or more, the best first: what to call it, and for each of its runs `(E, 2)` epochs and errors, NaN
    where there is none. Of several runs thin lines, and their mean as far as all of them go.
    """
    num_shown = len(groups) if len(groups) <= _MAX_LINES else _NUM_HIGHLIGHTED
    figure = Figure(figsize=(8, 5 + 0.25 * num_shown), layout="constrained")
    axes = figure.subplots()
    for rank, (label, runs) in reversed(list(enumerate(groups))):  # the best lies on top
        shown = rank < num_shown
        again = rank // len(_COLOURS)  # all colours are in use: those of worse lines than the best come twice, dashed
        colour = _COLOURS[(rank + 2 * again) % len(_COLOURS)]
        style: dict[str, Any] = {"color": colour, "linestyle": "--" if again else "-"}
        if not shown:
            style = {"color": GREY, "linestyle": "-"}
            label = f"the other {len(groups) - num_shown}" if rank == num_shown else ""
        if len(runs) > 1 and shown:
            for run in runs:
                axes.plot(*run.T, **style, linewidth=0.8, alpha=0.5)
        length = min(map(len, runs))
        epochs, errors = np.mean([run[:length] for run in runs], axis=0).T
        style |= {"linewidth": 2} if shown else {"linewidth": 0.7, "alpha": 0.5}
        style |= {"marker": "o", "markersize": 3.5} if len(epochs) <= 30 and shown else {}
        axes.plot(epochs, errors, **style, label=textwrap.fill(_plain(label, 170), 90) or None)
    if falls_far(np.concatenate([run[:, 1] for _, runs in groups for run in runs])):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="mean absolute error (sum)", title=title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", fontsize=9)
    return figure


@style.context(OWN_STYLE)
def settings_figure(settings: Mapping[str, Sequence[str]], scores: np.ndarray, score_name: str, title: str) -> Figure:
    """The score `(N,)` against each setting: every run, and the mean over all runs with the same value.

    `settings` have by name the values of the runs as on the command line, the best run's first. Twelve at most are
    drawn. `score_name` has the unit.
    """
    names = list(settings)[:_MAX_SETTINGS]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 6), 3.4 * rows + 0.9), layout="constrained")
    figure.suptitle(_titled(title, len(settings)), fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for number, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        scale = scale_of(settings[name])
        positions = np.unique(scale.positions)
        if scale.log:
            axes.set_xscale("log")
        axes.scatter(scale.positions, scores, s=18, color=GREY, alpha=0.5, lw=0, label="run")
        if len(positions) <= _MAX_TICKS or scale.categories:
            means = [scores[scale.positions == position].mean() for position in positions]
            line = "none" if scale.categories else "-"
            label = "mean of the runs with this value"
            axes.plot(positions, means, color=BLUE, marker="D", markersize=6, linestyle=line, label=label)
        axes.axvline(scale.positions[0], color=ORANGE, linewidth=6, alpha=0.3, zorder=0, label="value of the best")
        _set_ticks(axes, scale, room=34)
        axes.margins(x=0.15 if scale.categories else 0.08)
        axes.set_xlabel(_plain(name, 60))
        if number % columns == 0:
            axes.set_ylabel(score_name)
    if falls_far(scores):
        grid[0, 0].set_yscale("log")
    drawn: dict[str, Any] = {}
    for axes in grid.flat:
        drawn |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


@style.context(OWN_STYLE)
def along_figure(settings: Mapping[str, Sequence[str]], scores: np.ndarray, score_name: str, title: str) -> Figure:
    """The score `(N,)` along one setting, of which there may be a line for each value of a second one.

    Runs are points, and means over equal ones are joined. `settings` hold the two by name, in this order.
    """
    (name, values), *others = settings.items()
    lines = others[0][1] if others else [""] * len(scores)
    scale = scale_of(values)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    if scale.log:
        axes.set_xscale("log")
    for rank, line in enumerate(sorted(set(lines))):
        of_line = np.array([one == line for one in lines])
        positions = np.unique(scale.positions[of_line])
        means = [scores[of_line & (scale.positions == position)].mean() for position in positions]
        colour, marker = _COLOURS[rank % len(_COLOURS)], "osD^v<>P"[rank % 8]
        axes.scatter(scale.positions[of_line], scores[of_line], s=14, color=colour, alpha=0.5, lw=0, marker=marker)
        label = f"{_plain(others[0][0], 60)}={_plain(line)}" if others else None
        axes.plot(positions, means, color=colour, marker=marker, markersize=6, linewidth=1.8, label=label)
    _set_ticks(axes, scale, room=70)
    if falls_far(scores):
        axes.set_yscale("log")
    axes.set(xlabel=_plain(name, 60), ylabel=score_name, title=title)
    if others:
        axes.legend(fontsize=9)
    return figure


@style.context(OWN_STYLE)
def parallel_figure(settings: Mapping[str, Sequence[str]], scores: np.ndarray, score_name: str, title: str) -> Figure:
    """A line for each row of the comparison through its settings to its score, coloured by the score.

    The arguments are those of `settings_figure`, with rows for runs.
    """
    names = list(settings)[:_MAX_SETTINGS]
    scales = [*(scale_of(settings[name]) for name in names), _numeric(scores, falls_far(scores))]
    figure = Figure(figsize=(max(7, 1.5 * len(scales)), 5), layout="constrained")
    axes = figure.subplots()
    heights = np.stack([scale.to_unit(scale.positions) for scale in scales])
    if len(scores) > 1:  # lines that share a value lie beside one another, the best one above the others
        heights[:-1] += np.linspace(0.02, -0.02, len(scores))
    colours = colormaps["viridis"](0.9 * heights[-1])
    for row in reversed(range(1, len(scores))):
        axes.plot(heights[:, row], color=colours[row], linewidth=1.1, alpha=0.75)
    axes.plot(heights[:, 0], color=ORANGE, linewidth=3.5, label="best")
    box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1}
    for number, scale in enumerate(scales):
        axes.axvline(number, color="black", linewidth=0.8)
        for height, label in zip(scale.to_unit(np.array(scale.ticks)), scale.labels, strict=True):
            axes.text(number + 0.03, height, _plain(label), fontsize=8, va="center", bbox=box)
    headings = [*(_plain(name, 60).replace(".", ".\n") for name in names), textwrap.fill(score_name, 16)]
    axes.set_xticks(range(len(scales)), headings, fontsize=9)
    axes.set(ylim=(-0.06, 1.06), xlim=(-0.1, len(scales) - 0.5), yticks=[])
    axes.set_title(_titled(title, len(settings)), fontsize=11)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure


def _set_ticks(axes: Axes, scale: "Scale", room: int) -> None:
    """The scale's ticks, turned where they need more than `room` letters."""
    crowded = max(map(len, scale.labels)) * len(scale.labels) > room
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if crowded else {}
    axes.set_xticks(scale.ticks, [_plain(label) for label in scale.labels], **turned)
    axes.minorticks_off()


def _titled(title: str, count: int) -> str:
    return title if count <= _MAX_SETTINGS else f"{title}\nthe first {_MAX_SETTINGS} of {count} settings"


def _plain(text: str, max_length: int = 18) -> str:
    """A text of a file as it is: on one line, not too long, and no formula."""
    return printable(text, max_length).replace("$", r"\$")


@dataclass(frozen=True)
class Scale:
    """Where the values of a setting stand on an axis."""

    positions: np.ndarray  # (N,) of each value; of categories 0, 1, 2, ...
    ticks: Sequence[float]
    labels: Sequence[str]  # of the ticks
    log: bool = False  # whether the axis is logarithmic
    categories: bool = False  # whether positions do no more than tell values apart

    def to_unit(self, positions: np.ndarray) -> np.ndarray:
        """Positions on an axis from 0 to 1."""
        low, high = self.positions.min(), self.positions.max()
        if low == high:
            return np.full(len(positions), 0.5)
        if self.log:
            positions, low, high = np.log(positions), np.log(low), np.log(high)
        return (positions - low) / (high - low)


def scale_of(values: Sequence[str]) -> Scale:
    """The axis that suits values of the command line: categories unless all are numbers, logarithmic for some."""
    numbers = {value: _drawable(value) for value in values}
    known = sorted({number for number in numbers.values() if number is not None})
    # a zero among ever smaller numbers: on no axis could they be told apart
    scattered = len(known) > 2 and known[0] == 0 and known[-1] > 30 * known[1]
    if None in numbers.values() or scattered:
        order = sorted(numbers, key=lambda value: (numbers[value] is None, numbers[value] or 0.0, value))
        labels = order[:: -(-len(order) // 16)]  # more would lie on one another
        position = {value: float(number) for number, value in enumerate(order)}
        ticks = [position[value] for value in labels]
        return Scale(np.array([position[value] for value in values]), ticks, labels, categories=True)
    log = len(known) > 2 and known[0] > 0 and _unevenness(np.log(known)) < _unevenness(np.array(known))
    return _numeric(np.array([numbers[value] for value in values], float), log, known)


def _numeric(positions: np.ndarray, log: bool, known: Sequence[float] = ()) -> Scale:
    """An axis of numbers, with ticks at the `known` ones if they are few."""
    ticks = known if 0 < len(known) <= _MAX_TICKS else _ticks(float(positions.min()), float(positions.max()), log)
    return Scale(positions, ticks, [_tick(tick) for tick in ticks], log=log)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    locator = LogLocator(subs=(1.0, 3.0)) if log else MaxNLocator(5)
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    return ticks if len(ticks) > 1 else [low, high]


def _tick(value: float) -> str:
    # 12000, not 1.2e+04
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def _unevenness(known: np.ndarray) -> float:
    steps = np.diff(known)
    return float(steps.std() / steps.mean())


def _drawable(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == 0 or 1e-30 < abs(value) < 1e30 else None  # beyond that, figures cannot be drawn
