"""Checkpoints: from a file to a model, without trusting the file."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from digitsum.errors import InputError
from digitsum.files import written_whole
from digitsum.module import SumModule


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way of writing checkpoints, but whole or not at all (see `digitsum.files.written_whole`)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to the file `path`.

        Raises:
            InputError: it cannot be written; an older file there is as it was.
        """
        with written_whole(Path(path)) as file:
            torch.save(checkpoint, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a `SumModule`, or its weights as `.safetensors`; plain values and tensors, no code is run.

    Raises:
        InputError: no such file, no checkpoint, one that holds more than plain values, or another model's.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no exception of its own for a damaged or a refused file
        refused = isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path)
        reason = "holds more than plain values" if refused else "is damaged or no checkpoint"
        raise InputError(f"{path}: expected a checkpoint written by scripts/train.py, but it {reason}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise InputError(f"{path}: expected a checkpoint written by scripts/train.py, found another file of torch's")
    return checkpoint


def load_model(path: str | Path) -> SumModule:
    """Load a trained model, in evaluation mode on the CPU, from its checkpoint alone.

    Call it with images `(N, H, W)`, uint8 in 0..255 or float in [0, 1]; it answers with the sums `(N,)`.

    Raises:
        InputError: see `read_checkpoint`; or hyperparameters or weights that do not fit the network.
    """
    return model_of(read_checkpoint(Path(path)), Path(path))


def model_of(checkpoint: dict[str, Any], path: Path) -> SumModule:
    """Build the model that `read_checkpoint` returned; `path` is named in errors."""
    try:
        module = SumModule(**checkpoint["hyper_parameters"])
        module.load_state_dict(checkpoint["state_dict"])
    except (InputError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: this checkpoint does not fit this version of digitsum ({reason})") from error
    return module.eval()


def save_safetensors(module: SumModule, path: Path) -> None:
    """Write a model's weights and hyperparameters as safetensors, which `load_model` and `read_checkpoint` read.

    Raises:
        InputError: the file cannot be written.
    """
    hyper_parameters = json.dumps(dict(module.hparams))
    content = safetensors.torch.save(
        {name: value.contiguous() for name, value in module.state_dict().items()},
        {"hyper_parameters": hyper_parameters},
    )
    with written_whole(path) as file:
        file.write(content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            hyper_parameters = json.loads((file.metadata() or {})["hyper_parameters"])
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected weights written by digitsum, but it is damaged or another's") from error
    return {"state_dict": state_dict, "hyper_parameters": hyper_parameters}
