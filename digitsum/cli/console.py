"""What every script does at the console: help at once, output that never fails, one line for a user's mistake."""

import contextlib
import ctypes
import errno
import functools
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from digitsum.cli.project import PROJECT
from digitsum.errors import InputError, did_you_mean
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
        sys.exit(f"error: {message}{_proposal(message, config_name)}")
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


def is_user_error(error: BaseException) -> bool:
    """Whether an exception is about what the user handed over, or about a folder that cannot be written."""
    users = isinstance(error, InputError) or _package(error) in ("hydra", "omegaconf", "submitit")
    users |= _lost_process(error)
    return users or _unwritable(error) is not None or (type(error) is ValueError and _raised_in_hydra(error))


def one_line(error: BaseException) -> str:
    """An error and, for Hydra's and OmegaConf's, what it came from, on one line."""
    causes: list[BaseException] = []  # OmegaConf's chains can bite their own tails
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        if isinstance(cause, InputError):  # raised in a resolver, say
            return str(cause)
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if (failed := _unwritable(error)) is not None:
        return f"cannot write {failed.filename}: {failed.strerror}; choose another folder with outputs_dir=FOLDER"
    text = str(error)
    if _package(error) == "submitit":  # sbatch's words; or a lost job's state and output, whose last line says most
        lines = [line.strip("- ") for line in text.splitlines() if line.strip("- ")]
        return "; ".join(lines if len(lines) < 4 else [*lines[:2], lines[-1]])
    if _lost_process(error):
        codes = re.search(r"exit codes of the workers are \{(.*)\}", text)
        ended = f"a process in which jobs ran was ended from outside{f' ({codes[1]})' if codes else ''}"
        return (
            f"{ended}; give the command again to go on, with fewer at once (hydra.launcher.n_jobs) if memory is short"
        )
    if error.__cause__ is not None and _package(error) == "hydra":
        text += f"\n{error.__cause__}"
    if re.search("'hydra/launcher/submitit_(slurm|local)'", text):
        return "this launcher needs submitit; install it with: pip install -e '.[slurm]' -c constraints.txt"
    lines = [line.strip() for line in text.splitlines()]
    # the object's type is of use to programmers only
    return "; ".join(line for line in lines if line and not line.startswith(("object_type=", "reference_type=")))


def _raised_in_hydra(error: BaseException) -> bool:
    """Whether Hydra's own code raised it: it says some of a command's mistakes in plain exceptions."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith("hydra.")


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _lost_process(error: BaseException) -> bool:
    """Whether joblib, which runs jobs side by side, tells of a process that was killed."""
    return _package(error) == "joblib" and type(error).__name__ == "TerminatedWorkerError"


def _unwritable(error: BaseException) -> OSError | None:
    """What the operating system said of a folder or file that Hydra or a library could not make, if it is that."""
    cause = error if isinstance(error, OSError) else error.__cause__  # logging's dictConfig wraps it
    numbers = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EEXIST)
    return cause if isinstance(cause, OSError) and cause.errno in numbers and cause.filename else None


def _proposal(message: str, config_name: str) -> str:
    """What a misspelt key, group or choice in one of Hydra's messages was probably meant to be, or nothing."""
    from digitsum.cli.overrides import renamed

    found = re.search(r"Could not (?:override|find) '([^']+)'|full_key: (\S+)", message)
    if found is None:
        return ""
    name = (found[1] or found[2]).rstrip(".;")
    group, slash, choice = name.rpartition("/")
    if slash:
        return did_you_mean(choice, [path.stem for path in Path(PROJECT, "conf", group).glob("*.yaml")], f"{group}=")
    if older := renamed([name]):
        return f"; did you mean {older[1]}?"
    return did_you_mean(name, _known_keys(config_name))


def _known_keys(config_name: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from digitsum.cli.overrides import flatten

    GlobalHydra.instance().clear()
    conf = Path(PROJECT, "conf")
    # the groups that the command chose decide which keys there are
    chosen = [word.partition("=") for word in sys.argv[1:]]
    groups = [f"{group}={name}" for group, _, name in chosen if (conf / group / f"{name}.yaml").is_file()]
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = OmegaConf.to_container(compose(config_name, groups), resolve=False)
    with_parents = [accumulate(key.split("."), "{}.{}".format) for key in flatten(config)]
    return [*(path.name for path in conf.iterdir() if path.is_dir()), *chain(*with_parents)]


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
