"""Which exceptions are a user's mistakes, and what they say in one line: ours, Hydra's, submitit's and joblib's."""

import errno
import re
import sys
import traceback
from itertools import accumulate, chain
from pathlib import Path

from digitsum.cli.project import PROJECT
from digitsum.errors import InputError, did_you_mean


def is_user_error(error: BaseException) -> bool:
    """Whether an exception is about what the user handed over, or about a folder that cannot be written."""
    users = isinstance(error, InputError) or _package(error) in ("hydra", "omegaconf", "submitit")
    folders = _unwritable(error) is not None
    return users or folders or _lost_process(error) or (type(error) is ValueError and _raised_in_hydra(error))


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
        codes = re.search(r"exit codes of the workers are \{(.+)\}", text)
        ended = f"a process in which jobs ran has ended before them{f' ({codes[1]})' if codes else ''}"
        advice = "if memory was short, let fewer run at once (hydra.launcher.n_jobs)"
        return f"{ended}; {advice}; the same command with hydra.sweep.dir=FOLDER of this sweep goes on"
    if error.__cause__ is not None and _package(error) == "hydra":
        text += f"\n{error.__cause__}"
    if re.search("'hydra/launcher/submitit_(slurm|local)'", text):
        return "this launcher needs submitit; install it with: pip install -e '.[slurm]' -c constraints.txt"
    lines = [line.strip() for line in text.splitlines()]
    # the object's type is of use to programmers only
    return "; ".join(line for line in lines if line and not line.startswith(("object_type=", "reference_type=")))


def proposal(message: str, config_name: str) -> str:
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
    known = _known_keys(config_name)
    return "" if name in known else did_you_mean(name, known)  # of a right key the value is wrong


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
