"""A search for good settings: a study to which any number of processes add trials, and what stops hopeless ones."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from filelock import FileLock, Timeout

from digitsum.errors import InputError
from digitsum.files import locked
from digitsum.tuning.report import best_of, better_of, state_of

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    HAS_OPTUNA = True
except ImportError:  # the extra `tune`: nothing else needs it
    HAS_OPTUNA = False

JOURNAL = "journal.log"


def require_optuna() -> None:
    """Raise an `InputError` where Optuna is not installed."""
    if not HAS_OPTUNA:
        raise InputError("a search needs Optuna; install it with: pip install -e '.[tune]' -c constraints.txt")


class Pruned(Exception):  # noqa: N818 - no error: what it ends went as it should
    """A trial was stopped after an `epoch` because it was hopeless, with its `best` value until then."""

    def __init__(self, epoch: int, best: float) -> None:
        super().__init__(f"pruned at epoch {epoch}")
        self.epoch = epoch
        self.best = best


class Report(L.Callback):
    """Tells a study what a `trial` has as `monitor` after each epoch, and stops it where that is hopeless."""

    def __init__(self, trial: "optuna.Trial", monitor: str) -> None:
        self.trial = trial
        self.monitor = monitor
        self._better = better_of(trial.study)
        self._values: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Report; a hopeless trial raises `Pruned`, unless it has trained its last epoch and is complete."""
        if self.monitor not in pl_module.epoch_metrics:  # validation may come every few epochs
            return
        epoch, value = trainer.current_epoch + 1, pl_module.epoch_metrics[self.monitor]
        self._values.append(value)
        self.trial.report(value, step=epoch)
        if epoch != trainer.max_epochs and self.trial.should_prune():
            raise Pruned(epoch, self._better(self._values))


# Optuna's own way for several processes that may be killed (RDBStorage on sqlite with a heartbeat,
# RetryHeartbeatStaleTrialCallback, MaxTrialsCallback), measured with version 5.0: two processes finished 7 trials of 6
# wanted, each time; a trial killed last and given again at once stayed running, and was not repeated; a finished study
# given again trained one more; of two processes that made the study together one failed; and it starts seconds later.


class Search:
    """A study in a folder. Any number of processes add trials to it, and each may be killed at any moment.

    `folder`, whose name is the study's, holds Optuna's journal, and below `trials/` a folder for each trial, which the
    process that trains it keeps locked: a trial that runs in a folder that is not locked has lost its process.

    Args:
        folder: made where there is none.
        space: of `digitsum.tuning.space.build_space`.
        settings: everything else that must be the same for all trials, by name; plain values.
        direction: `minimize` or `maximize` what trials report.
        seed: of the proposals, 0 or more. A trial's depend on it, on its number and on the trials before: processes
            never draw alike, and a single one draws the same again.
        startup_trials: how many trials are complete before the first is pruned, 0 or more.
        warmup_epochs: how many epochs each trial gets, 1 or more: who leaves the first plateau first is chance.

    Raises:
        InputError: a number out of range, or a study that was begun otherwise, is damaged, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        space: "dict[str, optuna.distributions.BaseDistribution]",
        settings: dict[str, Any],
        *,
        direction: Literal["minimize", "maximize"] = "minimize",
        seed: int = 0,
        startup_trials: int = 5,
        warmup_epochs: int = 1,
    ) -> None:
        if seed < 0 or startup_trials < 0 or warmup_epochs < 1:
            raise InputError(
                "expected sampler_seed and pruning.startup_trials of 0 or more and pruning.warmup_epochs of 1 or more, "
                f"got {seed}, {startup_trials} and {warmup_epochs}"
            )
        self.folder = folder
        self.space = space
        self.seed = seed
        settings = {**settings, **{f"search.{key}": str(distribution) for key, distribution in space.items()}}
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # of each trial the command prints a line itself
        self._lock = FileLock(folder / ".lock", timeout=60)  # ends with the process, however that ends
        with self._turn():
            try:
                _drop_half_line(folder / JOURNAL)
                # a lock like Optuna's own, but one that a killed process gives back; taken again within a turn
                journal = JournalFileBackend(str(folder / JOURNAL), self._lock)  # type: ignore[arg-type]
                self.study = optuna.create_study(
                    storage=optuna.storages.JournalStorage(journal),
                    study_name=folder.name,
                    direction=direction,
                    pruner=optuna.pruners.MedianPruner(startup_trials, warmup_epochs),
                    load_if_exists=True,
                )
                if "settings" not in self.study.user_attrs:
                    self.study.set_user_attr("settings", settings)
                begun = self.study.user_attrs["settings"]
            except OSError:
                raise
            except Exception as error:  # a damaged journal raises whatever Optuna stumbled over
                damaged = "expected a study's journal, but it is damaged; choose another study=NAME"
                raise InputError(f"{folder / JOURNAL}: {damaged}") from error
        for key in sorted(begun.keys() | settings.keys()):
            was, now = begun.get(key, "nothing"), settings.get(key, "nothing")
            if was != now:
                advice = "give the same settings again, or choose another study=NAME"
                raise InputError(f"{folder}: this study was begun with {key}={was}, got {now}; {advice}")

    @contextmanager
    def next_trial(self, num_trials: int) -> "Iterator[optuna.Trial | None]":
        """Begin a trial, with its settings in `params` and its folder locked inside the block.

        Yields None where `num_trials` of the study are finished, complete or pruned, or under way in some process.
        """
        with ExitStack() as stack:
            trial = None
            with self._turn():
                self._repeat_abandoned()
                if self.count("complete", "pruned", "running") < num_trials:
                    number = len(self.study.get_trials(deepcopy=False))
                    (seed,) = np.random.SeedSequence([self.seed, number]).generate_state(1)
                    self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
                    trial = self.study.ask(self.space)
                    stack.enter_context(locked(self.folder_of(trial.number)))
            yield trial

    def folder_of(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def count(self, *states: str) -> int:
        """How many trials are in one of the states of `digitsum.tuning.report.state_of`."""
        return sum(state_of(trial) in states for trial in self.study.get_trials(deepcopy=False))

    def tell(self, trial: "optuna.Trial", value: float | None = None, reason: str | None = None) -> None:
        """Finish a trial: complete with a value, failed for a reason, or pruned where there is neither.

        Only the best keeps its checkpoints: they fill the disk, and any trial can be run again.
        """
        if reason is not None:
            trial.set_user_attr("reason", reason)
        without = TrialState.PRUNED if reason is None else TrialState.FAIL
        self.study.tell(trial, value, state=without if value is None else TrialState.COMPLETE)
        best = best_of(self.study)
        for other in self.study.get_trials(deepcopy=False):
            if other.state.is_finished() and (best is None or other.number != best.number):
                shutil.rmtree(self.folder_of(other.number) / "checkpoints", ignore_errors=True)

    def repeat(self, number: int) -> None:
        """Count a trial that was interrupted, and not finished, as failed for no reason of its own, and repeat it."""
        trials = self.study.get_trials(deepcopy=False)
        if trials[number].state.is_finished():
            return
        # who is killed while it draws its settings has some of them, and all of those that it repeats
        params = {**trials[number].system_attrs.get("fixed_params", {}), **trials[number].params}
        # the repetition first: who is killed between the two leaves a trial that still runs, and is looked at again
        if params and all(trial.user_attrs.get("repeats") != number for trial in trials):
            self.study.enqueue_trial(params, user_attrs={"repeats": number})
        self.study.tell(number, state=TrialState.FAIL)

    def _repeat_abandoned(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with suppress(InputError), locked(self.folder_of(trial.number)):  # unless its process is alive
                self.repeat(trial.number)  # who has finished it by now has said so before giving the lock back

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other process is between two trials, which takes each a moment, nor writes the journal."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                yield
        except Timeout as error:
            raise InputError(f"{self.folder}: another process has held this study for a minute; stop it") from error
        except OSError as error:
            raise InputError(f"cannot write {self.folder}: {error.strerror or error}; choose another folder") from error


def _drop_half_line(path: Path) -> None:
    """Cut off what a killed process left of a journal's last line: the next one would be written behind it."""
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
