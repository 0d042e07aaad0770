"""Finding the runs that earlier commands left behind, and reading what they recorded."""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from digitsum.errors import InputError

CONFIG_FILE = "config.yaml"
_MAX_CONFIG = 50_000  # characters; a run's config has some thousand
METRICS_FILE = "metrics.json"
"""Written last: a folder that has it is a finished run."""

BEST_CHECKPOINT = Path("checkpoints", "best.ckpt")
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")


class _PlainLoader(yaml.SafeLoader):
    """Refuses anchors: a run records none, and a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("found an alias")
        return super().compose_node(parent, index)


def newest_run(outputs: Path, *, finished: bool) -> Path:
    """The newest run below `outputs/runs` or `outputs/sweeps`: the last to end if `finished`, else the last to start.

    Raises:
        InputError: there is none.
    """
    mark = METRICS_FILE if finished else CONFIG_FILE
    found: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that cannot be looked into, a name too long
        for pattern in (f"runs/*/{mark}", f"sweeps/*/*/{mark}"):
            found += outputs.glob(pattern)
    if finished:
        found = [path for path in found if (path.parent / BEST_CHECKPOINT).is_file()]
    if not found:
        what = "finished run; train one with scripts/train.py or pass ckpt_path=FILE" if finished else "run to resume"
        raise InputError(f"{outputs}: found no {what}")
    return max(found, key=_time).parent


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
        content = yaml.load(text, Loader=_PlainLoader)
    except OSError as error:
        raise InputError(f"{run}: expected a run's folder with {CONFIG_FILE}, found none ({error.strerror})") from error
    except Exception as error:  # a damaged file raises whatever the parser stumbled over
        raise InputError(f"{path}: expected a run's config, but it does not parse") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a run's config, found {type(content).__name__}")
    return content
