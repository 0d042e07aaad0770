"""Finding the runs that earlier commands left behind, and reading what they recorded."""

from pathlib import Path
from typing import Any

import yaml

from digitsum.errors import InputError

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
"""Written last: a folder that has it is a finished run."""

BEST_CHECKPOINT = Path("checkpoints", "best.ckpt")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")


def newest_run(outputs: Path, *, finished: bool) -> Path:
    """The newest run below `outputs/runs` or `outputs/sweeps`: the last to end if `finished`, else the last to start.

    Raises:
        InputError: there is none.
    """
    mark = METRICS_FILE if finished else CONFIG_FILE
    found = [path for pattern in (f"runs/*/{mark}", f"sweeps/*/*/{mark}") for path in outputs.glob(pattern)]
    if finished:
        found = [path for path in found if (path.parent / BEST_CHECKPOINT).is_file()]
    if not found:
        what = "finished run; train one with scripts/train.py or pass ckpt_path=FILE" if finished else "run to resume"
        raise InputError(f"{outputs}: found no {what}")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def read_config(run: Path) -> dict[str, Any]:
    """The resolved config that a run recorded: plain values, whatever they say.

    Raises:
        InputError: the folder is no run's, or its config is damaged.
    """
    path = run / CONFIG_FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{run}: expected a run's folder with {CONFIG_FILE}, found none ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: expected a run's config, but it does not parse") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a run's config, found {type(content).__name__}")
    return content
