"""What a benchmark found: medians beside their targets, as text, JSON and figures."""

import operator
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.turns import ROWS, SECTIONS, Found
from digitsum.figures import scaling_figure, speeds_figure, write_figure
from digitsum.files import write_json

TARGETS = (  # a row, the row of the same round that it is divided by, what must be reached, what is hoped for
    ("training/ours", "training/textbook", 2.2, 3.5),
    ("training/ours", "training/keras", 1.4, 2.0),
    ("training/ours", "training/bare", 0.95, 1.0),
    ("training/ours", "training/limit", 0.40, 0.70),
    ("prediction/ours", "prediction/keras", 1.4, 2.0),
    ("reader/float32", "reader/of_0_4", 1.5, 2.5),
    ("composing/ours", None, 10_000, 50_000),
    ("startup/help", None, 2.0, 1.0),  # less is better where less is hoped for
    ("startup/first_step", "startup/imports", 1.5, 1.1),
)


def summary(found: dict[str, list[Found]], environment: dict[str, Any]) -> dict[str, Any]:
    """What each row `found` in each round, with medians, targets and `environment`: all of it, as plain values."""
    machine = environment["machine"]
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    title = f"{hardware}: medians of {max(map(len, found.values()))} round(s), from the lowest to the highest"
    values = {name: [one["value"] for one in rounds] for name, rounds in found.items() if "skipped" not in rounds[0]}
    rows = {}
    for name, rounds in found.items():
        what = ROWS.get(name, f"{name.partition('/')[2]} images")
        rows[name] = {"what": what, **(_spread(values[name]) if name in values else {}), "rounds": rounds}
    targets = []
    for name, against, bound, goal in TARGETS:
        if {name, against or name} <= values.keys():
            ratios = [a / b for a, b in zip(values[name], values[against], strict=True)] if against else values[name]
            least, reaches = ("least", operator.ge) if goal > bound else ("most", operator.le)
            met = "met" if reaches(median(ratios), bound) else "MISSED"
            reached = "reached" if reaches(median(ratios), goal) else "not reached"
            verdict = f"at {least} {bound:,g}: {met}; goal {goal:,g}: {reached}"
            target = f"{name} : {against}" if against else name
            targets.append({"target": target, **_spread(ratios), "verdict": verdict})
    device = "cuda" if machine["gpu"] else "cpu"
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
    """Write `benchmark.json`, `benchmark.png` of speeds, and `scaling.png` of that section."""
    write_json(folder / "benchmark.json", content)
    rows = {name: row for name, row in content["rows"].items() if "median" in row}
    limits = {SECTIONS["training"]: rows.pop("training/limit")["median"]} if "training/limit" in rows else {}
    panels: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for name, row in rows.items():
        if name.startswith(("training/", "prediction/")):
            panels[SECTIONS[name.partition("/")[0]]][row["what"]] = [found["value"] for found in row["rounds"]]
    if panels:
        write_figure(folder / "benchmark.png", speeds_figure(panels, limits, content["title"]))
    sizes = {int(name.partition("/")[2]): row["rounds"] for name, row in rows.items() if name.startswith("scaling/")}
    if sizes:
        keys = {"training, images/s": "value", "peak of own memory, MB": "peak_mb"}
        curves = {label: [[found[key] for found in rounds] for rounds in sizes.values()] for label, key in keys.items()}
        curves = {label: values for label, values in curves.items() if None not in values[0]}  # the system may not say
        write_figure(folder / "scaling.png", scaling_figure(list(sizes), curves, content["title"]))


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def _numbers(row: dict[str, Any]) -> str:
    middle, low, high = (_number(row[key]) for key in ("median", "lowest", "highest"))
    return f"{middle:>9} {f'({low} to {high})':<22}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
