"""What every script does at the console: help at once, one line for a user's mistake, a fast allocator."""

import contextlib
import ctypes
import difflib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = str(Path(__file__).resolve().parents[2])
"""The project's root: outputs lie below it wherever a command is typed."""

log = logging.getLogger("digitsum")


def print_help_and_exit(text: str | None) -> None:
    """Print a script's docstring and exit if help was asked for; before the imports that take seconds."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((text or "").strip())
        sys.exit(0)


def run_script(main: Callable[[], Any], config_name: str) -> None:
    """Run a script: a user's mistake becomes one line and exit code 1, a bug keeps its traceback.

    Args:
        main: the script's Hydra program.
        config_name: of its config, whose keys are proposed for misspelt ones.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from digitsum.cli.overrides import override_key, renamed
    from digitsum.errors import InputError
    from digitsum.training.signals import Interrupted

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, not as Hydra prints them
    prepare_process()
    try:
        if older := renamed(map(override_key, sys.argv[1:])):
            raise InputError("{}: expected {}, its name since version 0.5".format(*older))
        main()
    except Interrupted as stop:
        sys.exit(128 + stop.signum)
    except Exception as error:
        mistake = isinstance(error, InputError | HydraException | OmegaConfBaseException) or _of_submitit(error)
        if not mistake or os.environ.get("DIGITSUM_DEBUG") == "1":
            raise
        message = one_line(error)
        sys.exit(f"error: {message}{did_you_mean(message, config_name)}")
    except KeyboardInterrupt:
        sys.exit(130)


def report_user_errors(task: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorate a Hydra task: a user's mistake goes to the job's log in one line.

    In a multirun it is raised again, so that Hydra counts the job as failed and goes on to the next; alone it ends the
    program. `debug=true` leaves every exception alone.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from digitsum.errors import InputError

    @functools.wraps(task)
    def wrapped(cfg: Any) -> Any:
        if cfg.debug:
            os.environ["DIGITSUM_DEBUG"] = "1"
        try:
            return task(cfg)
        except (InputError, HydraException, OmegaConfBaseException) as error:
            if cfg.debug:
                raise
            log.error("error: %s", one_line(error))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            sys.exit(1)

    return wrapped


def one_line(error: BaseException) -> str:
    """An error and, for Hydra's and OmegaConf's, what it came from, on one line."""
    from digitsum.errors import InputError

    causes: list[BaseException] = []  # OmegaConf's chains can bite their own tails
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        if isinstance(cause, InputError):  # raised in a resolver, say
            return str(cause)
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if _of_submitit(error):  # sbatch's words; or a lost job's state, its output, of which the last line says most
        lines = [line.strip("- ") for line in str(error).splitlines() if line.strip("- ")]
        return "; ".join(lines if len(lines) < 4 else [*lines[:2], lines[-1]])
    words = [str(error)]
    if error.__cause__ is not None and type(error).__module__.startswith("hydra"):
        words.append(str(error.__cause__))
    text = "\n".join(words)
    if re.search("'hydra/launcher/submitit_(slurm|local)'", text):
        return "this launcher needs submitit; install it with: pip install -e '.[slurm]' -c constraints.txt"
    lines = [line.strip() for line in text.splitlines()]
    # the object's type is of use to a programmer alone
    return "; ".join(line for line in lines if line and not line.startswith(("object_type=", "reference_type=")))


def _of_submitit(error: BaseException) -> bool:
    return type(error).__module__.startswith("submitit.")


def did_you_mean(message: str, config_name: str) -> str:
    """What a misspelt key, group or choice in one of Hydra's messages was probably meant to be, or nothing."""
    from digitsum.cli.overrides import renamed

    found = re.search(r"Could not (?:override|find) '([^']+)'|full_key: (\S+)", message)
    if found is None:
        return ""
    name = (found[1] or found[2]).rstrip(".;")
    conf = Path(PROJECT, "conf")
    group, slash, choice = name.rpartition("/")
    if slash:
        close = difflib.get_close_matches(choice, [path.stem for path in (conf / group).glob("*.yaml")], 1)
        return f"; did you mean {group}={close[0]}?" if close else ""
    older = renamed([name])
    close = [older[1]] if older else difflib.get_close_matches(name, _known_keys(conf, config_name), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _known_keys(conf: Path, config_name: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    # the groups that the command chose decide which keys there are
    chosen = [word.partition("=") for word in sys.argv[1:]]
    groups = [f"{group}={name}" for group, _, name in chosen if (conf / group / f"{name}.yaml").is_file()]
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = OmegaConf.to_container(compose(config_name, groups), resolve=False)
    keys = [path.name for path in conf.iterdir() if path.is_dir()]

    def walk(prefix: str, node: Any) -> None:
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)

    walk("", config)
    return keys


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


def prepare_process() -> None:
    """What each process that trains or predicts needs: a fast allocator, and no messages that lead nowhere."""
    tune_malloc()
    _silence_known_messages()


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


def _silence_known_messages() -> None:
    """Drop messages that a user can do nothing about or should not follow."""
    for message in (
        ".*is smaller than the logging interval.*",  # what is logged by the step counts on from epoch to epoch
        ".*does not have many workers.*",  # data in memory maps is gathered faster without worker processes
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # inside Lightning
        ".*Experiment logs directory .* exists.*",  # it is the run's own folder, made by Hydra
        ".*Checkpoint directory .* exists and is not empty.*",  # likewise
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # advertisements for other packages; what the scripts say themselves, or have decided
    beginnings = ("💡 Tip", "TPU available", "GPU available", "Loading `train_dataloader`")
    return not record.getMessage().startswith(beginnings)
