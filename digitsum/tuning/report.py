"""What a study has found: its best trial, its tables and its figures."""

import functools
import logging
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from digitsum.figures import write_figure
from digitsum.files import write_csv, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

REPORT_FILES = ("trials.csv", "study.json", "history.png", "slices.png", "importances.png")
"""What `write_report` writes; figures where there are trials enough."""

_REMARKS = ("repeats", "reason")


def rounded(params: dict[str, Any]) -> dict[str, Any]:
    """A trial's settings as it is trained with them: numbers of six digits, which people can type again."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in params.items()}


def state_of(trial: "FrozenTrial") -> str:
    """`complete`, `pruned`, `failed` (for a reason of its own), `interrupted`, `running` or `waiting`."""
    if trial.state.name == "FAIL":
        return "failed" if "reason" in trial.user_attrs else "interrupted"
    return trial.state.name.lower()


def best_of(study: "Study") -> "FrozenTrial | None":
    """The complete trial with the best value, the first of equals; None where none is complete."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if state_of(trial) == "complete"]
    return better_of(study)(complete, key=lambda trial: trial.value, default=None)


def better_of(study: "Study") -> Any:
    """`min` or `max`, whichever of two values is the better one in a study."""
    return max if study.direction.name == "MAXIMIZE" else min


def write_report(study: "Study", folder: Path, monitor: str, command: str | None) -> None:
    """Write `trials.csv`, `study.json`, and figures of what there are enough trials for, into `folder`.

    The trials' values are called `monitor`; `command` trains the best trial's model again.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if state_of(trial) != "waiting"]
    better = better_of(study)
    rows = [_row(trial, monitor, better) for trial in trials]
    keys = dict.fromkeys(key for trial in trials for key in trial.params)
    names = ["trial", "state", "epochs", "seconds", monitor, *keys, *_REMARKS]
    write_csv(folder / "trials.csv", names, ([row.get(name) for name in names] for row in rows))
    best = best_of(study)
    found = None if best is None else {**_row(best, monitor, better), "command": command}
    write_json(folder / "study.json", {"best": found, "settings": study.user_attrs["settings"], "trials": rows})
    _write_figures(study, folder, monitor)


def _row(trial: "FrozenTrial", monitor: str, better: Any) -> dict[str, Any]:
    values = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
    return {
        "trial": trial.number,
        "state": state_of(trial),
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
        monitor: trial.value if state_of(trial) == "complete" else better(values, default=None),
        **rounded(trial.params),
        **{name: trial.user_attrs.get(name) for name in _REMARKS},
    }


def _write_figures(study: "Study", folder: Path, monitor: str) -> None:
    # "using categorical units": numbers of a categorical setting are meant to be drawn so
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)
    from matplotlib import pyplot
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    values = [trial.value for trial in study.get_trials(deepcopy=False) if state_of(trial) == "complete"]
    figures: dict[str, Any] = {}
    if values:
        figures = {"history": plots.plot_optimization_history, "slices": plots.plot_slice}
    if len(set(values)) > 1:  # importance is of differences
        # Optuna's default looks at nothing but the few best trials, and overlooks choices among a few values
        evaluator = FanovaImportanceEvaluator(seed=0)
        figures["importances"] = functools.partial(plots.plot_param_importances, evaluator=evaluator)
    style: Any = {"figure.figsize": (8, 5), "figure.constrained_layout.use": True}
    for name, plot in figures.items():
        with pyplot.rc_context(style), warnings.catch_warnings():  # Optuna changes the style for good
            # of these plots every release since 2.2 has said that the next may change them
            warnings.filterwarnings("ignore", message=".*visualization.* is experimental")
            # a setting that is the same in all trials so far
            warnings.filterwarnings("ignore", message="Attempting to set identical low and high xlims")
            axes = np.atleast_1d(plot(study, target_name=monitor))
            for axis in (axes.xaxis for axes in axes if axes.get_xscale() == "log"):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a range may lie between two powers of ten
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
            write_figure(folder / f"{name}.png", axes[0].figure)
            pyplot.close(axes[0].figure)
