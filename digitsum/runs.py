"""Finding the runs that earlier commands left behind."""

from pathlib import Path

from digitsum.errors import InputError

METRICS_FILE = "metrics.json"
"""Written last: a folder that has it is a finished run."""

BEST_CHECKPOINT = Path("checkpoints", "best.ckpt")


def newest_run(outputs: Path) -> Path:
    """The finished run below `outputs/runs` or `outputs/sweeps` that ended last.

    Raises:
        InputError: there is none.
    """
    finished = [
        path.parent
        for pattern in (f"runs/*/{METRICS_FILE}", f"sweeps/*/*/{METRICS_FILE}")
        for path in outputs.glob(pattern)
        if (path.parent / BEST_CHECKPOINT).is_file()
    ]
    if not finished:
        raise InputError(f"{outputs}: found no finished run; train one with scripts/train.py or pass ckpt_path=FILE")
    return max(finished, key=lambda run: (run / METRICS_FILE).stat().st_mtime_ns)
