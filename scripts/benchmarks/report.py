"""What a benchmark says: medians, ratios beside their targets, hardware and versions; as text, JSON and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from benchmarks.turns import ROWS, SECTIONS, Found
from digitsum.figures import BLUE, GREY, OWN_STYLE, RED, write_figure
from digitsum.files import write_json

TARGETS = (  # a row, the row of the same round that it is divided by, what must be reached, what is hoped for
    ("training/ours", "training/textbook", 2.2, 3.5),
    ("training/ours", "training/keras", 1.1, 1.6),
    ("training/ours", "training/bare", 0.95, 1.0),
    ("training/ours", "training/limit", 0.40, 0.70),
    ("prediction/ours", "prediction/keras", 1.1, 1.6),
    ("composing/ours", None, 10_000, 50_000),
    ("startup/help", None, 2.0, 1.0),  # less is better where less is hoped for
    ("startup/first_step", "startup/imports", 1.5, 1.1),
)


def summary(found: dict[str, list[Found]], environment: dict[str, Any], device: str) -> dict[str, Any]:
    """What each row `found` in each round, with medians, targets and `environment`: all of it, as plain values."""
    machine, count = environment["machine"], max(map(len, found.values()))
    hardware = machine["gpu"] if device == "cuda" else f"{machine['processor']}, {machine['cores']} cores"
    title = f"{hardware}: medians of {count} round(s), from the lowest to the highest"
    values = {name: [one["value"] for one in rounds] for name, rounds in found.items() if "skipped" not in rounds[0]}
    rows = {}
    for name, rounds in found.items():
        what = ROWS.get(name, f"{name.partition('/')[2]} images")
        rows[name] = {"what": what, **(_spread(values[name]) if name in values else {}), "rounds": rounds}
    targets = []
    for name, against, bound, goal in TARGETS:
        if {name, against or name} <= values.keys():
            ratios = [a / b for a, b in zip(values[name], values[against], strict=True)] if against else values[name]
            sign, least = (1, "least") if goal > bound else (-1, "most")
            met, reached = (sign * median(ratios) >= sign * number for number in (bound, goal))
            verdict = f"at {least} {bound:,g}: {'met' if met else 'MISSED'}; "
            verdict += f"goal {goal:,g}: {'reached' if reached else 'not reached'}"
            target = f"{name} : {against}" if against else name
            targets.append({"target": target, **_spread(ratios), "verdict": verdict})
    return {"title": title, "device": device, "rows": rows, "targets": targets, **environment}


def text_of(content: dict[str, Any]) -> str:
    """A table of a summary, every line with its unit above it."""
    versions = {name: content["packages"][name] for name in ("digitsum", "torch", "lightning", "numpy")}
    lines: list[str] = []
    for section, unit in SECTIONS.items():
        rows = [row for name, row in content["rows"].items() if name.startswith(f"{section}/")]
        lines += ["", unit] if rows else []
        for row in rows:
            first = row["rounds"][0]
            versions |= first.get("versions", {})
            keys = [key for key, value in first.items() if key != "value" and isinstance(value, int | float)]
            notes = [f"{key.replace('_', ' ')} {_number(median(one[key] for one in row['rounds']))}" for key in keys]
            said = f"not measured: {first['skipped']}" if "skipped" in first else _numbers(row) + ", ".join(notes)
            lines.append(f"  {row['what']:<52} {said}".rstrip())
    lines += ["", "targets (median of the ratios within the rounds)"] if content["targets"] else []
    lines += [f"  {row['target']:<40} {_numbers(row)}{row['verdict']}" for row in content["targets"]]
    return "\n".join(["", content["title"], ", ".join(map(" ".join, versions.items())), *lines, ""])


def write(content: dict[str, Any], folder: Path) -> None:
    """Write `benchmark.json`, `benchmark.png` of speeds, and `scaling.png` and `scaling.json` of that section."""
    write_json(folder / "benchmark.json", content)
    values = {name: [r["value"] for r in row["rounds"]] for name, row in content["rows"].items() if "median" in row}
    limits = {SECTIONS["training"]: median(values.pop("training/limit"))} if "training/limit" in values else {}
    panels: dict[str, dict[str, list[float]]] = {}
    for name in values:
        if name.startswith(("training/", "prediction/", "loading/")):
            panels.setdefault(SECTIONS[name.partition("/")[0]], {})[ROWS[name]] = values[name]
    if panels:
        write_figure(folder / "benchmark.png", speeds_figure(panels, limits, content["title"]))
    sizes = [name for name in values if name.startswith("scaling/")]
    if sizes:
        images = [int(name.partition("/")[2]) for name in sizes]
        curves = {"training, images/s": [values[name] for name in sizes]}
        peaks = [[found["peak_mb"] for found in content["rows"][name]["rounds"]] for name in sizes]
        if None not in peaks[0]:  # the system says
            curves["peak of own memory, MB"] = peaks
        write_json(folder / "scaling.json", {"images": images, **curves})
        write_figure(folder / "scaling.png", scaling_figure(images, curves, content["title"]))


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
            middle = median(values)
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
        axes.plot(sizes, [median(values) for values in rounds], color=BLUE, marker="o", markersize=5)
        axes.plot(sizes, rounds, color=BLUE, linestyle="", marker="_", markersize=10)
        axes.set(ylabel=name, xscale="log", ylim=(0, 1.15 * max(map(max, rounds))))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    grid[-1, 0].set_xlabel("training images")
    return figure


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def _numbers(row: dict[str, Any]) -> str:
    middle, low, high = (_number(row[key]) for key in ("median", "lowest", "highest"))
    return f"{middle:>9} {f'({low} to {high})':<22}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
