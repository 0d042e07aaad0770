"""Many runs side by side: what differs between them, and what came of it."""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digitsum.errors import InputError
from digitsum.files import read_json
from digitsum.runs.locate import CONFIG_FILE, METRICS_FILE, read_config

METRICS = ("mae", "mse", "within_5", "exact")
HIGHER_IS_BETTER = ("within_5", "exact")
"""Those of the metrics of which more is better."""
ABSENT = "-"
"""What stands for a setting that a run does not have."""

_MAX_BYTES = 10_000_000  # of a file that is read; a history of 10,000 epochs has 3 million
_MAX_NUMBER = 1e30  # more than any run ever records, and less than what figures can draw
# where a run writes and where its data lie on this machine, what it shows meanwhile, and whether the test set followed
_NO_SETTINGS = {
    *("run_dir", "outputs_dir", "data.datasets_dir", "data.mnist_root", "data.download", "logger.save_dir"),
    "logger.tracking_uri",
    *("callbacks.checkpoint.dirpath", "callbacks.checkpoint.monitor", "callbacks.early_stopping.monitor"),
    *("debug", "resume", "test", "trainer.enable_progress_bar"),
}


@dataclass(frozen=True)
class Run:
    """What a finished run recorded."""

    folder: Path
    settings: Mapping[str, str]  # by name, as on the command line; a callback or logger as a whole goes by its class
    val: Mapping[str, float]  # `METRICS` of the best checkpoint on the validation set; shares are fractions 0..1
    test: Mapping[str, float] | None  # the same on the test set, if it has been evaluated
    train: Mapping[str, float] | None
    curve: Sequence[tuple[float, float]]  # epochs with their MAE on the validation set, NaN where it is not finite
    images_per_second: float  # in training, the median of the epochs
    fit_seconds: float  # from the first step, or the last resumption, to the last step
    num_parameters: float | None  # that the network learns


def read_run(folder: Path) -> Run:
    """Read what a run recorded; nothing of it is trusted.

    Raises:
        InputError: the run is unfinished, or what it recorded is damaged.
    """
    try:
        if not (folder / CONFIG_FILE).is_file():
            raise InputError(f"{folder}: did not begin, it has no {CONFIG_FILE}")
        if not (folder / METRICS_FILE).is_file():
            raise InputError(f"{folder}: unfinished, it has no {METRICS_FILE}")
        settings = recorded_settings(read_config(folder))
        metrics, timing = (read_json(_bounded(folder / name)) for name in (METRICS_FILE, "timing.json"))
        speeds = [_checked(epoch["train_images_per_second"]) for epoch in timing["epochs"]]
        return Run(
            folder,
            {name: value for name, value in settings.items() if name not in _NO_SETTINGS},
            val=metrics_of(metrics["val"]["model"]),
            test=metrics_of(metrics["test"]["model"]) if "test" in metrics else None,
            train=metrics_of(metrics["train"]["model"]) if "train" in metrics else None,
            curve=_curve(folder / "history.csv"),
            images_per_second=statistics.median(speeds),
            fit_seconds=_checked(timing["fit_seconds"]),
            num_parameters=_checked(timing["num_parameters"]) if "num_parameters" in timing else None,
        )
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OSError, csv.Error) as error:
        raise InputError(f"{folder}: expected what a run records, found it damaged ({error!r})") from error


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read runs; returns those that are finished and whole, and a line for each of the others that says why not."""
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except InputError as error:
            left_out.append(printable(str(error)))
    return runs, left_out


def recorded_settings(config: Mapping[Any, Any], prefix: str = "") -> dict[str, str]:
    """A config's values by their names on the command line, both as text; where a class is named, it as well.

    Example:
        >>> recorded_settings({"model": {"lr": 0.001, "num_digits": [2, 6]}, "logger": {"_target_": "a.CSVLogger"}})
        {'model.lr': '0.001', 'model.num_digits': '[2,6]', 'logger': 'CSVLogger'}
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{_text(key)}"
        if isinstance(value, dict):
            found |= recorded_settings(value, f"{name}.")
        elif key == "_target_":
            found[prefix.rstrip(".")] = _text(value).rpartition(".")[2]
        else:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a character cannot be written
    return json.dumps(value, separators=(",", ":"), default=str)


def short_value(value: str) -> str:
    """A setting's value as a table has it: a long number to four digits, anything else on one line of 40 characters."""
    with suppress(ValueError):
        if len(value) > 10:
            return f"{float(value):.4g}"
    return printable(value, 40)


def printable(text: str, max_length: int = 1000) -> str:
    """A text from a file on one line of `max_length` characters at most, without what would steer a terminal."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: max_length + 1])
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """`METRICS` of a row of a `metrics.json`; a LookupError or ValueError where one is missing, or impossible."""
    return {name: _checked(row[name], 1 if name in HIGHER_IS_BETTER else _MAX_NUMBER) for name in METRICS}


def _checked(value: Any, maximum: float = _MAX_NUMBER) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= maximum:
        raise ValueError(f"expected a number from 0 to {maximum:g}, found {printable(repr(value), 40)}")
    return float(value)


def _bounded(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: expected a run's record, found none")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: expected a run's record, found {path.stat().st_size:,} bytes")
    return path


def _curve(path: Path) -> list[tuple[float, float]]:
    with _bounded(path).open(encoding="utf-8", newline="") as file:
        rows = [(float(row["epoch"]), float(row["val/mae"] or "nan")) for row in csv.DictReader(file)]
    if not rows or [epoch for epoch, _ in rows] != sorted({epoch for epoch, _ in rows}) or rows[0][0] < 0:
        raise ValueError("expected a history of epochs in their order")
    return [(_checked(epoch), error if 0 <= error <= _MAX_NUMBER else math.nan) for epoch, error in rows]


def differing(runs: Sequence[Run]) -> list[str]:
    """The names of the settings that differ between `runs`, in the order of their configs.

    A setting that only some runs have counts if its values differ among these. If not it follows from another one, as
    a network's own settings do from `model.network`; only where no other tells who has it, it counts after all.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    having = {name: [run for run in runs if name in run.settings] for name in names}
    chosen = {name for name in names if len({run.settings[name] for run in having[name]}) > 1}
    for name in names:
        if name not in chosen and len(having[name]) < len(runs):
            lacking = [run for run in runs if name not in run.settings]
            if {_key(run, chosen) for run in having[name]} & {_key(run, chosen) for run in lacking}:
                chosen.add(name)
    return [name for name in names if name in chosen]


def _key(run: Run, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(run.settings.get(name, ABSENT) for name in names if name != "seed")


@dataclass(frozen=True)
class Row:
    """A line of the comparison: a run, or runs that differ in nothing but the seed, the best one first.

    `settings` are what sets the row apart from others, by name.
    """

    runs: Sequence[Run]
    settings: Mapping[str, str]

    def values(self, name: str) -> list[float]:
        """Of each run: `val/mae` and the like, or an attribute; empty unless every run has it."""
        split, slash, metric = name.partition("/")
        found = [getattr(run, split) for run in self.runs]
        if None in found:
            return []
        return [value[metric] for value in found] if slash else found

    def mean(self, name: str) -> float:
        """The mean of `values`."""
        return statistics.fmean(self.values(name))


def compare(runs: Sequence[Run], *, sort: str = "mae", each: bool = False) -> list[Row]:
    """Put one or more runs into rows, those that differ only in the seed into one unless `each`; best row first.

    That is the one with the best mean of `sort`, one of `METRICS`, on the validation set.
    """
    names = [name for name in differing(runs) if each or name != "seed"]
    sign = -1 if sort in HIGHER_IS_BETTER else 1
    rows: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: sign * run.val[sort]):
        rows.setdefault((run.folder,) if each else _key(run, names), []).append(run)
    made = [Row(row, {name: row[0].settings.get(name, ABSENT) for name in names}) for row in rows.values()]
    return sorted(made, key=lambda row: sign * row.mean(f"val/{sort}"))


def labels(rows: Sequence[Row]) -> list[str]:
    """What to call each row: its rank, and the settings it has, by the last part of their names if that will do."""
    short = [name.rpartition(".")[2] for name in rows[0].settings]
    names = [last if short.count(last) == 1 else name for name, last in zip(rows[0].settings, short, strict=True)]
    found = []
    for rank, row in enumerate(rows, 1):
        pairs = zip(names, row.settings.values(), strict=True)
        words = ", ".join(f"{name}={short_value(value)}" for name, value in pairs if value != ABSENT)
        found.append(f"{rank}: {printable(words) or 'all runs'}")
    return found
