"""From configs to objects: registers the schemas with Hydra and builds what a script needs from a checked config."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from omegaconf import DictConfig, ListConfig, OmegaConf

from digitsum.cli import lightning_schemas, schemas
from digitsum.cli.checks import check_trainer, settle_monitor
from digitsum.cli.console import ComposingBar, log
from digitsum.cli.output_dirs import job_folder, run_folder, study_folder, swept, writable
from digitsum.cli.overrides import override_key
from digitsum.cli.project import PROJECT
from digitsum.data.datamodule import ArraysData, ComposedData, SumDataModule
from digitsum.errors import InputError
from digitsum.models.checkpoints import WholeCheckpointIO
from digitsum.models.module import OptimizerSettings
from digitsum.models.published import find_model
from digitsum.models.registry import NETWORKS, network_settings
from digitsum.runs.locate import BEST_CHECKPOINT, LAST_CHECKPOINT, newest_run
from digitsum.training.callbacks import EpochTimer, LearningRateLogger, MetricsHistory
from digitsum.training.precision import native_precision
from digitsum.training.resume import Resumable
from digitsum.training.signals import Signals


def register() -> None:
    """Make the schemas known to Hydra, and the resolvers that the configs use to OmegaConf."""
    store = ConfigStore.instance().store
    store(name="train_schema", node=schemas.TrainConfig)
    store(name="tune_schema", node=schemas.TuneConfig)
    store(name="predict_schema", node=schemas.PredictConfig)
    store(name="export_schema", node=schemas.ExportConfig)
    store(name="publish_schema", node=schemas.PublishConfig)
    store(name="demo_schema", node=schemas.DemoConfig)
    store(name="make_data_schema", node=schemas.MakeDataConfig)
    store(group="data/schema", name="arrays", node=ArraysData)
    store(group="data/schema", name="composed", node=ComposedData)
    for name in NETWORKS:
        store(group="model/schema", name=name, node=schemas.model_schema(name))
    store(group="trainer/schema", name="trainer", node=lightning_schemas.TrainerSettings)
    for place, schema in lightning_schemas.CALLBACKS_AND_LOGGERS.items():
        group, _, name = place.rpartition("/")
        store(group=group, name=name, node=schema)
    OmegaConf.register_new_resolver("project_root", lambda: PROJECT, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
    OmegaConf.register_new_resolver("writable", writable, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


def checkpoint_of(cfg: DictConfig) -> Path:
    """The checkpoint that a command's `ckpt_path` names, a file or a published model; without one the newest run's."""
    if cfg.ckpt_path is not None:
        return find_model(str(cfg.ckpt_path))
    path = newest_run(Path(cfg.outputs_dir), finished=True) / BEST_CHECKPOINT
    log.info("the newest finished run: %s", path)
    return path


def checkpoints_of(cfg: DictConfig) -> list[Path]:
    """The checkpoints that answer together: the one of `checkpoint_of`, or each of a list that `ckpt_path` is."""
    if not isinstance(cfg.ckpt_path, ListConfig | DictConfig):
        return [checkpoint_of(cfg)]
    names = [name for name in cfg.ckpt_path if isinstance(cfg.ckpt_path, ListConfig) and isinstance(name, str)]
    paths = dict.fromkeys(map(find_model, names))
    if not paths or len(paths) < len(cfg.ckpt_path):
        raise InputError(f"ckpt_path: expected a file, or a list of different ones, got {cfg.ckpt_path}")
    return list(paths)


def settings_of(node: DictConfig) -> Any:
    """A config node as the dataclass that its schema names, whose error is that of a wrong value."""
    return OmegaConf.to_object(node)


def composing_bar(data: ArraysData | ComposedData) -> ComposingBar | None:
    """A progress bar for composing `data`, if it is composed."""
    return ComposingBar(data.num_train + data.num_val + data.num_test) if isinstance(data, ComposedData) else None


def build_datamodule(cfg: DictConfig) -> SumDataModule:
    """The data module of a config, with a progress bar for composing; raises as `settings_of` does."""
    data, augmentation = settings_of(cfg.data), settings_of(cfg.augmentation)
    return SumDataModule(data, shuffle_seed=cfg.seed, augmentation=augmentation, progress=composing_bar(data))


def model_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `SumModule` that a config holds: `network`, its `settings` and the `optimizer`'s, checked."""
    values: Any = OmegaConf.to_container(cfg.model, resolve=True, throw_on_missing=True)
    network = values.pop("network")
    optimizer = OptimizerSettings(**{key: values.pop(key) for key in OptimizerSettings.__dataclass_fields__})
    return {"network": network, "settings": network_settings(network, values), "optimizer": optimizer}


def build_parts(cfg: DictConfig) -> tuple[dict[str, Any], SumDataModule]:
    """`model_arguments` and `build_datamodule` of a config, before anything is composed or read.

    Raises:
        InputError: a value out of range, or data that the network's settings contradict.
    """
    arguments, datamodule = model_arguments(cfg), build_datamodule(cfg)
    if datamodule.data.bucket_by_width and not NETWORKS[arguments["network"]][0].variable_width:
        found = f"got {arguments['network']}; set it to false"
        raise InputError(f"data.bucket_by_width: expected a network that takes images of any width, {found}")
    if isinstance(datamodule.data, ComposedData):
        arguments["settings"].check_num_digits(*datamodule.data.layout.digit_range)
    return arguments, datamodule


class LossBar(TQDMProgressBar):
    """Lightning's bar with the loss of the batch."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        loss = {"loss": f"{pl_module.last_loss.item():.2f}"} if isinstance(pl_module.last_loss, torch.Tensor) else {}
        return {**loss, **super().get_metrics(trainer, pl_module)}


def build_trainer(cfg: DictConfig, *, several: bool = False, in_sweep: bool = False, **more: Any) -> L.Trainer:
    """Lightning's Trainer of a config, with `more` of its arguments, which are no plain values.

    There may be more than one device, and so process, if `several`; nobody sees a job's bar if `in_sweep`.

    Raises:
        InputError: an accelerator or a value that this machine or Lightning refuses, or several devices.
        SystemExit: several devices for the jobs of a sweep.
    """
    # torch would fill all memory that it allocates with NaN; nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if cfg.trainer.precision == "auto":  # recorded as what it is here, so that it stays so wherever a run goes on
        cfg.trainer.precision = native_precision(cfg.trainer.accelerator)
    # instantiate() would leave interpolations and typed nodes inside
    arguments: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    if in_sweep and arguments["enable_progress_bar"] is None:
        arguments["enable_progress_bar"] = False
    if arguments["enable_progress_bar"] is not False:
        # into a file the bar writes a line each time, and of a GPU it reads the loss: seldom, then
        device = cfg.trainer.accelerator != "cpu" and torch.accelerator.is_available()
        every = (cfg.trainer.log_every_n_steps or 50) if device else 1
        more["callbacks"] = [LossBar(refresh_rate=every if sys.stderr.isatty() else 100), *more["callbacks"]]
    try:
        trainer: L.Trainer = instantiate(arguments, **more)
    except InstantiationException as error:  # Lightning's own words on what it refuses
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"trainer: {str(cause).strip().splitlines()[0]}") from error
    count = trainer.num_devices * trainer.num_nodes
    if count > 1 and not several:
        raise InputError(f"trainer.devices: expected one device, got {count}")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" in os.environ and started != count:
        raise InputError(f"trainer.devices: expected those of the {started} processes of torchrun, got {count}")
    if count > 1 and in_sweep:  # no InputError: it is the whole sweep that cannot be, not this job
        sys.exit("error: trainer.devices: expected one device for each job of a sweep, got several; leave -m out")
    return trainer


def build_training(
    cfg: DictConfig, signals: Signals, *, in_sweep: bool, callbacks: Sequence[L.Callback] = ()
) -> L.Trainer:
    """The `build_trainer` of a run: with `callbacks`, those of its config, and those that every run has."""
    check_trainer(cfg)
    nodes = {name: settle_monitor(name, node, cfg.monitor) for name, node in (cfg.callbacks or {}).items() if node}
    named = [instantiate(node, _convert_="all") for node in nodes.values()]
    if not any(isinstance(callback, ModelCheckpoint) for callback in named):
        raise InputError("callbacks: expected callbacks.checkpoint, which keeps the best weights; leave it in")
    run_dir = Path(cfg.run_dir)
    resumable = Resumable(run_dir / LAST_CHECKPOINT, signals, cfg.save_every_n_steps, cfg.save_every_n_minutes)
    kept = [LearningRateLogger(), MetricsHistory(run_dir / "history.csv"), EpochTimer()]
    return build_trainer(
        cfg,
        several=True,
        in_sweep=in_sweep,
        callbacks=[*kept, *named, *callbacks, resumable],
        logger=instantiate(cfg.logger, _convert_="all") if cfg.logger else False,
        # a sweep's job is alone: Slurm's variables are its launcher's, and Lightning would requeue a job by itself, too
        plugins=[WholeCheckpointIO(), *([LightningEnvironment()] if in_sweep else [])],
        default_root_dir=str(run_dir),
    )


def hparams(cfg: DictConfig, hydra: Any) -> dict[str, Any]:
    """What TensorBoard's HPARAMS tab shows: of a sweep's job what differs, of a single run what its command names.

    A single run also has its main settings there. The tab shows the first few of whatever it gets, in alphabetical
    order: with more among them, those that matter would be out of sight. `hydra` is Hydra's own config.
    """
    words, keys = hydra.overrides.task, {"data", "model", "experiment", "model.lr", "seed", "trainer.max_epochs"}
    if hydra.mode == RunMode.MULTIRUN and swept(words):
        words, keys = swept(words), set[str]()
    values: dict[str, Any] = {}
    for key in sorted(keys | {override_key(word) for word in words}):
        value = hydra.runtime.choices[key] if key in hydra.runtime.choices else OmegaConf.select(cfg, key)
        if not key.endswith(("_dir", "root")) and not (key in hydra.runtime.choices and value is None):
            values[key] = value if isinstance(value, int | float | str | bool) else str(value)
    return values
