"""From configs to objects: registers the schemas with Hydra and builds what a script needs from a checked config."""

import itertools
import re
import sys
from dataclasses import asdict, dataclass, field, make_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import lightning.pytorch.callbacks
from console import PROJECT, ComposingBar
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitsum.callbacks import Clock, History
from digitsum.checkpoints import WholeCheckpointIO
from digitsum.datamodule import ArraysData, ComposedData, SumDataModule
from digitsum.errors import InputError
from digitsum.module import OptimizerSettings, SumModule
from digitsum.networks import NETWORKS
from digitsum.resuming import Resumable, Signals
from digitsum.runs import CONFIG_FILE, LAST_CHECKPOINT, newest_run, read_config


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
    max_epochs: int | None = 10
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | None = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
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
    """Lightning's ModelCheckpoint."""

    _target_: str = "lightning.pytorch.callbacks.ModelCheckpoint"
    dirpath: str = MISSING
    filename: str = "best"
    monitor: str = MISSING
    mode: str = "min"
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
    mode: str = "min"
    patience: int = 3
    min_delta: float = 0.0
    check_finite: bool = True
    verbose: bool = False


@dataclass
class PicturesSettings:
    """`digitsum.callbacks.SumPictures`."""

    _target_: str = "digitsum.callbacks.SumPictures"
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
class TrainConfig:
    """What `scripts/train.py` is told."""

    data: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = 0
    test: bool = True
    monitor: str = MISSING
    init_from: str | None = None
    resume: str | None = None
    save_every_n_steps: int | None = None
    save_every_n_minutes: float | None = None
    safetensors: bool = False
    outputs_dir: str = MISSING
    run_dir: str = MISSING
    debug: bool = False


@dataclass
class PredictConfig:
    """What `scripts/predict.py` is told."""

    ckpt_path: str | None = None
    split: str = "val"
    input: str | None = None
    batch_size: int = 64
    trainer: Any = MISSING
    mnist_root: str | None = None
    data_root: str | None = None
    outputs_dir: str = MISSING
    run_dir: str = MISSING
    debug: bool = False


@dataclass
class MakeDataConfig:
    """What `scripts/make_data.py` is told."""

    data: Any = MISSING
    out: str = MISSING
    outputs_dir: str = MISSING
    debug: bool = False


def register() -> None:
    """Make the schemas known to Hydra, and the resolvers that the configs use to OmegaConf."""
    store = ConfigStore.instance().store
    store(name="train_schema", node=TrainConfig)
    store(name="predict_schema", node=PredictConfig)
    store(name="make_data_schema", node=MakeDataConfig)
    store(group="data/schema", name="arrays", node=ArraysData)
    store(group="data/schema", name="composed", node=ComposedData)
    for name in NETWORKS:
        store(group="model/schema", name=name, node=_model_schema(name))
    store(group="trainer/schema", name="trainer", node=TrainerSettings)
    store(group="callbacks/schema", name="checkpoint", node=CheckpointSettings)
    store(group="callbacks/schema", name="early_stopping", node=EarlyStoppingSettings)
    store(group="callbacks/schema", name="pictures", node=PicturesSettings)
    store(group="logger/schema", name="tensorboard", node=TensorBoardSettings)
    store(group="logger/schema", name="csv", node=CSVSettings)
    OmegaConf.register_new_resolver("project_root", lambda: PROJECT, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


def run_folder(outputs_dir: str, resume: str | None) -> str:
    """The folder of a single run: the one to resume, `latest` included, or a new one of the present second.

    Made here and now, so that two runs started together get two.

    Raises:
        InputError: there is no run to resume, or the folder cannot be made.
    """
    runs = Path(outputs_dir, "runs")
    if resume is not None:
        folder = newest_run(Path(outputs_dir), finished=False) if resume == "latest" else Path(resume).absolute()
        read_config(folder)  # before Hydra's log makes a folder of whatever was named
        return str(folder)
    second = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(2):
        folder = runs / (second if number == 2 else f"{second}_{number - 1}")
        try:
            folder.mkdir(parents=True)
            return str(folder)
        except FileExistsError:
            if not runs.is_dir():
                raise InputError(f"cannot write {runs}: it is no folder; choose another outputs_dir") from None
        except OSError as error:
            raise InputError(f"cannot write {runs}: {error.strerror or error}; choose another outputs_dir") from error
    raise AssertionError


def job_folder(number: int, overrides: list[str]) -> str:
    """A sweep job's folder: its number and what differs, in letters, digits, `.`, `_` and `-` alone.

    An override that stands on the command line as it is, is the same for all jobs and left out.

    Example:
        >>> job_folder(3, ["model.lr=0.0003", "seed=1"])
        '03_lr-3e-4_seed-1'
    """
    words = [f"{number:02d}"]
    for override in overrides:
        if override not in sys.argv:
            key, _, value = override.lstrip("+~").partition("=")
            words.append(re.sub(r"[^A-Za-z0-9._]+", "-", f"{key.rpartition('.')[2]}-{_short(value)}").strip("-"))
    return "_".join(words)[:120]  # a file system takes 255 bytes a name


def _short(value: str) -> str:
    """Small numbers as people write them: Hydra's sweeper turns 3e-4 into 0.0003."""
    if re.fullmatch(r"0\.00\d+", value):
        mantissa, exponent = f"{float(value):.12e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return value


def build_datamodule(cfg: DictConfig) -> SumDataModule:
    """The data module of a config, with a progress bar for composing."""
    data = settings_of(cfg.data)
    return SumDataModule(data, shuffle_seed=cfg.get("seed", 0), progress=composing_bar(data))


def settings_of(node: DictConfig) -> Any:
    """A config node as the dataclass that its schema names.

    Raises:
        InputError: a value out of range.
        OmegaConfBaseException: a missing value or one of the wrong type.
    """
    return OmegaConf.to_object(node)


def composing_bar(data: ArraysData | ComposedData) -> ComposingBar | None:
    """A progress bar for composing `data`, if it is composed."""
    return ComposingBar(data.num_train + data.num_val + data.num_test) if isinstance(data, ComposedData) else None


def model_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `SumModule` that a config holds, checked before anything is built.

    Raises:
        InputError: a value out of range.
    """
    values = asdict(settings_of(cfg.model))
    name = values.pop("network")
    optimizer = {key: values.pop(key) for key in OptimizerSettings.__dataclass_fields__}
    NETWORKS[name][1](**values)
    return {"network": name, "options": values, "optimizer": optimizer}


def build_module(arguments: dict[str, Any], datamodule: SumDataModule) -> SumModule:
    """The module of `model_arguments` for the images of a data module that is set up."""
    return SumModule(image_size=datamodule.image_size, train_mean=datamodule.train_mean, **arguments)


def build_trainer(cfg: DictConfig, **more: Any) -> L.Trainer:
    """Lightning's Trainer of a config.

    Raises:
        InputError: an accelerator or a value that this machine or Lightning refuses.
    """
    # instantiate() would leave interpolations and typed nodes inside
    arguments = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(arguments, dict)
    if arguments["enable_progress_bar"] is not False:
        # into a file the bar writes a line each time: seldom, then
        more["callbacks"] = [TQDMProgressBar(refresh_rate=1 if sys.stderr.isatty() else 100), *more["callbacks"]]
    try:
        return instantiate(arguments, **more)
    except InstantiationException as error:  # Lightning's own words on what it refuses
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"trainer: {str(cause).strip().splitlines()[0]}") from error


def build_training(cfg: DictConfig, signals: Signals, *, in_sweep: bool) -> L.Trainer:
    """The Trainer with the config's callbacks and logger, and with what every run has: history, clock, resumption."""
    callbacks = [instantiate(node, _convert_="all") for node in cfg.callbacks.values() if node]
    if in_sweep and cfg.trainer.enable_progress_bar is None:
        cfg.trainer.enable_progress_bar = False  # a bar for each job only fills the logs
    logger: Logger | bool = instantiate(cfg.logger, _convert_="all") if cfg.logger else False
    run_dir = Path(cfg.run_dir)
    resumable = Resumable(run_dir / LAST_CHECKPOINT, signals, cfg.save_every_n_steps, cfg.save_every_n_minutes)
    return build_trainer(
        cfg,
        callbacks=[History(run_dir / "history.csv"), Clock(), *callbacks, resumable],
        logger=logger,
        plugins=[WholeCheckpointIO()],
        default_root_dir=str(run_dir),
    )


_RESUMABLE_CHANGES = ("trainer.", "save_every_", "test", "debug", "resume", "outputs_dir")


def recorded_config(cfg: DictConfig, run_dir: Path, overrides: list[str]) -> DictConfig:
    """The config that a run recorded, to resume it: checked like one from the command line, and never obeyed.

    Args:
        cfg: the config of the resuming command.
        run_dir: the run's folder; whatever its config says, it stays the place that is written to.
        overrides: of the resuming command.

    Raises:
        InputError: the record is not one of this version's, names anything but our own and Lightning's callbacks and
            loggers, or an override would change what the run is.
    """
    record = read_config(run_dir)
    if "${" in repr(record):  # a record is resolved: this would be looked up on the reader's machine
        raise InputError(f"{run_dir / CONFIG_FILE}: expected plain values, found an interpolation")
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    for key in keys:
        if not key.startswith(_RESUMABLE_CHANGES):
            raise InputError(
                f"{key} cannot change in a resumed run; leave it out, or start a new run with init_from=CHECKPOINT"
            )
    try:
        data = ArraysData if "root" in record["data"] else ComposedData
        model = _model_schema(record["model"]["network"])
        recorded = OmegaConf.structured(TrainConfig)
        schemas: dict[str, Any] = {"data": data, "model": model, "trainer": TrainerSettings}
        for group, schema in schemas.items():
            recorded[group] = OmegaConf.merge(OmegaConf.structured(schema), record[group])
        recorded.callbacks = {name: _known(node) for name, node in record["callbacks"].items()}
        recorded.logger = _known(record["logger"])
        for key in TrainConfig.__dataclass_fields__:
            if key not in (*schemas, "callbacks", "logger"):
                recorded[key] = record.get(key, cfg[key])
        OmegaConf.to_container(recorded, throw_on_missing=True)
        if not _is_plain(recorded.trainer) or recorded.trainer._target_ != TrainerSettings._target_:
            raise InputError(f"refuses to build {str(recorded.trainer._target_)!r} as a trainer of plain values")
    except InputError as error:
        raise InputError(f"{run_dir / CONFIG_FILE}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OmegaConfBaseException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{run_dir / CONFIG_FILE}: this record does not fit this version of digitsum ({reason})"
        ) from error
    for key in keys:
        OmegaConf.update(recorded, key, OmegaConf.select(cfg, key))
    recorded.run_dir, recorded.outputs_dir, recorded.debug = str(run_dir), cfg.outputs_dir, cfg.debug
    for node in (*recorded.callbacks.values(), recorded.logger):
        for key, place in (("dirpath", run_dir / LAST_CHECKPOINT.parent), ("save_dir", run_dir)):
            if key in node:
                node[key] = str(place)
    return recorded


def _known(node: dict[str, Any] | None) -> Any:
    """A recorded callback or logger, if it is one of ours or Lightning's; its schema where there is one."""
    if not node:
        return {}
    target = node["_target_"]
    schemas = (CheckpointSettings, EarlyStoppingSettings, PicturesSettings, TensorBoardSettings, CSVSettings)
    if not _is_plain(node):
        raise InputError(f"refuses to build {target!r} of anything but plain values")
    for key in ("filename", "name", "version"):  # of what is written into the run's folder
        # fields such as {epoch:02d} or {val/mae:.2f} become numbers
        value = re.sub(r"\{[\w/]+(:\d?\d?(\.\d)?[a-z]?)?\}", "", str(node.get(key) or ""))
        if re.search(r"[/\\:]", value) or value in (".", ".."):
            raise InputError(f"{key}: expected a name, found the path {value!r}")
    for schema in schemas:
        if schema._target_ == target:
            return OmegaConf.merge(OmegaConf.structured(schema), node)
    module, _, name = target.rpartition(".")
    if module == "lightning.pytorch.callbacks" and name in lightning.pytorch.callbacks.__all__:
        return node
    raise InputError(f"refuses to build {target!r}, which is none of digitsum's or Lightning's callbacks and loggers")


def _is_plain(node: Any) -> bool:
    """Whether no object inside would be built in its turn, and none of Hydra's own words steers how it is built."""
    plain = (int, float, bool, str, type(None))
    return all(
        (key == "_target_" or not str(key).startswith("_"))
        and all(isinstance(item, plain) for item in (value if isinstance(value, list | ListConfig) else [value]))
        for key, value in node.items()
    )


def _model_schema(network: str) -> type:
    """The flat schema of a network and its training, as the `model` group has it."""
    if network not in NETWORKS:
        raise InputError(f"unknown network {network!r}; known are {', '.join(NETWORKS)}")
    settings = NETWORKS[network][1]
    fields = [("network", str, field(default=network))]
    return make_dataclass(f"{network}_model", fields, bases=(OptimizerSettings, settings))


def hparams(cfg: DictConfig, hydra: Any) -> dict[str, Any]:
    """What TensorBoard's HPARAMS tab shows of a run: its main settings and all that its command names.

    The tab shows the first few of whatever it gets, in alphabetical order: with every setting among them, those that
    matter would be out of sight.

    Args:
        cfg: the run's config.
        hydra: Hydra's own config, which knows the command.
    """
    named = {key.partition("=")[0].lstrip("+~") for key in hydra.overrides.task}
    groups = {group: name for group, name in hydra.runtime.choices.items() if group in ("data", "model", "experiment")}
    values: dict[str, Any] = {group: name for group, name in groups.items() if name is not None}
    for key in sorted({"model.lr", "seed", "trainer.max_epochs"} | named - hydra.runtime.choices.keys()):
        value = OmegaConf.select(cfg, key)
        if not key.endswith(("_dir", "root")):
            values[key] = value if isinstance(value, int | float | str | bool) else str(value)
    return values
