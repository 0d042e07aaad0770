"""Weights & Biases and MLflow, as Lightning has them: on this machine unless told otherwise, and resumed with a run."""

import hashlib
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from digitsum.errors import InputError

_TAG = "digitsum.run"


def run_mark(run_dir: str) -> str:
    """What stands for a run in other programs' stores: the same for its folder, whenever it goes on there.

    Example:
        >>> run_mark("outputs/a") == run_mark("outputs/a/") != run_mark("outputs/b")
        True
    """
    return hashlib.sha256(str(Path(run_dir).absolute()).encode(errors="surrogateescape")).hexdigest()[:16]


class WandbRun(WandbLogger):
    """Lightning's, into `save_dir`, the run's folder; nothing is sent anywhere while `offline`."""

    def __init__(self, save_dir: str, project: str = "digitsum", offline: bool = True) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # not even its own errors
        try:
            super().__init__(
                Path(save_dir).name, save_dir, run_mark(save_dir), offline, project=project, log_model=False
            )
        except ModuleNotFoundError as error:
            raise _missing("wandb") from error

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of Weights & Biases; that of an earlier job of this process has ended."""
        import wandb

        if self._experiment is None:
            wandb.finish()
            self._wandb_init.pop("anonymous", None)  # Lightning's default, of which wandb warns
        return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]


class MLflowRun(MLFlowLogger):
    """Lightning's, with the run that `save_dir`, the run's folder, had before, if any.

    Raises:
        InputError: MLflow is missing, or cannot use the store that `tracking_uri` names.
    """

    def __init__(self, save_dir: str, tracking_uri: str, experiment_name: str = "digitsum") -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported
        self._mark = run_mark(save_dir)
        try:
            super().__init__(experiment_name, Path(save_dir).name, tracking_uri, {_TAG: self._mark})
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                self._mlflow_client.get_experiment_by_name(experiment_name)  # makes the store
        except ModuleNotFoundError as error:
            raise _missing("mlflow") from error
        except Exception as error:  # the store's own, of whatever kind it is
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"logger.tracking_uri: MLflow cannot use {tracking_uri} ({reason})") from error

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; the first time it looks for the run that goes on."""
        if self._run_id is None and (known := self._mlflow_client.get_experiment_by_name(self._experiment_name)):
            found = self._mlflow_client.search_runs([known.experiment_id], f"tags.`{_TAG}` = '{self._mark}'")
            self._run_id = found[0].info.run_id if found else None
        return MLFlowLogger.experiment.fget(self)  # type: ignore[attr-defined]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Note the settings that are not yet there: MLflow changes none."""
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({key: value for key, value in params.items() if key not in known})


def _missing(name: str) -> InputError:
    return InputError(f"logger={name} needs {name}; install it with: pip install -e '.[{name}]' -c constraints.txt")
