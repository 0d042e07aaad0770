"""Where a run or a sweep's job writes: names that nothing else has, and that Hydra's command line can parse back."""

import itertools
import re
import sys
from datetime import datetime
from pathlib import Path

from digitsum.errors import InputError
from digitsum.runs import newest_run, read_config


def run_folder(outputs_dir: str, resume: str | None) -> str:
    """The folder of a single run: the one to resume, `latest` included, or a new one of the present second.

    Made here and now, so that two runs started together get two.

    Raises:
        InputError: there is no run to resume, or the folder cannot be made.
    """
    runs = Path(outputs_dir, "runs")
    if resume is not None:
        folder = newest_run(Path(outputs_dir), finished=False) if resume == "latest" else Path(resume).absolute()
        read_config(folder)  # before Hydra's log makes a folder of whatever was named
        return str(folder)
    second = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(2):
        folder = runs / (second if number == 2 else f"{second}_{number - 1}")
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            if not runs.is_dir():
                raise InputError(f"cannot write {runs}: it is no folder; choose another outputs_dir") from None
        except OSError as error:
            raise InputError(f"cannot write {runs}: {error.strerror or error}; choose another outputs_dir") from error
    raise AssertionError


def job_folder(number: int, overrides: list[str]) -> str:
    """A sweep job's folder: its number and what differs, in letters, digits, `.`, `_` and `-` alone.

    A key that the command line gives a single value is the same for all jobs and left out.

    Example:
        >>> job_folder(3, ["model.lr=0.0003", "seed=1"])
        '03_lr-3e-4_seed-1'
    """
    words = [f"{number:02d}"]
    fixed = {word.partition("=")[0] for word in sys.argv[1:] if "=" in word and not _is_sweep(word)}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in fixed:
            key = key.lstrip("+~")
            words.append(re.sub(r"[^A-Za-z0-9._]+", "-", f"{key.rpartition('.')[2]}-{_short(value)}").strip("-"))
    return "_".join(words)[:120]  # a file system takes 255 bytes a name


def _is_sweep(word: str) -> bool:
    """Whether `key=value` gives several values: a comma or a function outside of brackets and quotes."""
    return re.search(r"[,(]", re.sub(r"\[.*?\]|\{.*?\}|'.*?'|\".*?\"", "", word)) is not None


def _short(value: str) -> str:
    """Small numbers as people write them: Hydra's sweeper turns 3e-4 into 0.0003."""
    if re.fullmatch(r"0\.00\d+", value):
        mantissa, exponent = f"{float(value):.12e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return value
