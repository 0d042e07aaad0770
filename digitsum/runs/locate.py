"""Finding the runs that earlier commands left behind, and reading what they recorded."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from digitsum.errors import InputError
from digitsum.files import is_folder

CONFIG_FILE = "config.yaml"
_MAX_CONFIG = 50_000  # characters; a run's config has some thousand
_MAX_DEPTH = 50  # of lists and mappings in one another; libyaml's loader ends the whole process some thousands deep
LOG_FILE = "train.log"
"""Written first: a folder that has it, but no config, is that of a run that did not begin."""
METRICS_FILE = "metrics.json"
"""Written last: a folder that has it is a finished run."""

BEST_CHECKPOINT = Path("checkpoints", "best.ckpt")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a tenth of the time


def newest_run(outputs: Path, *, finished: bool, network: str | None = None) -> Path:
    """The newest run below `outputs/runs` or `outputs/sweeps`: the last to end if `finished`, else the last to start.

    If `network` is given, the newest of that network. An `InputError` says that there is none.
    """
    mark = METRICS_FILE if finished else CONFIG_FILE
    for path in _newest_first(outputs, f"runs/*/{mark}", f"sweeps/*/*/{mark}"):
        if finished and not (path.parent / BEST_CHECKPOINT).is_file():
            continue
        if network is None or _network(path.parent) == network:
            return path.parent
    of, how = (f" of a {network}", f" model={network}") if network else ("", "")
    trained = f"finished run{of}; train one with scripts/train.py{how} or pass ckpt_path=FILE"
    raise InputError(f"{outputs}: found no {trained if finished else 'run to resume'}")


def _network(run: Path) -> Any:
    """The network's name in a run's config; None where it cannot be read."""
    with contextlib.suppress(InputError):
        model = read_config(run).get("model")
        return model.get("network") if isinstance(model, dict) else None
    return None


def newest_sweep(outputs: Path) -> Path:
    """The newest sweep's folder below `outputs/sweeps`; an `InputError` where there is none."""
    for folder in _newest_first(outputs, "sweeps/*/"):
        return folder
    raise InputError(f"{outputs}: found no sweep; train one with scripts/train.py -m, or name folders of runs")


def _newest_first(outputs: Path, *patterns: str) -> list[Path]:
    found: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that cannot be looked into, a name too long
        for pattern in patterns:
            found += outputs.glob(pattern)
    return sorted(found, key=_time, reverse=True)


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Every run's folder that is one of `folders` or lies below one, each once, by name; unfinished runs as well."""
    found: set[Path] = set()
    for folder in folders:
        if not is_folder(folder):
            raise InputError(f"{folder}: expected a folder of runs, found none")
        for place, below, files in os.walk(folder.absolute()):
            if {CONFIG_FILE, LOG_FILE} & set(files):
                found.add(Path(place))
                below.clear()  # no run lies inside another
    return sorted(found)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # deleted since it was found
        return 0


def read_config(run: Path) -> dict[str, Any]:
    """The resolved config that a run recorded: plain values, whatever they say.

    Raises:
        InputError: the folder is no run's, or its config is damaged.
    """
    path = run / CONFIG_FILE
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG + 1)
        if len(text) > _MAX_CONFIG:
            raise ValueError("too long")
        content = _parse(text)
    except OSError as error:
        raise InputError(f"{run}: expected a run's folder with {CONFIG_FILE}, found none ({error.strerror})") from error
    except Exception as error:  # a damaged file raises whatever the parser stumbled over
        raise InputError(f"{path}: expected a run's config, but it does not parse") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a run's config, found {type(content).__name__}")
    return content


def _parse(text: str) -> Any:
    """The plain values of a YAML text that has no anchors: a run records none, a few lines can stand for gigabytes."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
            raise yaml.YAMLError("found an alias, or lists in lists in lists")
    return yaml.load(text, Loader=_Loader)
