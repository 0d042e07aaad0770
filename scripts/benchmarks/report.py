"""What the benchmark says: medians, ratios beside their targets, hardware and versions; as text, JSON and figures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clocks import Found

SECTIONS = {
    "training": "training, images/s",
    "prediction": "prediction, images/s",
    "loading": "loading batches of 64, images/s",
    "composing": "composing, canvases/s",
    "startup": "from the command on, seconds",
    "profile": "where a training step's time goes, images/s",
    "reader": "the reader's training, images/s",
    "scaling": "training on so many images, images/s",
}
"""The first part of a row's name, and what it measures in which unit."""


@dataclass(frozen=True)
class Target:
    """What a row, or its ratio to another row of the same round, should be.

    Attributes:
        row: the row's name.
        against: the other row's, or None.
        bound: what must be reached.
        goal: what is hoped for.
        at_most: whether less is better.
    """

    row: str
    against: str | None
    bound: float
    goal: float
    at_most: bool = False

    def meets(self, value: float, bound: float) -> bool:
        """Whether `value` is on the right side of `bound`."""
        return value <= bound if self.at_most else value >= bound

    def verdict(self, value: float) -> str:
        """In words, both numbers named."""
        words = "at most" if self.at_most else "at least"
        met = "met" if self.meets(value, self.bound) else "MISSED"
        goal = "reached" if self.meets(value, self.goal) else "not reached"
        return f"{words} {self.bound:,g}: {met}; goal {self.goal:,g}: {goal}"


TARGETS = (
    Target("training/ours", "training/textbook", 2.2, 3.5),
    Target("training/ours", "training/keras", 1.1, 1.6),
    Target("training/ours", "training/bare", 0.95, 1.0),
    Target("training/ours", "training/limit", 0.40, 0.70),
    Target("prediction/ours", "prediction/keras", 1.1, 1.6),
    Target("composing/ours", None, 10_000, 50_000),
    Target("startup/help", None, 2.0, 1.0, at_most=True),
    Target("startup/first_step", "startup/imports", 1.5, 1.1, at_most=True),
)


class Report:
    """The rounds of a benchmark, put together.

    Args:
        found: for each row what it found in each round: `value`, numbers reported beside it, `threads`, `versions`; or
            `skipped`, the reason why it could not be measured.
        labels: what each row is; a row without a label is called by the second part of its name.
        accelerator: `cpu` or `gpu`.
        environment: see `digitsum.runs.environment.environment`.
    """

    def __init__(
        self, found: dict[str, list[Found]], labels: dict[str, str], accelerator: str, environment: dict[str, Any]
    ) -> None:
        self.found = found
        self.labels = {name: labels.get(name, f"{name.partition('/')[2]} images") for name in found}
        self.accelerator = accelerator
        self.environment = environment
        machine = environment["machine"]
        self.machine = machine["gpu"] if accelerator == "gpu" else f"{machine['processor']}, {machine['cores']} cores"
        self.measured = {name: rounds for name, rounds in found.items() if "skipped" not in rounds[0]}

    def values(self, name: str) -> list[float]:
        """A row's value in each round."""
        return [found["value"] for found in self.measured[name]]

    def targets(self) -> list[dict[str, Any]]:
        """Each target whose rows were measured, with what was reached: the median of the rounds' ratios."""
        reached = []
        for target in TARGETS:
            if {target.row, target.against or target.row} <= self.measured.keys():
                values = self.values(target.row)
                if target.against is not None:
                    values = [a / b for a, b in zip(values, self.values(target.against), strict=True)]
                text = target.row if target.against is None else f"{target.row} : {target.against}"
                spread = spread_of(values)
                reached.append({"target": text, **spread, "verdict": target.verdict(spread["median"])})
        return reached

    def content(self) -> dict[str, Any]:
        """All of it, as plain values."""
        rows: dict[str, Any] = {}
        for name, rounds in self.found.items():
            spread = spread_of(self.values(name)) if name in self.measured else {}
            rows[name] = {"what": self.labels[name], **spread, "rounds": rounds}
        return {"accelerator": self.accelerator, "rows": rows, "targets": self.targets(), **self.environment}

    def text(self) -> str:
        """A table, every line with its unit above it."""
        versions = {name: self.environment["packages"][name] for name in ("digitsum", "torch", "lightning", "numpy")}
        for rounds in self.measured.values():
            versions |= rounds[0].get("versions", {})
        lines = [
            f"\n{self.machine}; {', '.join(f'{name} {version}' for name, version in versions.items())}",
            f"medians of {max(map(len, self.found.values()))} round(s) in turns (lowest to highest)",
        ]
        for section, title in SECTIONS.items():
            names = [name for name in self.found if name.partition("/")[0] == section]
            if names:
                lines += ["", title, *map(self._line, names)]
        reached = self.targets()
        if reached:
            lines += ["", "targets (median of the ratios within the rounds)"]
        for row in reached:
            lines.append(f"  {row['target']:<40}{_numbers(row)}  {row['verdict']}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write `benchmark.json` and the figures: `benchmark.png` of speeds, `scaling.png` of the section scaling."""
        from digitsum.figures import scaling_figure, speeds_figure, write_figure
        from digitsum.files import write_json

        rounds = max(map(len, self.found.values()))
        title = f"{self.machine}: medians of {rounds} round(s), from the lowest to the highest"
        panels: dict[str, dict[str, list[float]]] = {}
        limits: dict[str, float] = {}
        for name in self.measured:
            section, _, row = name.partition("/")
            if row == "limit":
                limits[SECTIONS[section]] = statistics.median(self.values(name))
            elif section in ("training", "prediction", "loading"):
                panels.setdefault(SECTIONS[section], {})[self.labels[name]] = self.values(name)
        if panels:
            write_figure(folder / "benchmark.png", speeds_figure(panels, limits, title))
        sizes = [name for name in self.measured if name.startswith("scaling/")]
        if sizes:
            curves = {"training, images/s": [self.values(name) for name in sizes]}
            peaks = [[found["peak_mb"] for found in self.measured[name]] for name in sizes]
            if None not in peaks[0]:  # the system says
                curves["peak of own memory, MB"] = peaks
            images = [int(name.partition("/")[2]) for name in sizes]
            write_json(folder / "scaling.json", {"images": images, **curves})
            write_figure(folder / "scaling.png", scaling_figure(images, curves, title))
        write_json(folder / "benchmark.json", self.content())

    def _line(self, name: str) -> str:
        rounds = self.found[name]
        if name not in self.measured:
            return f"  {self.labels[name]:<52} not measured: {rounds[0]['skipped']}"
        beside = [key for key, value in rounds[0].items() if key != "value" and isinstance(value, int | float)]
        notes = [f"{key.replace('_', ' ')} {_number(statistics.median(r[key] for r in rounds))}" for key in beside]
        return f"  {self.labels[name]:<52}{_numbers(spread_of(self.values(name)))}  {', '.join(notes)}".rstrip()


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of `values`, of which there are 1 or more."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _numbers(spread: dict[str, Any]) -> str:
    span = f"({_number(spread['lowest'])} to {_number(spread['highest'])})"
    return f"{_number(spread['median']):>9} {span:<20}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
