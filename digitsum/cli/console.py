"""What every script does at the console: help at once, output that never fails, one line for a user's mistake."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from digitsum.cli.user_errors import is_user_error, one_line, proposal
from digitsum.errors import InputError
from digitsum.training.signals import Interrupted

log = logging.getLogger("digitsum")

os.environ["MPLBACKEND"] = "agg"  # scripts draw into files, whatever screen there is or is said to be
if "OMP_WAIT_POLICY" not in os.environ:
    # Torch's threads (of libgomp, which reads this as torch is imported) look 300,000 times for more to do before they
    # sleep, and hold the cores that the threads of our loops want: a reference network's step takes a tenth longer.
    # With 1,000 looks they sleep between a reader's layers, and its step takes a third longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def print_help_and_exit(text: str | None) -> None:
    """Print a script's docstring and exit if help was asked for; before the imports that take seconds."""
    guard_console()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((text or "").strip())
        sys.exit(0)


class _Stream(io.FileIO):
    """Where a process prints; what comes after its reader has gone, `head` say, is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def guard_console() -> None:
    """Let this process print into a pipe that was closed, and letters that its terminal does not have, as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or stream is None:
            continue  # guarded before, or a test's
        if type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:  # Windows' terminals are none
            lines = stream.line_buffering or stream.write_through
            raw = io.BufferedWriter(_Stream(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, line_buffering=lines)
            setattr(sys, name, stream)
        stream.reconfigure(errors="backslashreplace")


def run_script(main: Callable[[], Any], config_name: str = "") -> None:
    """Run a script: a user's mistake becomes one line and exit code 1, a bug keeps its traceback.

    Of a Hydra program `config_name` is its config, whose keys are proposed for misspelt ones.
    """
    from digitsum.cli.overrides import override_key, renamed

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, not as Hydra prints them
    prepare_process()
    try:
        if older := renamed(map(override_key, sys.argv[1:])):
            raise InputError("{}: expected {}, its name since version 0.5".format(*older))
        main()
    except Interrupted as stop:
        sys.exit(128 + stop.signum)
    except Exception as error:
        if not is_user_error(error) or os.environ.get("DIGITSUM_DEBUG") == "1":
            raise
        message = one_line(error)
        sys.exit(f"error: {message}{proposal(message, config_name)}")
    except KeyboardInterrupt:
        sys.exit(130)


def report_user_errors(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorate a Hydra task: a user's mistake goes to the job's log in one line.

    In a multirun it is raised again, so that Hydra counts the job as failed and goes on to the next; a single run ends
    with it. `debug=true` leaves every exception as it is.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    @functools.wraps(task)
    def wrapped(cfg: Any) -> Any:
        if cfg.debug:
            os.environ["DIGITSUM_DEBUG"] = "1"
        try:
            return task(cfg)
        except Exception as error:
            if cfg.debug or not is_user_error(error):
                raise
            log.error("error: %s", one_line(error))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            sys.exit(1)

    return wrapped


def log_written(folder: Path) -> None:
    """Log what a command left in `folder`."""
    log.info("written to %s:", folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."):
        log.info("  %s", path.relative_to(folder))


class ComposingBar:
    """A progress bar over `total` canvases that appears when the first are composed."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: Any = None

    def __call__(self, count: int) -> None:
        """Advance by `count` canvases."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=self._total, desc="composing canvases", unit=" images")
        self._bar.update(count)
        if self._bar.n >= self._total:
            self._bar.close()


def tune_malloc() -> None:
    """Let glibc keep large blocks between steps instead of mapping and clearing them anew each time.

    Each training step allocates some hundred megabytes of activations; without this a third to a half of its time
    goes into page faults. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_max = -1, -4  # from malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def prepare_process() -> None:
    """What each process needs: a console that cannot fail, a fast allocator, and no messages that lead nowhere."""
    guard_console()
    tune_malloc()
    for message in (
        ".*is smaller than the logging interval.*",  # what is logged by the step counts on from epoch to epoch
        ".*does not have many workers.*",  # data in memory maps is gathered faster without worker processes
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # inside Lightning
        ".*Experiment logs directory .* exists.*",  # it is the run's own folder, made by Hydra
        ".*Checkpoint directory .* exists and is not empty.*",  # it is the resumed run's
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # advertisements for other packages; what the scripts say themselves, or have decided
    beginnings = ("💡 Tip", "TPU available", "GPU available", "Loading `train_dataloader`")
    return not record.getMessage().startswith(beginnings)
