"""A sweep as a whole: its data composed once, a line for each finished job, and a summary of what failed."""

import logging
import multiprocessing
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from digitsum.cli.build import composing_bar, register, settings_of
from digitsum.cli.console import prepare_process
from digitsum.cli.output_dirs import writable
from digitsum.cli.overrides import command_line, shell_quote, shell_words, unless_default
from digitsum.cli.user_errors import one_line
from digitsum.data.datamodule import ComposedData, SumDataModule
from digitsum.errors import InputError
from digitsum.files import read_json, write_json
from digitsum.metrics import monitor_mode
from digitsum.runs.locate import BEST_CHECKPOINT
from digitsum.training.signals import Signals

JOB_FILE = "job.json"
"""What became of a sweep's job: `number`, `settings`, `status`, `score`, `seconds`, `reason`."""
_SUBMITTED = ".submitit/*/*_submitted.pkl"  # what submitit leaves of each job that it has submitted


class SweepReport(Callback):
    """Tells of the jobs of a sweep, which print nothing themselves; does nothing for a single run.

    Hydra copies it to the processes in which jobs run, so that what it knows of the others is in files. Where submitit
    runs them, on other machines, the command that gave the sweep follows these files and prints itself.
    """

    def __init__(self) -> None:
        self.count = 0
        self._argv = sys.argv
        self._monitor = self._outputs_dir = ""
        self._begin = self._job_begin = 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a job's process, which knows neither the command nor this project's resolvers."""
        self.__dict__.update(state)
        sys.argv = self._argv
        register()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the jobs and compose the data that they share.

        Raises:
            SystemExit: no Slurm, or no folder to write: of an InputError Hydra would make a warning.
        """
        launcher = config.hydra.launcher._target_
        if launcher.endswith("SlurmLauncher") and shutil.which("srun") is None:
            sys.exit("error: hydra/launcher: expected a machine of a Slurm cluster, found no srun; leave it out")
        try:
            folder = Path(writable(config.hydra.sweep.dir))
        except InputError as error:
            sys.exit(f"error: {error}")
        words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
        self.count = sum(map(len, BasicSweeper.split_arguments(overrides, None)))
        self._monitor, self._outputs_dir, self._begin = config.monitor, config.outputs_dir, time.time()
        for path in folder.glob(f"*/{JOB_FILE}"):
            path.unlink()  # of the same sweep, when it was cut short
        data, one_device = settings_of(config.data), config.trainer.devices == config.trainer.num_nodes == 1
        if isinstance(data, ComposedData) and one_device:  # any other sweep is refused by its first job
            with Signals().listening():  # a signal leaves no data set unfinished
                SumDataModule(data, progress=composing_bar(data)).prepare_data()
        if launcher.endswith("JoblibLauncher"):  # at this process's end alone its jobs would go on
            signal.signal(signal.SIGTERM, _pass_on)
        if ".submitit_launcher." in launcher:
            threading.Thread(target=self._follow, args=(folder,)).start()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave the console to this object: a job's own lines are in its log."""
        if self.count:
            consoles = (sys.stdout, sys.stderr)  # of the log's handlers, before they are guarded
            prepare_process()  # it may be a new one
            self._job_begin = time.time()
            for handler in logging.getLogger().handlers:
                if getattr(handler, "stream", None) in (*consoles, sys.stdout, sys.stderr):
                    handler.setLevel(logging.CRITICAL)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write down what became of the job, and print it."""
        if not self.count:
            return
        done = job_return.status == JobStatus.COMPLETED
        result = job_return._return_value
        folder = Path(config.hydra.runtime.output_dir)
        content = {
            "number": config.hydra.job.num,
            "settings": list(config.hydra.overrides.task),
            "status": "finished" if done else "failed",
            "score": result if done else None,
            "seconds": round(time.time() - self._job_begin, 3),
            "reason": None if done else one_line(result),
        }
        write_json(folder / JOB_FILE, content)
        self._tell(folder / JOB_FILE, len(list(folder.parent.glob(f"*/{JOB_FILE}"))))

    def _follow(self, folder: Path) -> None:
        """Tell of the jobs of other machines until all have ended, or the main thread has."""
        print(f"the jobs' output goes to {folder}/.submitit; Ctrl-C does not stop jobs that Slurm has, scancel does")
        before, seen = set(folder.glob(_SUBMITTED)), set[Path]()
        over = False
        while len(seen) < self.count and not over:
            threading.main_thread().join(1)
            if over := not threading.main_thread().is_alive():
                for path in folder.glob("*/"):  # a network file system answers from its cache for a minute otherwise
                    with suppress(OSError):  # some refuse it
                        path.chmod(path.stat().st_mode)
            for path in sorted(set(folder.glob(f"*/{JOB_FILE}")) - seen, key=lambda path: path.stat().st_mtime):
                seen.add(path)
                self._tell(path, len(seen))
        if len(seen) < self.count and set(folder.glob(_SUBMITTED)) - before:
            print(f"{self.count - len(seen)} of {self.count} jobs have not ended here; look for them with squeue.")
            print("When none is left, go on with the same command and", shell_words(**{"hydra.sweep.dir": folder}))

    def _tell(self, file: Path, ended: int) -> None:
        """Print what became of a job, how many are left, and until when; and of the last one what came of them all."""
        job = read_json(file)
        left = self.count - ended
        end = datetime.now() + timedelta(seconds=(time.time() - self._begin) / ended * left)
        outcome = "FAILED" if job["status"] == "failed" else "finished"
        if job["score"] is not None:
            outcome = f"{self._monitor} {job['score']:.4f}"
        rest = f"{left} left, until about {end:%H:%M:%S}" if left else "none left"
        print(f"{file.parent.name}: {outcome}, {job['seconds']:.0f} s, {rest}", flush=True)
        if not left:  # here, not at the end of the sweep: where a job failed Hydra raises its exception before that
            self._sum_up(file.parent.parent)

    def _sum_up(self, folder: Path) -> None:
        """Name the best job and those that failed, and where all of them are."""
        jobs = {path.parent.name: read_json(path) for path in sorted(folder.glob(f"*/{JOB_FILE}"))}
        scores = {name: job["score"] for name, job in jobs.items() if job["score"] is not None}
        lines = [f"{name} failed: {job['reason']}" for name, job in jobs.items() if job["status"] == "failed"]
        if scores:
            better = max if monitor_mode(self._monitor) == "max" else min
            best = better(scores, key=lambda name: scores[name])
            lines.append(f"best of {len(scores)}: {best} ({self._monitor} {scores[best]:.4f})")
        place, outputs_dir = shell_quote(str(folder)), unless_default(self._outputs_dir)
        words = "" if outputs_dir is None else f" --outputs-dir {shell_quote(str(outputs_dir))}"
        commands = f"next:\n  python scripts/compare.py {place}{words}\n  tensorboard --logdir {place}"
        settings = [set(jobs[name]["settings"]) for name in scores]
        unlike = set().union(*settings).difference(set.intersection(*settings) if settings else ())
        if {word.partition("=")[0] for word in unlike} == {"seed"}:
            paths = [folder / name / BEST_CHECKPOINT for name in scores]
            commands += f"\n  {command_line('scripts/predict.py', ckpt_path=paths, outputs_dir=self._outputs_dir)}"
        print("\n".join(["", *lines, f"results are in {folder}", commands]))


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """Pass SIGTERM on to the processes in which jobs run; what they raise ends the sweep."""
    for process in multiprocessing.active_children():
        process.terminate()
