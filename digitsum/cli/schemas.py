"""What each part of a config may hold, as dataclasses: the scripts' own keys, and those of Lightning's classes.

The settings of digitsum's own classes stand beside these classes; together they are registered in `build.py`. A class's
settings have their defaults here and there, and conf/ holds what differs; a script's keys have their values in conf/.
"""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from omegaconf import MISSING

from digitsum.data.augmentation import Augmentation
from digitsum.models.module import OptimizerSettings
from digitsum.models.registry import NETWORKS


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


@dataclass(kw_only=True)
class TrainConfig:
    """What `scripts/train.py` is told; the values are those of `conf/train.yaml`."""

    data: Any
    model: Any
    augmentation: Augmentation = field(default_factory=Augmentation)
    trainer: Any
    callbacks: Any
    logger: Any
    seed: int
    test: bool
    monitor: str
    warm_start: str
    init_from: str | None
    resume: str | None
    save_every_n_steps: int | None
    save_every_n_minutes: float | None
    safetensors: bool
    compile: bool
    outputs_dir: str
    run_dir: str
    debug: bool


@dataclass
class Pruning:
    """When a trial may be pruned."""

    startup_trials: int
    warmup_epochs: int | None


@dataclass(kw_only=True)
class TuneConfig(TrainConfig):
    """What `scripts/tune.py` is told; the values are those of `conf/tune.yaml`."""

    search: Any
    study: str
    num_trials: int
    sampler_seed: int
    pruning: Pruning


@dataclass
class PredictConfig:
    """What `scripts/predict.py` is told; the values are those of `conf/predict.yaml`."""

    ckpt_path: str | None
    split: str
    input: str | None
    prepare: str
    num_digits: Any
    tta: int
    batch_size: int
    trainer: Any
    mnist_root: str | None
    data_root: str | None
    outputs_dir: str
    run_dir: str
    debug: bool


@dataclass
class ExportConfig:
    """What `scripts/export.py` is told; the values are those of `conf/export.yaml`."""

    out: str
    ckpt_path: str | None
    format: str
    outputs: str
    width: int | None
    num_digits: Any
    outputs_dir: str
    debug: bool


@dataclass
class PublishConfig:
    """What `scripts/publish.py` is told; the values are those of `conf/publish.yaml`."""

    ckpt_path: str
    name: str
    num_digits: Any
    width: int | None
    folder: str | None
    min_exact: dict[str, float]
    num_images: int
    pictures: str | None
    mnist_root: str | None
    outputs_dir: str
    debug: bool


@dataclass
class DemoConfig:
    """What `scripts/demo.py` is told; the values are those of `conf/demo.yaml`."""

    ckpt_path: str
    two_conv: str | None
    num_digits: Any
    port: int
    outputs_dir: str
    debug: bool


@dataclass
class MakeDataConfig:
    """What `scripts/make_data.py` is told; the values are those of `conf/make_data.yaml`."""

    data: Any
    out: str
    outputs_dir: str
    debug: bool


def model_schema(network: str) -> type:
    """The flat schema of a network's settings and the optimiser's, as the `model` group has it: types and defaults."""
    fields = [("network", str, field(default=network))]
    return make_dataclass(f"{network}_model", fields, bases=(OptimizerSettings, NETWORKS[network][1]))
