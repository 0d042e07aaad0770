"""One training run, from the first epoch to everything that it leaves behind."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from digitsum.data.datamodule import SumDataModule
from digitsum.evaluation.evaluate import Evaluation, predict
from digitsum.figures import loss_figure, scatter_figure, tolerate_failure, write_figure
from digitsum.files import write_json
from digitsum.models.checkpoints import read_checkpoint
from digitsum.models.module import SumModule
from digitsum.runs.locate import METRICS_FILE
from digitsum.training.callbacks import EpochTimer, MetricsHistory
from digitsum.training.resume import end_processes, keep_logged_rows

SUMMARY_SUFFIX = ".summary"
"""How the name of the TensorBoard file ends that holds what is logged at the end; a resumed run writes it anew."""


def train(
    trainer: L.Trainer,
    module: SumModule,
    datamodule: SumDataModule,
    run_dir: Path,
    *,
    test: bool,
    hparams: dict[str, Any],
    ckpt_path: Path | None = None,
) -> tuple[float | None, dict[str, Any]]:
    """Fit, evaluate the best checkpoint, and write figures, metrics and times into `run_dir`; called in all processes.

    Args:
        trainer: with a `ModelCheckpoint`, `MetricsHistory` and `EpochTimer` among its callbacks.
        module: what to train; holds the best checkpoint's weights afterwards.
        datamodule: already set up.
        run_dir: the run's folder, into which the first process alone writes.
        test: whether to evaluate the test set, once.
        hparams: plain values for TensorBoard's HPARAMS tab.
        ckpt_path: a checkpoint of this very run to go on from.

    Returns:
        The best value of the monitored validation metric (None where no checkpoint was written, as under
        `fast_dev_run`), and for each split the rows `model` (the best checkpoint), `last` (the last epoch) and
        `baseline`, each with `mse, rmse, mae, within_5, within_1, exact, count`, all in evaluation mode.
    """
    begin, checkpoint = time.perf_counter(), _callback(trainer, ModelCheckpoint)
    if isinstance(trainer.logger, CSVLogger) and ckpt_path is not None and trainer.is_global_zero:
        keep_logged_rows(trainer.logger, int(read_checkpoint(ckpt_path)["global_step"]))
    if trainer.logger is not None:
        trainer.logger.log_hyperparams(hparams)
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    fit_seconds = time.perf_counter() - begin
    for buffer in module.buffers():  # batch norm saw other images in each process; checkpoints hold the first one's
        buffer.copy_(trainer.strategy.broadcast(buffer))

    splits = ["train", "val", "test"] if test else ["train", "val"]
    try:
        best = last = {split: _evaluate(trainer, module, datamodule, split, "last epoch") for split in splits}
        if Path(checkpoint.best_model_path).is_file():
            saved = read_checkpoint(Path(checkpoint.best_model_path))
            if saved["global_step"] != trainer.global_step:
                module.load_state_dict(saved["state_dict"])
                best = {split: _evaluate(trainer, module, datamodule, split, "best checkpoint") for split in splits}
    except BaseException:
        end_processes(trainer)
        raise
    results = {split: {**best[split].row(), "last": last[split].row()["model"]} for split in splits}
    score = None if checkpoint.best_model_score is None else float(checkpoint.best_model_score)

    if not trainer.is_global_zero:
        return score, results
    rows = [row for row in _callback(trainer, MetricsHistory).rows if "val/mse" in row]
    if rows:
        epochs, train_mse, val_mse = (np.array([row[key] for row in rows]) for key in ("epoch", "train/mse", "val/mse"))
        with tolerate_failure("loss.png"):
            baseline = results["val"]["baseline"]["mse"]
            write_figure(run_dir / "loss.png", loss_figure(epochs, train_mse, val_mse, baseline))
    with tolerate_failure("scatter.png"):
        target, preds = best["val"].points.T
        figure = scatter_figure(target, preds, "Validation set, best checkpoint", total=best["val"].count)
        write_figure(run_dir / "scatter.png", figure)
    timing = {
        "fit_seconds": round(fit_seconds, 3),
        "total_seconds": round(time.perf_counter() - begin, 3),
        "num_parameters": count_parameters(module),
        "epochs": _callback(trainer, EpochTimer).epochs,
    }
    write_json(run_dir / "timing.json", timing)
    _log_summary(trainer, hparams, checkpoint.monitor, score, results)
    write_json(run_dir / METRICS_FILE, results)  # last: it marks the run as finished
    for child in getattr(trainer.strategy.launcher, "procs", ()):
        child.wait()  # no process that Lightning started outlives this one
    return score, results


def _evaluate(trainer: L.Trainer, module: SumModule, datamodule: SumDataModule, split: str, weights: str) -> Evaluation:
    evaluation = Evaluation(module.train_mean)
    predict(trainer, module, datamodule.batches(split), evaluation.update, title=f"predicting {split}, {weights}")
    return evaluation


def _log_summary(
    trainer: L.Trainer, hparams: dict[str, Any], monitor: str, score: float | None, results: dict[str, Any]
) -> None:
    """Log the test metrics under the names that training uses, and fill TensorBoard's HPARAMS tab."""
    logger = trainer.logger
    if isinstance(logger, TensorBoardLogger):
        logger = TensorBoardLogger(logger.log_dir, "", "", default_hp_metric=False, filename_suffix=SUMMARY_SUFFIX)
        if score is not None:
            logger.log_hyperparams(hparams, {f"best/{monitor.replace('/', '_')}": score})
    if logger is not None:
        if "test" in results:
            scalars = {f"test/{name}": value for name, value in results["test"]["model"].items() if name != "count"}
            logger.log_metrics(scalars, step=trainer.global_step)
        logger.finalize("success")


def _callback(trainer: L.Trainer, kind: type) -> Any:
    found = [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
    assert found, f"the trainer needs a {kind.__name__}"
    return found[0]


def count_parameters(module: torch.nn.Module) -> int:
    """How many numbers `module` learns."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
