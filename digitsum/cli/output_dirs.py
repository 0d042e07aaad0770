"""Where a run, a sweep's job or a study writes, and which of a run's processes does.

Names are such that nothing else has them and Hydra's command line can parse them back.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from digitsum.errors import InputError
from digitsum.runs.locate import newest_run, read_config


def writable(folder: str | Path, advice: str = "choose another folder with outputs_dir=FOLDER") -> str:
    """A folder to write in, made where there is none, and tried; an `InputError` with `advice` where it cannot be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; {advice}") from error


def run_folder(outputs_dir: str, resume: str | None, overrides: Sequence[str] = ()) -> str:
    """The folder of a single run: the one to resume, `latest` included, or a new one of the present second.

    Made here and now, so that two runs started together get two; all processes of one run get the same. Where
    `overrides`, the command's words, have a `run_dir`, it is that.

    Raises:
        InputError: no run to resume, no place to write, or processes that neither torchrun nor Lightning started.
    """
    if not is_rank_zero() and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise InputError("hydra.run.dir: expected a folder, the same for all processes of this run; or use torchrun")
    return from_rank_zero("run_folder", lambda: _run_folder(outputs_dir, resume, overrides))


def is_rank_zero() -> bool:
    """Whether this is the process that writes and speaks: the only one, or the first of those that train together."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def from_rank_zero(name: str, make: Callable[[], Any]) -> str:
    """What `make` returns in the first process, as text; the others of torchrun wait for it, by `name`, or fail."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # a single one, or Lightning starts others after this
        return str(make())
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    result = ""
    if is_rank_zero():
        try:
            result = str(make())
        finally:
            store.set(name, result)
    elif not (result := store.get(name).decode()):
        raise InputError("the first process has failed")
    return result


def _run_folder(outputs_dir: str, resume: str | None, overrides: Sequence[str]) -> str:
    if resume is not None:
        folder = newest_run(Path(outputs_dir), finished=False) if resume == "latest" else Path(resume).absolute()
        read_config(folder)  # before Hydra's log makes a folder of whatever was named
        return writable(folder, "copy the run elsewhere and give resume=COPY")
    from hydra.core.override_parser.overrides_parser import OverridesParser  # compare.py does without Hydra

    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "run_dir" and "${" not in str(override.value()):
            return writable(str(override.value()), "choose another folder with run_dir=FOLDER")
    second = Path(writable(f"{outputs_dir}/runs"), datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    for suffix in chain([""], (f"_{number}" for number in count(2))):
        folder = second.with_name(second.name + suffix)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return str(folder)
    raise AssertionError


def study_folder(outputs_dir: str, study: str) -> str:
    """The folder of a study, whose name must be one that Hydra's command line can parse back."""
    if not re.fullmatch(r"\w[\w.-]*", study, re.ASCII):
        raise InputError(f"study: expected a name of letters, digits, '.', '_' and '-', got {study!r}")
    return str(Path(outputs_dir, "studies", study))


def job_folder(number: int, overrides: list[str]) -> str:
    """A sweep job's folder: its number and what differs, in nothing but letters, digits, `.`, `_` and `-`.

    Example:
        >>> job_folder(3, ["model.lr=0.0003", "seed=1"])
        '03_lr-3e-4_seed-1'
    """
    words = [f"{number:02d}"]
    for override in swept(overrides):
        key, _, value = override.partition("=")
        key, value = key.lstrip("+~"), value.replace("e+", "e")
        words.append(re.sub(r"[^A-Za-z0-9._]+", "-", f"{key.rpartition('.')[2]}-{_short(value)}").strip("-"))
    return "_".join(words)[:120]  # a file system takes 255 bytes a name


def swept(overrides: list[str]) -> list[str]:
    """Those of a job's overrides that differ between the jobs of a sweep: the command line gives no single value."""
    fixed = {word.partition("=")[0] for word in sys.argv[1:] if "=" in word and not _is_sweep(word)}
    return [override for override in overrides if override.partition("=")[0] not in fixed]


def _is_sweep(word: str) -> bool:
    """Whether `key=value` gives several values: a comma or a function outside of brackets and quotes."""
    return re.search(r"[,(]", re.sub(r"\[.*?\]|\{.*?\}|'.*?'|\".*?\"", "", word)) is not None


def _short(value: str) -> str:
    """Small numbers as people write them: Hydra's sweeper turns 3e-4 into 0.0003."""
    if re.fullmatch(r"0\.00\d+", value):
        mantissa, exponent = f"{float(value):.12e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return value
