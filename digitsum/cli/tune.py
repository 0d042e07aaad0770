"""A search as a config describes it: its trials trained one after another, and what came of them."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from digitsum.cli import train
from digitsum.cli.auto_settings import settle_auto
from digitsum.cli.build import build_parts, build_training
from digitsum.cli.console import log
from digitsum.cli.overrides import command_line, override_key, to_overrides
from digitsum.cli.schemas import TrainConfig, TuneConfig
from digitsum.cli.user_errors import one_line
from digitsum.errors import InputError, did_you_mean
from digitsum.training.signals import Signals
from digitsum.tuning.report import REPORT_FILES, best_of, rounded, write_report
from digitsum.tuning.search import Pruned, Report, Search

OWN = {*TuneConfig.__dataclass_fields__} - {*TrainConfig.__dataclass_fields__}
"""Keys of a search; all others are its trainings'."""
PLACES = ("debug", "_dir", "mnist_root", "download", "dirpath")
"""How keys end that no result depends on."""


def check(base: DictConfig, wanted: dict[str, Any], settings: dict[str, Any], fixed: list[str]) -> None:
    """Find what is wrong with the trainings before the first one starts, and compose their data.

    `base` is their config without what is searched, `settings` all of it by keys, and `fixed` the command's words for
    it; `wanted` are the keys to search, with their ranges: refused if unknown, fixed, or out of what they may be.
    """
    given = [override_key(word) for word in fixed]
    for key in ("resume", "run_dir"):
        if key in given:
            raise InputError(f"{key}: a study goes on by itself, in a folder of its own; leave it out")
    for key, options in wanted.items():
        if key not in settings or key.endswith((*PLACES, "resume", "monitor")):
            hint = did_you_mean(key, settings)
            raise InputError(f"search.{key}: expected a key of a training of {base.model.network}, found none{hint}")
        if key in given:
            raise InputError(f"{key}: expected it searched or given, got both; leave it out, or add '~search.{key}'")
        for value in options.get("choices", [options.get("low"), options.get("high")]):
            trial = base.copy()
            OmegaConf.update(trial, key, value)
            build_parts(trial)
    settled = base.copy()
    settle_auto(settled)
    build_training(settled, Signals(), in_sweep=True)
    if not base.monitor.startswith("val/"):
        raise InputError(f"monitor: expected a metric of the validation set, got {base.monitor}")
    build_parts(base)[1].prepare_data()


def run_trials(search: Search, num_trials: int, fixed: list[str], signals: Signals) -> None:
    """Run trial after trial until `num_trials` of the study are finished or under way.

    Raises:
        InputError: as many have failed.
        Interrupted: a signal came; the trial that it met will be repeated.
    """
    begin, before, failed = time.time(), search.count("complete", "pruned"), 0
    log.info("study %s: %d of %d trials are finished", search.folder, before, num_trials)
    while True:
        with search.next_trial(num_trials) as trial:
            if trial is None:
                return
            start, words = time.monotonic(), to_overrides(trial.params)
            outcome = run_trial(search, trial, [*fixed, *words], signals)
        done = search.count("complete", "pruned")
        left, end = max(num_trials - done, 0), ""
        if left and done > before:  # at the rate of all processes since this one began
            seconds = (time.time() - begin) / (done - before) * left
            end = f", until about {datetime.now() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"
        seconds = time.monotonic() - start
        log.info("trial %d: %s; %s; %.0f s; %d left%s", trial.number, outcome, " ".join(words), seconds, left, end)
        failed += outcome.startswith("failed")
        if failed >= num_trials > done:
            raise InputError(f"{failed} trials have failed; trial {trial.number}: {outcome}")


def run_trial(search: Search, trial: Any, words: list[str], signals: Signals) -> str:
    """Train as the overrides `words` say and tell the study; returns the outcome as text."""
    folder = search.folder_of(trial.number)
    cfg = hydra.compose("train", words)
    cfg.run_dir = str(folder)
    hparams = {**rounded(trial.params), "seed": cfg.seed}
    try:
        with logged_to(folder / "train.log"):
            report = Report(trial, cfg.monitor)
            score = train.run(cfg, signals, in_sweep=True, hparams=hparams, callbacks=[report])
            if score is None or not math.isfinite(score):
                raise InputError(f"expected a number as {cfg.monitor}, got {score}")
        search.tell(trial, score)
    except Pruned as stop:
        search.tell(trial)
        return f"pruned at epoch {stop.epoch}, {cfg.monitor} {stop.best:.4f}"
    except Exception as error:  # whatever it was, the search goes on
        reason = one_line(error) or type(error).__name__
        search.tell(trial, reason=reason)
        if cfg.debug:
            raise
        return f"failed, {reason}"
    except BaseException:
        search.repeat(trial.number)
        raise
    return f"{cfg.monitor} {score:.4f}"


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send messages and warnings inside the block, and the exception that ends it, to a file instead of the console."""
    root = logging.getLogger()
    file = logging.FileHandler(path, delay=True, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    before, root.handlers[:] = root.handlers[:], [file]
    logging.captureWarnings(True)
    try:
        yield
    except Exception as error:
        log.info("%s", one_line(error), exc_info=not isinstance(error, InputError | Pruned))
        raise
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        file.close()


def conclude(search: Search, fixed: list[str], monitor: str) -> None:
    """Say what the study has found, and write its tables and figures."""
    counts = {state: search.count(state) for state in ("complete", "pruned", "failed", "interrupted", "running")}
    log.info("\ntrials: %s", ", ".join(f"{count} {state}" for state, count in counts.items()))
    best, command = best_of(search.study), None
    if best is not None:
        command = command_line("scripts/train.py", *fixed, **best.params)
        log.info("best: trial %d, %s %.4f; the same again:\n  %s", best.number, monitor, best.value, command)
    write_report(search.study, search.folder, monitor, command)
    written = [name for name in REPORT_FILES if (search.folder / name).is_file()]
    log.info("written to %s: %s", search.folder, ", ".join(written))
