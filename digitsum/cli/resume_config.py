"""The config that a run recorded, to resume it: data from a file, checked like a command line and never obeyed."""

import os
import re
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitsum.cli import lightning_schemas, schemas
from digitsum.cli.overrides import flatten, override_key, renamed
from digitsum.data.augmentation import Augmentation
from digitsum.data.datamodule import ArraysData, ComposedData
from digitsum.errors import InputError
from digitsum.models.registry import upgraded
from digitsum.runs.locate import CONFIG_FILE, LAST_CHECKPOINT, read_config

_RESUMABLE_CHANGES = ("trainer.", "save_every_", "test", "debug", "resume", "outputs_dir")


def recorded_config(cfg: DictConfig, run_dir: Path, overrides: list[str]) -> DictConfig:
    """The config that the run in `run_dir` recorded, with the `overrides` of the command `cfg` that resumes it.

    Whatever the record says, `run_dir` stays the place that is written to.

    Raises:
        InputError: the record is of another version, names what is neither ours nor Lightning's, or would be changed.
    """
    record = read_config(run_dir)
    if "${" in repr(record):  # a record is resolved: this would be looked up on the reader's machine
        raise InputError(f"{run_dir / CONFIG_FILE}: expected plain values, found an interpolation")
    keys = [override_key(override) for override in overrides]
    for key in keys:
        if not key.startswith(_RESUMABLE_CHANGES):
            raise InputError(f"{key} cannot change in a resumed run; leave it out, or start a new one with init_from")
    try:
        if older := renamed(flatten(record)):
            raise InputError("found {}, which is {} since version 0.5; start a new run with init_from".format(*older))
        network = record["model"]["network"]
        record["model"] = upgraded(network, record["model"])
        groups = {
            "data": ArraysData if "root" in record["data"] else ComposedData,
            "model": schemas.model_schema(network),
            "augmentation": Augmentation,
            "trainer": lightning_schemas.TrainerSettings,
        }
        recorded = OmegaConf.structured(schemas.TrainConfig)
        for group, schema in groups.items():
            recorded[group] = OmegaConf.merge(OmegaConf.structured(schema), record[group])
        recorded.callbacks = {name: _known(node) for name, node in record["callbacks"].items()}
        recorded.logger = _known(record["logger"])
        for key in recorded.keys() - {*groups, "callbacks", "logger"}:
            recorded[key] = record[key] if key in record else cfg[key]
        OmegaConf.to_container(recorded, throw_on_missing=True)
        if not _is_plain(recorded.trainer) or recorded.trainer._target_ != lightning_schemas.TrainerSettings._target_:
            raise InputError(f"refuses to build {str(recorded.trainer._target_)!r} as a trainer of plain values")
    except InputError as error:
        raise InputError(f"{run_dir / CONFIG_FILE}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OmegaConfBaseException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{run_dir / CONFIG_FILE}: does not fit this version of digitsum ({reason})") from error
    for key in keys:
        OmegaConf.update(recorded, key, OmegaConf.select(cfg, key))
    recorded.run_dir, recorded.outputs_dir, recorded.debug = str(run_dir), cfg.outputs_dir, cfg.debug
    if (
        groups["data"] is ComposedData
    ):  # composed sets are kept on this machine, and nothing is downloaded for a record's sake
        recorded.data.datasets_dir = f"{cfg.outputs_dir}/datasets"
        recorded.data.download = False
    for node in (*recorded.callbacks.values(), recorded.logger):
        for key, place in (("dirpath", run_dir / LAST_CHECKPOINT.parent), ("save_dir", run_dir)):
            if key in node:
                node[key] = str(place)
    # nothing is sent for a record's sake; the environment is the user's own
    store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{cfg.outputs_dir}/mlflow.db")
    for key, here in (("offline", True), ("tracking_uri", store)):
        if key in recorded.logger:
            recorded.logger[key] = here
    return recorded


def _known(node: dict[str, Any] | None) -> Any:
    """A recorded callback or logger, if it is one of ours or Lightning's; its schema where there is one."""
    if not node:
        return {}
    target = node["_target_"]
    if not _is_plain(node):
        raise InputError(f"refuses to build {target!r} of anything but plain values")
    for key in ("filename", "name", "version"):  # of what is written into the run's folder
        # fields such as {epoch:02d} or {val/mae:.2f} become numbers
        value = re.sub(r"\{[\w/]+(:\d?\d?(\.\d)?[a-z]?)?\}", "", str(node.get(key) or ""))
        if re.search(r"[/\\:]", value) or value in (".", ".."):
            raise InputError(f"{key}: expected a name, found the path {value!r}")
    for schema in lightning_schemas.CALLBACKS_AND_LOGGERS.values():
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
