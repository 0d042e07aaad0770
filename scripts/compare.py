"""Put the results of many runs side by side: a table and figures.

    python scripts/compare.py                                the newest sweep
    python scripts/compare.py outputs/sweeps/<time>          a sweep, a run, or all runs below a folder; or several
    python scripts/compare.py --sort exact --each            by the share of exact answers, and seeds one by one
    python scripts/compare.py --test                         evaluate the best run on the test set

The table has a column for each setting that differs, named as on the command line, and what came of it: metrics of
the best checkpoint on the validation set, its mean absolute error on the training set (how far it overfits), metrics
on the test set where a run ended with that, images per second in training (the median of the epochs) and seconds of
training. Runs that differ only in the seed share a line: mean ± sample standard deviation. The validation
set says which is best. Unfinished and damaged runs are named and left out.

Writes comparison.md (the table), comparison.csv (every run, full numbers), curves.png, settings.png where settings
differ, and parallel.png where more than two do, into outputs/comparisons/<time>/.
"""

import argparse
import csv
import io
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from digitsum.cli.console import PROJECT

if TYPE_CHECKING:  # imported in main: --help is answered before
    from digitsum.runs.comparison import Row, Run

COLUMNS = {"num_parameters": "parameters", "images_per_second": "images/s", "fit_seconds": "fit s"}
SCORES = {
    "mae": "mean absolute error (sum)",
    "mse": "mean squared error (sum²)",
    "within_5": "share within 5",
    "exact": "share exact",
}


def main(words: Sequence[str] | None = None) -> None:
    """Compare the runs that the command line names."""
    arguments = parse(words)
    from digitsum.errors import InputError
    from digitsum.files import write_text
    from digitsum.runs.comparison import METRICS, compare, printable, read_runs
    from digitsum.runs.locate import find_runs, newest_sweep

    outputs = arguments.outputs_dir.absolute()
    folders = arguments.folders or [newest_sweep(outputs)]
    runs, left_out = read_runs(find_runs(folders))
    for line in left_out:
        print(f"left out: {line}")
    if not runs:
        raise InputError(f"found no finished run in {', '.join(map(str, folders))}; train one with scripts/train.py")
    rows = compare(runs, sort=arguments.sort, each=arguments.each)
    lines = table(rows)
    best = rows[0].runs[0]
    notes = [
        f"{len(runs)} runs; the best has the {'highest' if arguments.sort in ('within_5', 'exact') else 'lowest'} "
        f"val/{arguments.sort} (best checkpoint, validation set): {printable(str(best.folder))}"
    ]
    print(f"{aligned(lines)}\n\n{notes[0]}", flush=True)

    second = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = (arguments.out or outputs / "comparisons" / second).absolute()
    if arguments.test:
        looked = best.test is None
        best = replace(best, test=evaluate(best, folder / "test", outputs)) if looked else best
        rows[0] = replace(rows[0], runs=[best, *rows[0].runs[1:]])
        when = "evaluated when the run ended"
        if looked:
            when = "evaluated now, once, and of this run alone (a sweep never looks at it)"
        figures = ", ".join(f"{name} {cell(name, [(best.test or {})[name]])}" for name in METRICS)
        notes.append(f"test set, {when}: {figures}")
        print(notes[1])
    left = [f"left out: {line}" for line in left_out]
    write_text(folder / "comparison.md", "\n\n".join([markdown(lines), *map(escaped, notes + left)]) + "\n")
    write_text(folder / "comparison.csv", csv_text(rows))
    draw(folder, rows, arguments.sort)
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.name[0] != '.'))}")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN_OR_SWEEP", help="default: the newest sweep")
    parser.add_argument("--sort", choices=SCORES, default="mae", help="what the best run is best in (default mae)")
    parser.add_argument("--each", action="store_true", help="a line for each run, seeds are not folded")
    parser.add_argument("--test", action="store_true", help="evaluate the best run on the test set")
    parser.add_argument("--out", type=Path, help="the folder to write into (default outputs/comparisons/<time>)")
    parser.add_argument(
        "--outputs-dir", type=Path, default=Path(PROJECT, "outputs"), help="where sweeps are and results go"
    )
    return parser.parse_args(words)


def table(rows: Sequence["Row"]) -> list[list[str]]:
    """The comparison as lines of cells, the first with the names of the columns.

    Numbers have four digits, shares are in per cent; of several runs they are mean ± sample standard deviation. Columns
    of which no row has anything are left out.
    """
    from digitsum.runs.comparison import METRICS, printable, shown

    val, test = ([f"{split}/{name}" for name in METRICS] for split in ("val", "test"))
    names = [*val, "train/mae", *test, *COLUMNS]
    names = [name for name in names if any(row.values(name) for row in rows)]
    folded = any(len(row.runs) > 1 for row in rows)
    head = ["rank", *rows[0].settings, *(["runs"] if folded else []), *(COLUMNS.get(name, name) for name in names)]
    lines = [[printable(name, 60) for name in head]]
    for rank, row in enumerate(rows, 1):
        settings = [shown(value) for value in row.settings.values()]
        count = [str(len(row.runs))] if folded else []
        numbers = [cell(name, row.values(name)) for name in names]
        lines.append(["1 best" if rank == 1 else str(rank), *settings, *count, *numbers])
    return lines


def cell(name: str, values: Sequence[float]) -> str:
    """What a table says of `values`."""
    if not values:
        return "-"
    mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    form, unit = ",.0f", ""
    if name.endswith(("within_5", "exact")):
        form, unit, mean, spread = ".1f", " %", 100 * mean, 100 * spread
    elif name != "num_parameters" and mean > 0:
        digits = 3 - math.floor(math.log10(mean))
        form = f",.{min(max(0, digits), 6)}f" if digits > -6 else ".3e"
    varies = len(values) > 1 and (name != "num_parameters" or spread > 0)
    return f"{mean:{form}}" + (f" ± {spread:{form}}" if varies else "") + unit


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table for the console, whose columns are as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(map(str.rjust, line, widths)) for line in lines)
    return "\n".join(rows)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    head, *rest = [[escaped(text) for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\|`*<\[])", r"\\\1", text)


def csv_text(rows: Sequence["Row"]) -> str:
    """Every run in the order of `rows`, with full numbers; what it lacks stays empty."""
    from digitsum.runs.comparison import ABSENT, METRICS, Row, differing, printable

    runs = [(rank, run) for rank, row in enumerate(rows, 1) for run in row.runs]
    names = differing([run for _, run in runs])
    numbers = [*(f"{split}/{name}" for split in ("val", "train", "test") for name in METRICS), *COLUMNS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "folder", *names, *numbers])
    for rank, run in runs:
        found = ["".join(map(repr, Row([run], {}).values(name))) for name in numbers]
        writer.writerow([rank, printable(str(run.folder)), *(run.settings.get(name, ABSENT) for name in names), *found])
    return text.getvalue()


def evaluate(run: "Run", folder: Path, outputs: Path) -> dict[str, float]:
    """Evaluate a run's best checkpoint on its test set, as `scripts/predict.py` does it, into `folder`.

    Raises:
        InputError: it cannot be evaluated.
    """
    from digitsum.errors import InputError
    from digitsum.files import read_json
    from digitsum.runs.comparison import metrics_of
    from digitsum.runs.locate import BEST_CHECKPOINT, METRICS_FILE

    def quoted(path: Path) -> str:  # for Hydra's command line
        return "'" + re.sub(r"(\\*)'", r"\1\1\\'", str(path)) + "'"

    words = [
        f"ckpt_path={quoted(run.folder / BEST_CHECKPOINT)}",
        "split=test",
        f"outputs_dir={quoted(outputs)}",
        f"hydra.run.dir={quoted(folder)}",
    ]
    command = [sys.executable, str(Path(PROJECT, "scripts", "predict.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise InputError(f"{run.folder}: cannot be evaluated on its test set: {''.join(reason)}")
    return metrics_of(read_json(folder / METRICS_FILE)["test"]["model"])


def draw(folder: Path, rows: Sequence["Row"], sort: str) -> None:
    """Write the figures of a comparison."""
    import numpy as np

    from digitsum.figures import write_figure
    from digitsum.runs.comparison import ABSENT, labels
    from digitsum.runs.comparison_figures import curves_figure, parallel_figure, settings_figure

    runs = [run for row in rows for run in row.runs]
    groups = [(label, [np.array(run.curve) for run in row.runs]) for label, row in zip(labels(rows), rows, strict=True)]
    folded = len(runs) > len(rows)
    write_figure(
        folder / "curves.png",
        curves_figure(groups, "Validation error" + (" (thick: mean over seeds, thin: each run)" if folded else "")),
    )
    names = [name for name in rows[0].settings if name != "seed"]
    if names:
        each = {name: [run.settings.get(name, ABSENT) for run in runs] for name in names}
        scores = np.array([run.val[sort] for run in runs])
        title = "Validation set, best checkpoint"
        write_figure(folder / "settings.png", settings_figure(each, scores, SCORES[sort], f"{title}, {len(runs)} runs"))
    if len(names) > 2:
        values = {name: [row.settings[name] for row in rows] for name in names}
        means = np.array([row.mean(f"val/{sort}") for row in rows])
        title += "\na line for each row of the table, coloured by the last axis"
        write_figure(folder / "parallel.png", parallel_figure(values, means, SCORES[sort], title))


if __name__ == "__main__":
    from digitsum.errors import InputError

    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads the table, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends
