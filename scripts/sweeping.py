"""A sweep as a whole: its data composed once, a line for each finished job, and a summary of what failed."""

import logging
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from build import composing_bar, settings_of
from console import one_line, prepare_process
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from digitsum.datamodule import ComposedData, SumDataModule
from digitsum.files import read_json, write_json

JOB_FILE = "job.json"
"""What became of a sweep's job: `number`, `settings`, `status`, `score`, `seconds`, `reason`."""


class SweepReport(Callback):
    """Speaks for the jobs of a sweep, which are quiet on the console; does nothing for a single run.

    Hydra copies it to the processes in which jobs run, so that what it knows of the others is in files.
    """

    def __init__(self) -> None:
        self.count = 0
        self._begin = 0.0
        self._job_begin = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs and compose the data that they share."""
        words = [*(f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items())]
        overrides = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
        self.count = sum(map(len, BasicSweeper.split_arguments(overrides, None)))
        self._begin = time.time()
        for path in Path(config.hydra.sweep.dir).glob(f"*/{JOB_FILE}"):
            path.unlink()  # of the same sweep, when it was cut short
        data, one_device = settings_of(config.data), config.trainer.devices == config.trainer.num_nodes == 1
        if isinstance(data, ComposedData) and one_device:  # any other sweep is refused by its first job
            SumDataModule(data, progress=composing_bar(data)).prepare_data()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave the console to this object: a job's own lines are in its log."""
        if self.count:
            prepare_process()  # it may be a new one
            self._job_begin = time.time()
            for handler in logging.getLogger().handlers:
                if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                    handler.setLevel(logging.CRITICAL)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Say what became of the job, how many are left, and until when."""
        if not self.count:
            return
        done = job_return.status == JobStatus.COMPLETED
        result = job_return._return_value
        folder = Path(config.hydra.runtime.output_dir)
        seconds = time.time() - self._job_begin
        write_json(
            folder / JOB_FILE,
            {
                "number": config.hydra.job.num,
                "settings": list(config.hydra.overrides.task),
                "status": "finished" if done else "failed",
                "score": result if done else None,
                "seconds": round(seconds, 3),
                "reason": None if done else one_line(result),
            },
        )
        ended = len(list(folder.parent.glob(f"*/{JOB_FILE}")))
        left = self.count - ended
        end = datetime.now() + timedelta(seconds=(time.time() - self._begin) / ended * left)
        outcome = f"{config.monitor} {result:.4f}" if done and result is not None else "finished" if done else "FAILED"
        rest = f"{left} left, until about {end:%H:%M:%S}" if left else "none left"
        print(f"{folder.name}: {outcome}, {seconds:.0f} s, {rest}", flush=True)
        if not left:  # here, not at the end of the sweep: where a job failed Hydra raises its exception before that
            self._sum_up(folder.parent, config.monitor)

    def _sum_up(self, folder: Path, monitor: str) -> None:
        """Name the best job and those that failed, and where all of them are."""
        jobs = {path.parent.name: read_json(path) for path in sorted(folder.glob(f"*/{JOB_FILE}"))}
        scores = {name: job["score"] for name, job in jobs.items() if job["score"] is not None}
        lines = [f"{name} failed: {job['reason']}" for name, job in jobs.items() if job["status"] == "failed"]
        if scores:
            best = min(scores, key=lambda name: scores[name])
            lines.append(f"best of {len(scores)}: {best} ({monitor} {scores[best]:.4f})")
        print("\n".join(["", *lines, f"results are in {folder}", f"next:\n  python scripts/compare.py '{folder}'"]))
