"""Checkpoints: from a file to a model, without trusting the file."""

import functools
import json
import math
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from digitsum.errors import InputError
from digitsum.files import written_whole
from digitsum.models.ensemble import ensemble_of, require_single
from digitsum.models.module import OptimizerSettings, SumModule
from digitsum.models.published import find_model
from digitsum.models.registry import network_settings, upgraded


def load_model(path: str | Path | Sequence[str | Path]) -> SumModule:
    """Load a trained model, in evaluation mode on the CPU, from its checkpoint and nothing else.

    `path` may be the name of a model that comes with the package, `reader` (see `digitsum.models.published`), or a list
    of checkpoints whose models answer together (see `digitsum.models.ensemble`).
    Called with images `(N, H, W)`, uint8 in 0..255 or float in [0, 1], it answers with the sums `(N,)`. An InputError
    refuses what `read_checkpoint` does, hyperparameters or weights that do not fit the network, and models that are
    not alike.
    """
    _survive_forks()
    paths = [find_model(one) for one in ([path] if isinstance(path, str | Path) else path)]
    if not paths:
        raise InputError("load_model: expected a checkpoint or several, got none")
    return ensemble_of({path: model_of(read_checkpoint(path), path) for path in paths})


@functools.cache
def _survive_forks() -> None:
    """Let processes that are forked from this one compute on one core: they have none of torch's threads."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a `SumModule`, or its weights as `.safetensors`; plain values and tensors, no code is run.

    Raises:
        InputError: no such file, no checkpoint, one that holds more than plain values, or another model's.
    """
    require_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        _require_whole(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no exception of its own for a damaged file
        more = isinstance(error, pickle.UnpicklingError)
        reason = "holds more than plain values" if more else "is damaged or no checkpoint"
        raise InputError(f"{path}: expected a checkpoint written by scripts/train.py, but it {reason}") from error
    if (
        not isinstance(checkpoint, dict)
        or not {"state_dict", "hyper_parameters"} <= checkpoint.keys()
        or not isinstance(checkpoint.get("datamodule_hyper_parameters", {}), dict)
    ):
        raise InputError(f"{path}: expected a checkpoint written by scripts/train.py, found another file of torch's")
    return checkpoint


def model_of(checkpoint: dict[str, Any], path: Path) -> SumModule:
    """Build the model that `read_checkpoint` returned; `path` is named in errors."""
    try:
        state_dict, hparams = checkpoint["state_dict"], checkpoint["hyper_parameters"]
        _require_numbers(state_dict)
        with torch.device("meta"):  # takes no memory, however large a network the hyperparameters claim
            _fresh_module(**hparams).load_state_dict(state_dict, assign=True)
        module = _fresh_module(**hparams)
        module.load_state_dict(state_dict)
    except Exception as error:  # hyperparameters and weights may be any plain values
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: this checkpoint does not fit this version of digitsum ({reason})") from error
    return module.eval()


def _fresh_module(network: str, image_size: Any, options: Any, optimizer: Any, train_mean: Any) -> SumModule:
    """A module made from `hparams` as a checkpoint holds them."""
    if not math.isfinite(train_mean):
        raise InputError("expected a finite number as train_mean")
    settings = network_settings(network, upgraded(network, options))
    return SumModule(network, image_size, settings, OptimizerSettings(**optimizer), train_mean)


def safetensors_of(module: SumModule, **about: str) -> bytes:
    """A model's weights and hyperparameters, and what else to note, as a file of safetensors."""
    weights = {name: value.contiguous() for name, value in module.state_dict().items()}
    return safetensors.torch.save(weights, {"hyper_parameters": json.dumps(dict(module.hparams)), **about})


def save_safetensors(module: SumModule, path: Path) -> None:
    """Write a model's weights and hyperparameters as safetensors, which `load_model` and `read_checkpoint` read."""
    require_single(module, "save_safetensors")
    content = safetensors_of(module)
    with written_whole(path) as file:
        file.write(content)


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way of writing checkpoints, but whole or not at all (see `digitsum.files.written_whole`)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to the file `path`; where it cannot be written, an older one there is as it was."""
        with written_whole(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read the checkpoint that a run resumes from; the checkpoints that it names are looked for beside it.

        `ModelCheckpoint` reads and deletes files at the paths that it finds in a checkpoint. A run's folder may have
        been moved, and an untrusted checkpoint may name any file of the reader's.
        """
        checkpoint = super().load_checkpoint(path, *arguments, **options)
        folder = os.path.realpath(Path(path).parent)
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = _beside(state.get(key, ""), folder)
                best = state.get("best_k_models", {})
                state["best_k_models"] = {_beside(name, folder): score for name, score in best.items()}
                state["dirpath"] = folder
        return checkpoint


def _beside(path: Any, folder: str) -> str:
    """The checkpoint in `folder` that has the name of the one at `path`; empty where that is no checkpoint's name."""
    name = re.split(r"[/\\]", str(path))[-1]
    return str(Path(folder, name)) if Path(name).suffix == ".ckpt" else ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            hparams = json.loads((file.metadata() or {})["hyper_parameters"])
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # a damaged file raises whatever the parser stumbled over
        raise InputError(f"{path}: expected weights written by digitsum, but it is damaged or another's") from error
    return {"state_dict": state_dict, "hyper_parameters": hparams}


def require_file(path: Path) -> None:
    """Raise an InputError unless `path` is a file that can be read; a pipe, say, is not even opened."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: expected a checkpoint, found nothing") from error
    except (OSError, ValueError) as error:  # a ValueError where no file can have such a name
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "no file"
        raise InputError(f"{path}: expected a checkpoint, found {found}")


def _require_whole(path: Path) -> None:
    """Raise some exception unless `path` is a zip file as torch writes them, whose checksums hold.

    Torch itself takes a flipped bit for a weight, and would unpack a small file to any size.
    """
    with zipfile.ZipFile(path) as file:
        if sum(entry.file_size for entry in file.infolist()) > path.stat().st_size:
            raise ValueError("claims to hold more than its own size")
        if file.testzip() is not None:
            raise ValueError("a checksum does not hold")


def _require_numbers(state_dict: dict[str, Any]) -> None:
    """Raise some exception unless all weights are finite and have the memory that they claim."""
    for name, value in state_dict.items():
        whole = value.is_cpu and value.nbytes <= value.untyped_storage().nbytes()
        number = value.is_floating_point() or value.dtype == torch.int64  # batch norm counts its batches
        if not (whole and number and value.isfinite().all()):
            raise InputError(f"expected finite numbers as {name}")
