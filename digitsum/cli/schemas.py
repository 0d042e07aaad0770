"""What each script's config may hold, as dataclasses; what Lightning's classes take is in `lightning_schemas.py`.

The settings of digitsum's own classes stand beside these classes; together they are registered in `build.py`. A class's
settings have their defaults here and there, and conf/ holds what differs; a script's keys have their values in conf/.
"""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from digitsum.data.augmentation import Augmentation
from digitsum.models.module import OptimizerSettings
from digitsum.models.registry import NETWORKS


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
    recompose: float
    hard_glyphs: float
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

    ckpt_path: Any
    split: str
    input: str | None
    prepare: str
    num_digits: Any
    tta: int
    batch_size: int | None
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
