"""An export as a config describes it: a checkpoint, what to compare the file on, and where it goes."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from digitsum.cli.build import checkpoint_of, settings_of
from digitsum.cli.console import log
from digitsum.cli.output_dirs import writable
from digitsum.data.canvases import Layout, compose
from digitsum.data.datamodule import SumDataModule, data_of
from digitsum.data.glyphs import load_glyph_pools
from digitsum.errors import InputError
from digitsum.files import is_folder, read_json
from digitsum.models.checkpoints import model_of, read_checkpoint
from digitsum.models.export import Parity, export
from digitsum.runs.locate import METRICS_FILE

_NUM_IMAGES = 64  # to compare on


def run(cfg: DictConfig) -> Parity:
    """Export as `cfg` says; see `digitsum.models.export.export`."""
    settings = settings_of(cfg)
    path = Path(settings.out)
    if is_folder(path):
        raise InputError(f"out: expected the name of a file, but {path} is a folder")
    ckpt_path = checkpoint_of(cfg)
    checkpoint = read_checkpoint(ckpt_path)
    module = model_of(checkpoint, ckpt_path)
    if settings.num_digits != "trained":
        module.net.set_decoding(num_digits=settings.num_digits)
        module.hparams["options"]["num_digits"] = settings.num_digits
    writable(path.absolute().parent, "choose another place with out=FILE")
    images, where = images_for(checkpoint, ckpt_path, module.image_size)
    parity = export(
        module,
        path,
        images,
        format=settings.format,
        outputs=settings.outputs,
        width=settings.width,
        metrics=metrics_beside(ckpt_path),
    )
    digits = f", other digits on {parity.different_digits}" if parity.different_digits else ""
    log.info(
        "compared on %d images (%s): largest difference %.1e, no other sums%s",
        parity.num_images,
        where,
        parity.largest,
        digits,
    )
    log.info("wrote %s (%.1f MB)", path.resolve(), path.stat().st_size / 1e6)
    return parity


def images_for(checkpoint: dict[str, Any], path: Path, image_size: tuple[int, int]) -> tuple[torch.Tensor, str]:
    """Images `(N, H, W)` uint8 like those of the training, and what they are.

    They are the first of the run's own validation set where that is on this machine; else canvases of the bundled
    digits, cut or padded to `image_size`.
    """
    with contextlib.suppress(InputError):  # they have moved, changed, or are not known
        datamodule = SumDataModule(data_of(checkpoint.get("datamodule_hyper_parameters", {}).get("data"), {}, path))
        if is_folder(datamodule.folder):
            datamodule.setup()
            val = datamodule.splits["val"]
            images = val.images.gather(val.index[:_NUM_IMAGES])
            if val.images.image_size == image_size and images.dtype == torch.uint8 and len(images) > 1:
                return images, "the run's validation images"
    pool = load_glyph_pools("bundled")["val"]
    canvases = torch.from_numpy(compose(Layout(), pool, seed=0, stream=0, start=0, count=_NUM_IMAGES)[0])
    below, right = (ours - theirs for ours, theirs in zip(image_size, canvases.shape[1:], strict=True))
    return torch.nn.functional.pad(canvases, (0, right, 0, below)), "canvases of bundled digits"


def metrics_beside(ckpt_path: Path) -> Any:
    """The metrics of the run that a checkpoint lies in; None where there are none."""
    path = ckpt_path.absolute().parent.parent / METRICS_FILE
    try:
        return read_json(path) if path.is_file() else None
    except InputError as error:
        log.warning("without metrics: %s", error)
        return None
