"""What a config may hold of Lightning's own classes, and of ours made of them: Trainer, callbacks, loggers."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class TrainerSettings:
    """Lightning's Trainer: every argument that a plain value can give; see its documentation."""

    _target_: str = "lightning.pytorch.Trainer"
    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    num_nodes: int = 1
    precision: Any = None
    fast_dev_run: Any = False
    max_epochs: Any = 10  # an int, None, or auto (digitsum/cli/auto_settings.py)
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | None = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: Any = 1  # the same
    num_sanity_val_steps: int | None = 0
    log_every_n_steps: int | None = 50
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = False
    enable_autolog_hparams: bool = False
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = False
    profiler: str | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0


@dataclass
class CheckpointSettings:
    """`digitsum.training.callbacks.BestCheckpoint`, a ModelCheckpoint of Lightning's."""

    _target_: str = "digitsum.training.callbacks.BestCheckpoint"
    dirpath: str = MISSING
    filename: str | None = None
    monitor: str = MISSING
    mode: str | None = None
    save_top_k: int = 1
    save_last: Any = None
    every_n_epochs: int | None = None
    every_n_train_steps: int | None = None
    save_on_train_epoch_end: bool | None = True
    auto_insert_metric_name: bool = False
    enable_version_counter: bool = False
    verbose: bool = False


@dataclass
class EarlyStoppingSettings:
    """Lightning's EarlyStopping."""

    _target_: str = "lightning.pytorch.callbacks.EarlyStopping"
    monitor: str = MISSING
    mode: str | None = None
    patience: int = 3
    min_delta: float = 0.0
    check_finite: bool = True
    verbose: bool = False


@dataclass
class PredictionLoggerSettings:
    """`digitsum.training.callbacks.PredictionLogger`."""

    _target_: str = "digitsum.training.callbacks.PredictionLogger"
    every_n_epochs: int = 1
    num_images: int = 12


@dataclass
class TensorBoardSettings:
    """Lightning's TensorBoardLogger."""

    _target_: str = "lightning.pytorch.loggers.TensorBoardLogger"
    save_dir: str = MISSING
    name: str = ""
    version: str = ""
    default_hp_metric: bool = False


@dataclass
class CSVSettings:
    """Lightning's CSVLogger."""

    _target_: str = "lightning.pytorch.loggers.CSVLogger"
    save_dir: str = MISSING
    name: str = ""
    version: str = ""
    flush_logs_every_n_steps: int = 100


@dataclass
class WandbSettings:
    """`digitsum.training.loggers.WandbRun`, a WandbLogger of Lightning's."""

    _target_: str = "digitsum.training.loggers.WandbRun"
    save_dir: str = MISSING
    project: str = "digitsum"
    offline: bool = True


@dataclass
class MLflowSettings:
    """`digitsum.training.loggers.MLflowRun`, a MLFlowLogger of Lightning's."""

    _target_: str = "digitsum.training.loggers.MLflowRun"
    save_dir: str = MISSING
    tracking_uri: str = MISSING
    experiment_name: str = "digitsum"


CALLBACKS_AND_LOGGERS: dict[str, Any] = {
    "callbacks/schema/checkpoint": CheckpointSettings,
    "callbacks/schema/early_stopping": EarlyStoppingSettings,
    "callbacks/schema/prediction_logger": PredictionLoggerSettings,
    "logger/schema/tensorboard": TensorBoardSettings,
    "logger/schema/csv": CSVSettings,
    "logger/schema/wandb": WandbSettings,
    "logger/schema/mlflow": MLflowSettings,
}
"""Their schemas by the names that conf/ has for them."""
