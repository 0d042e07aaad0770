"""Put the results of many runs side by side: a table and figures.

    python scripts/compare.py                                the newest sweep
    python scripts/compare.py outputs/sweeps/<time>          a sweep, a run, or all runs below a folder; or several
    python scripts/compare.py --sort exact --each            by the share of exact answers, and seeds one by one
    python scripts/compare.py --test                         evaluate the best run on the test set
    python scripts/compare.py --along data.num_train --lines warm_start      a learning curve, and one for each value

The table has a column for each setting that differs, named as on the command line, and what came of it: metrics of
the best checkpoint on the validation set, its mean absolute error on the training set (how far it overfits), metrics
on the test set where a run ended with that, images per second in training (the median of the epochs) and seconds of
training. Runs that differ only in the seed share a line: mean ± sample standard deviation. The validation
set says which is best. Unfinished and damaged runs are named and left out.

Writes comparison.md (the table), comparison.csv (every run, full numbers), curves.png, settings.png where settings
differ, parallel.png where more than two do, and for --along along.png, into outputs/comparisons/<time>/.
"""

import argparse

from digitsum.cli.console import print_help_and_exit, run_script
from digitsum.cli.project import PROJECT

SCORES = {
    "mae": "mean absolute error (sum)",
    "mse": "mean squared error (sum²)",
    "within_5": "share within 5",
    "exact": "share exact",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folders", nargs="*", metavar="RUN_OR_SWEEP", help="default: the newest sweep")
    made.add_argument("--sort", choices=SCORES, default="mae", help="what the best run is best in (default mae)")
    made.add_argument("--each", action="store_true", help="a line for each run, seeds are not folded")
    made.add_argument("--test", action="store_true", help="evaluate the best run on the test set")
    made.add_argument(
        "--along", metavar="SETTING", help="draw the score along a setting: of the test set if all have it"
    )
    made.add_argument("--lines", metavar="SETTING", help="with a line for each value of a second one")
    made.add_argument("--out", help="the folder to write into (default outputs/comparisons/<time>)")
    made.add_argument("--outputs-dir", default=f"{PROJECT}/outputs", help="where sweeps are and results go")
    return made


if __name__ == "__main__":
    print_help_and_exit(parser().format_help())  # before the imports below

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from digitsum.cli.output_dirs import writable
from digitsum.errors import InputError, check
from digitsum.figures import write_figure
from digitsum.files import write_text
from digitsum.runs import comparison
from digitsum.runs.comparison import METRICS, Row, Run, printable
from digitsum.runs.comparison_figures import along_figure, curves_figure, parallel_figure, settings_figure
from digitsum.runs.comparison_table import aligned_text, escaped, markdown_text, number_cell, table, write_runs
from digitsum.runs.locate import BEST_CHECKPOINT, find_runs, newest_sweep


def main(words: Sequence[str] | None = None) -> None:
    """Compare the runs that the command line names."""
    arguments = parser().parse_args(words)
    outputs = Path(arguments.outputs_dir).absolute()
    folders = list(map(Path, arguments.folders)) or [newest_sweep(outputs)]
    runs, reasons = comparison.read_runs(find_runs(folders))
    left_out = [f"left out: {reason}" for reason in reasons]
    print(*left_out, sep="\n", end="\n" if left_out else "")
    if not runs:
        raise InputError(f"found no finished run in {', '.join(map(str, folders))}; train one with scripts/train.py")
    check("--lines", arguments.lines, not arguments.lines or arguments.along, "--along SETTING beside it")
    along = settings_of(runs, [name for name in (arguments.along, arguments.lines) if name]) if arguments.along else {}
    folder = Path(arguments.out or outputs / "comparisons" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}").absolute()
    writable(folder, "choose another folder with --out FOLDER")
    rows = comparison.compare(runs, sort=arguments.sort, each=arguments.each)
    lines = table(rows)
    best = rows[0].runs[0]
    extreme = "highest" if arguments.sort in comparison.HIGHER_IS_BETTER else "lowest"
    score = f"{extreme} val/{arguments.sort} (best checkpoint, validation set)"
    notes = [f"{len(runs)} runs; the best has the {score}: {printable(str(best.folder))}"]
    print(f"{aligned_text(lines)}\n\n{notes[0]}", flush=True)
    if arguments.test:
        when = "evaluated when the run ended"
        if best.test is None:
            when = "evaluated now, once, and of this run alone (a sweep never looks at it)"
            best = replace(best, test=evaluate(best, folder / "test", outputs))
            rows[0] = replace(rows[0], runs=[best, *rows[0].runs[1:]])
        assert best.test is not None
        figures = ", ".join(f"{name} {number_cell(name, [best.test[name]])}" for name in METRICS)
        notes.append(f"test set, {when}: {figures}")
        print(notes[1])
    write_text(folder / "comparison.md", "\n\n".join([markdown_text(lines), *map(escaped, notes + left_out)]) + "\n")
    write_runs(rows, folder / "comparison.csv")
    draw(folder, rows, arguments.sort)
    if along:
        tests = [run.test for run in runs if run.test]
        split, found = ("Test", tests) if len(tests) == len(runs) else ("Validation", [run.val for run in runs])
        scores = np.array([one[arguments.sort] for one in found])
        title = f"{split} set, best checkpoint, {len(runs)} runs"
        write_figure(folder / "along.png", along_figure(along, scores, SCORES[arguments.sort], title))
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.name[0] != '.'))}")


def settings_of(runs: Sequence[Run], names: Sequence[str]) -> dict[str, list[str]]:
    """The runs' values of some settings, by name; an InputError where no run has one."""
    if wrong := [name for name in names if not any(name in run.settings for run in runs)]:
        raise InputError(f"expected a setting of these runs, like data.num_train, got {wrong[0]}")
    return {name: [run.settings.get(name, comparison.ABSENT) for run in runs] for name in names}


def evaluate(run: Run, folder: Path, outputs: Path) -> dict[str, float]:
    """Evaluate a run's best checkpoint on its test set, into `folder`; an InputError where that cannot be."""
    from digitsum.cli.predict import predict_test_set  # takes seconds, and is seldom asked for

    try:
        return comparison.metrics_of(predict_test_set(run.folder / BEST_CHECKPOINT, folder, outputs))
    except InputError as error:
        raise InputError(f"{run.folder}: cannot be evaluated on its test set: {error}") from error


def draw(folder: Path, rows: Sequence[Row], sort: str) -> None:
    """Write the figures of a comparison."""
    runs = [run for row in rows for run in row.runs]
    curves = [[np.array(run.curve) for run in row.runs] for row in rows]
    title = "Validation error" + (" (thick: mean over seeds, thin: each run)" if len(runs) > len(rows) else "")
    write_figure(folder / "curves.png", curves_figure(list(zip(comparison.labels(rows), curves, strict=True)), title))
    names = [name for name in rows[0].settings if name != "seed"]
    title = "Validation set, best checkpoint"
    if names:
        each = settings_of(runs, names)
        scores = np.array([run.val[sort] for run in runs])
        write_figure(folder / "settings.png", settings_figure(each, scores, SCORES[sort], f"{title}, {len(runs)} runs"))
    if len(names) > 2:
        values = {name: [row.settings[name] for row in rows] for name in names}
        means = np.array([row.mean(f"val/{sort}") for row in rows])
        title += "\na line for each row of the table, coloured by the last axis"
        write_figure(folder / "parallel.png", parallel_figure(values, means, SCORES[sort], title))


if __name__ == "__main__":
    run_script(main)
