"""The table of a comparison of runs: for the console, as Markdown, and every run as CSV."""

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from digitsum.files import write_csv
from digitsum.runs.comparison import ABSENT, HIGHER_IS_BETTER, METRICS, Row, differing, printable, short_value

COLUMNS = {"num_parameters": "parameters", "images_per_second": "images/s", "fit_seconds": "fit s"}
"""What stands behind the metrics: attributes of a `Run`, and what their columns are called."""


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The comparison as lines of cells, the first with the names of the columns.

    Numbers have four digits, shares are in per cent; of several runs they are mean ± sample standard deviation. Columns
    of which no row has anything are left out.
    """
    val, test = ([f"{split}/{name}" for name in METRICS] for split in ("val", "test"))
    names = [*val, "train/mae", *test, *COLUMNS]
    names = [name for name in names if any(row.values(name) for row in rows)]
    folded = any(len(row.runs) > 1 for row in rows)
    head = ["rank", *rows[0].settings, *(["runs"] if folded else []), *(COLUMNS.get(name, name) for name in names)]
    lines = [[printable(name, 60) for name in head]]
    for rank, row in enumerate(rows, 1):
        settings = [short_value(value) for value in row.settings.values()]
        count = [str(len(row.runs))] if folded else []
        numbers = [number_cell(name, row.values(name)) for name in names]
        lines.append(["1 best" if rank == 1 else str(rank), *settings, *count, *numbers])
    return lines


def number_cell(name: str, values: Sequence[float]) -> str:
    """The mean of a column's `values` to four digits, ± their sample standard deviation if there are several."""
    if not values:
        return "-"
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    form, unit = ",.0f", ""
    if name.endswith(HIGHER_IS_BETTER):
        form, unit, mean, spread = ".1f", " %", 100 * mean, 100 * spread
    elif name != "num_parameters" and mean > 0:
        digits = 3 - math.floor(math.log10(mean))
        form = f",.{min(max(0, digits), 6)}f" if digits > -6 else ".3e"
    varies = len(values) > 1 and (name != "num_parameters" or spread > 0)
    return f"{mean:{form}}" + (f" ± {spread:{form}}" if varies else "") + unit


def aligned_text(lines: Sequence[Sequence[str]]) -> str:
    """A table for the console, whose columns are as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(map(str.rjust, line, widths)) for line in lines)
    return "\n".join(rows)


def markdown_text(lines: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    head, *rest = [[escaped(text) for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\|`*<\[])", r"\\\1", text)


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """Write every run in the order of `rows` as CSV, with full numbers; what it lacks stays empty."""
    runs = [(rank, run) for rank, row in enumerate(rows, 1) for run in row.runs]
    names = differing([run for _, run in runs])
    numbers = [*(f"{split}/{name}" for split in ("val", "train", "test") for name in METRICS), *COLUMNS]
    lines = []
    for rank, run in runs:
        settings = [run.settings.get(name, ABSENT) for name in names]
        found = ["".join(map(repr, Row([run], {}).values(name))) for name in numbers]
        lines.append([rank, printable(str(run.folder)), *settings, *found])
    write_csv(path, ["rank", "folder", *names, *numbers], lines)
