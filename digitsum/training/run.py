"""One training run, from the first epoch to everything that it leaves behind."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from digitsum.data.batches import Batch
from digitsum.data.datamodule import SumDataModule
from digitsum.evaluation.evaluate import Evaluation, gather_across_ranks, predict
from digitsum.figures import loss_figure, scatter_figure, write_figure
from digitsum.files import write_json
from digitsum.models.base import Prediction
from digitsum.models.checkpoints import read_checkpoint
from digitsum.models.module import SumModule
from digitsum.runs.locate import METRICS_FILE
from digitsum.training.callbacks import EpochTimer, MetricsHistory


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
    """Fit, evaluate the best checkpoint, and write figures, metrics and times into `run_dir`.

    Args:
        trainer: with a `ModelCheckpoint`, `MetricsHistory` and `EpochTimer` among its callbacks.
        module: what to train; holds the best checkpoint's weights afterwards.
        datamodule: already set up.
        run_dir: the run's folder.
        test: whether to evaluate the test set, once.
        hparams: plain values for TensorBoard's HPARAMS tab.
        ckpt_path: a checkpoint of this very run to go on from.

    Returns:
        The best value of the monitored validation metric (None where no checkpoint was written, as under
        `fast_dev_run`), and for each split the rows `model` (the best checkpoint), `last` (the last epoch) and
        `baseline`, each with `mse, rmse, mae, within_5, within_1, exact, count`. All are passes in evaluation mode.
        To be called in all processes of a run; it returns the same in each, and the first one alone writes.
    """
    begin = time.perf_counter()
    if trainer.logger is not None:
        trainer.logger.log_hyperparams(hparams)
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    fit_seconds = time.perf_counter() - begin
    for buffer in module.buffers():  # batch norm saw other images in each process; checkpoints hold the first one's
        buffer.copy_(trainer.strategy.broadcast(buffer))

    history, clock = (_callback(trainer, kind) for kind in (MetricsHistory, EpochTimer))
    checkpoint = _callback(trainer, ModelCheckpoint)
    splits = ["train", "val", "test"] if test else ["train", "val"]
    last = {split: _evaluate(trainer, module, datamodule, split) for split in splits}
    best = last
    if Path(checkpoint.best_model_path).is_file():
        saved = read_checkpoint(Path(checkpoint.best_model_path))
        if saved["global_step"] != trainer.global_step:
            module.load_state_dict(saved["state_dict"])
            best = {split: _evaluate(trainer, module, datamodule, split) for split in splits}
    results = {split: {**best[split].row(), "last": last[split].row()["model"]} for split in splits}
    score = None if checkpoint.best_model_score is None else float(checkpoint.best_model_score)

    if not trainer.is_global_zero:
        return score, results
    rows = [row for row in history.rows if "val/mse" in row]
    if rows:
        column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        baseline_mse = results["val"]["baseline"]["mse"]
        write_figure(
            run_dir / "loss.png",
            loss_figure(column["epoch"], column["train/mse"], column["val/mse"], baseline_mse),
        )
    target, preds = best["val"].points.T
    title = "Validation set, best checkpoint"
    write_figure(run_dir / "scatter.png", scatter_figure(target, preds, title, total=best["val"].count))
    write_json(
        run_dir / "timing.json",
        {
            "fit_seconds": round(fit_seconds, 3),
            "total_seconds": round(time.perf_counter() - begin, 3),
            "num_parameters": count_parameters(module),
            "epochs": clock.epochs,
        },
    )
    _log_summary(trainer, hparams, score, results)
    write_json(run_dir / METRICS_FILE, results)  # last: it marks the run as finished
    for child in getattr(trainer.strategy.launcher, "procs", ()):
        child.wait()  # no process that Lightning started outlives this one
    return score, results


def _evaluate(trainer: L.Trainer, module: SumModule, datamodule: SumDataModule, split: str) -> Evaluation:
    """A pass over a split in evaluation mode; each process answers its part, and all get the figures of the whole."""
    evaluation = Evaluation(module.train_mean)

    def update(batch: Batch, prediction: Prediction) -> None:
        sums, preds = gather_across_ranks(batch["sums"], prediction.estimate.float())
        evaluation.update({**batch, "sums": sums}, Prediction(preds))

    predict(trainer, module, datamodule.batches(split), update)
    return evaluation


def _log_summary(
    trainer: L.Trainer, hparams: dict[str, Any], score: float | None, results: dict[str, dict[str, dict[str, float]]]
) -> None:
    """Log the test metrics under the names that training uses, and fill TensorBoard's HPARAMS tab."""
    if trainer.logger is None:
        return
    if "test" in results:
        scalars = {f"test/{name}": value for name, value in results["test"]["model"].items() if name != "count"}
        trainer.logger.log_metrics(scalars, step=trainer.global_step)
    if isinstance(trainer.logger, TensorBoardLogger) and score is not None:
        trainer.logger.log_hyperparams(hparams, {"best/val_mae": score})
    trainer.logger.save()


def _callback(trainer: L.Trainer, kind: type) -> Any:
    found = [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
    assert found, f"the trainer needs a {kind.__name__}"
    return found[0]


def count_parameters(module: torch.nn.Module) -> int:
    """How many numbers `module` learns."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
