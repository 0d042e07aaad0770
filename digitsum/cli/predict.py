"""A prediction as a config describes it: the model of a checkpoint on its own data or on the user's images."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from digitsum.cli.build import build_trainer, checkpoints_of, composing_bar, register, settings_of
from digitsum.cli.console import log, log_written
from digitsum.cli.project import PROJECT
from digitsum.data.batches import Batches
from digitsum.data.datamodule import ArraysData, SumDataModule, data_of
from digitsum.data.glyphs import SPLITS
from digitsum.data.pictures import SUFFIXES, PictureBatches, find_pictures
from digitsum.data.shards import SumDataset, has_shards, open_array, open_shards
from digitsum.errors import InputError
from digitsum.evaluation.evaluate import details_table, metrics_table
from digitsum.evaluation.predict import write_predictions
from digitsum.evaluation.transcription import TranscriptionAccuracy, find_truth
from digitsum.files import is_folder
from digitsum.models.checkpoints import model_of, read_checkpoint
from digitsum.models.ensemble import ensemble_of
from digitsum.models.module import SumModule
from digitsum.models.onnx_model import load_onnx
from digitsum.training.signals import Signals

SOME_REFUSED = 3
"""The exit code where some of several pictures could not be read, and the table has the others."""


def run(cfg: DictConfig) -> dict[str, dict[str, dict[str, float]]]:
    """Predict as `cfg` says, into its `run_dir`; returns what `write_predictions` returns.

    Raises:
        SystemExit: with `SOME_REFUSED`, once all is written: some pictures could not be read.
    """
    if cfg.split not in (*SPLITS, "all"):
        raise InputError(f"split: expected one of {', '.join(SPLITS)}, all, got {cfg.split!r}")
    if cfg.batch_size is not None and cfg.batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more images, got {cfg.batch_size}")
    paths = checkpoints_of(cfg)
    checkpoints: dict[Path, dict[str, Any]] = {}
    if [path.suffix for path in paths] == [".onnx"]:
        module: SumModule = load_onnx(paths[0])
    else:
        checkpoints = {path: read_checkpoint(path) for path in paths}
        module = ensemble_of({path: model_of(checkpoint, path) for path, checkpoint in checkpoints.items()})
    if cfg.num_digits != "trained":
        module.net.set_decoding(num_digits=settings_of(cfg).num_digits)
    if cfg.tta != 1:
        module.net.set_decoding(tta=cfg.tta)

    if cfg.input is None and not checkpoints:
        raise InputError(f"{paths[0]}: an exported model knows no data; give images with input=PATH")
    if cfg.input is None:
        splits = SPLITS if cfg.split == "all" else (cfg.split,)
        parts, folders = own_data(cfg, checkpoints, splits, cfg.data_root)
    else:
        parts = open_input(Path(cfg.input))
        folders = {part: Path(cfg.input, "" if part == "input" else part) for part in parts}
    height, width = module.image_size
    batch_size = cfg.batch_size or module.net.prediction_batch_size
    for name, arrays in parts.items():
        if isinstance(arrays, SumDataset):
            size = arrays.images.image_size
            if size != module.image_size and not (module.net.variable_width and size[0] == height):
                found = "{}x{}".format(*size)
                raise InputError(
                    f"{cfg.input or name}: the model reads images of {height}x{width}, found {found}; "
                    "compose, crop or pad them to that size"
                )
            parts[name] = Batches(arrays, batch_size)
        else:
            wide = module.net.variable_width
            parts[name] = PictureBatches(
                arrays, module.image_size, batch_size, prepare=cfg.prepare, variable_width=wide
            )

    folder = Path(cfg.run_dir)
    trainer = build_trainer(cfg, logger=False, callbacks=[], default_root_dir=str(folder))
    truths = truths_of(parts, folders) if module.net.predicts_digits else {}
    results = write_predictions(trainer, module, parts, folder, truths)
    if results:
        log.info("%s\n", "\n\n".join(filter(None, [metrics_table(results), details_table(results)])))
    else:
        log.info("no sums are known for these images: no metrics, and no figures against true sums")
        for line in (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[:11]:
            log.info("  %s", line)
    log_written(folder)
    if cfg.input is not None:
        log_warnings(folder / "predictions.csv")
    refused = [entry for batches in parts.values() if isinstance(batches, PictureBatches) for entry in batches.refused]
    for path, reason in refused:
        log.warning("left out %s: %s", path, reason)
    if refused:
        raise SystemExit(SOME_REFUSED)
    return results


def log_warnings(path: Path) -> None:
    """Say how many rows of a table of pictures have warnings, and which."""
    with path.open(encoding="utf-8", newline="") as file:
        warnings = [row["warnings"] for row in csv.DictReader(file) if row.get("warnings")]
    if warnings:
        kinds = Counter(kind for row in warnings for kind in row.split(", ")).most_common()
        log.warning(
            "warnings, see %s: %s rows may be wrong (%s)",
            path,
            len(warnings),
            ", ".join(f"{kind}: {count}" for kind, count in kinds),
        )


def predict_test_set(ckpt_path: Path, folder: Path, outputs_dir: Path) -> dict[str, float]:
    """Evaluate a checkpoint on the test set of its run, into `folder`; returns the model's metrics.

    For programs that are none of Hydra's.
    """
    register()
    with initialize_config_dir(f"{PROJECT}/conf", version_base="1.3"):
        cfg = compose("predict", ["split=test", "trainer.enable_progress_bar=false"])
    cfg.ckpt_path, cfg.run_dir, cfg.outputs_dir = str(ckpt_path), str(folder), str(outputs_dir)
    return run(cfg)["test"]["model"]


def own_data(
    cfg: DictConfig, checkpoints: dict[Path, dict[str, Any]], splits: Sequence[str], root: str | None = None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The data that checkpoints were trained on, found again or composed anew on this machine, and their folders.

    Of several checkpoints it is the first one's, and the others must have recorded the same.
    """
    places = {"root": root, "mnist_root": cfg.mnist_root, "datasets_dir": f"{cfg.outputs_dir}/datasets"}
    path, checkpoint = next(iter(checkpoints.items()))
    data = data_of(checkpoint.get("datamodule_hyper_parameters", {}).get("data"), places, path)
    datamodule = SumDataModule(data, progress=composing_bar(data))
    if isinstance(data, ArraysData) and not is_folder(datamodule.folder):
        raise InputError(
            f"{datamodule.folder}: found no folder; give the place of the run's data with data_root=FOLDER"
        )
    with Signals().listening():  # a signal leaves no data set unfinished
        datamodule.prepare_data()
    datamodule.setup()
    recorded = checkpoint.get(SumDataModule.__qualname__)
    if isinstance(recorded, dict):  # weights as safetensors record none
        datamodule.check_unchanged(recorded, splits, "give them as what they are now with input=FOLDER")
    for other, checkpoint in checkpoints.items():
        recorded = checkpoint.get(SumDataModule.__qualname__)
        found = recorded if isinstance(recorded, dict) else {}
        for split in splits if other != path else ():
            if found.get(split) != datamodule.state_dict()[split]:
                raise InputError(
                    f"{other}: expected a model with the same {split} data as {path}; give images with input=PATH"
                )
    return {split: datamodule.splits[split] for split in splits}, {split: datamodule.folder / split for split in splits}


def truths_of(parts: dict[str, Any], folders: dict[str, Path]) -> dict[str, TranscriptionAccuracy]:
    """What compares readings with the digits that were drawn, for the parts that are composed sets."""
    truths = {}
    for part, folder in folders.items():
        truth = find_truth(folder)
        if truth is not None and isinstance(parts[part], Batches):
            images = len(parts[part].dataset.images)
            if len(truth[0]) != images:
                raise InputError(f"{folder}: expected truth files for {images} images, found {len(truth[0])}")
            truths[part] = TranscriptionAccuracy(*truth)
    return truths


def open_input(path: Path) -> dict[str, SumDataset | list[Path]]:
    """The user's images by the names of their parts: shards, one `.npy`, or the paths of pictures.

    A folder with `train`, `val` and `test` is each of them, one with shards these; pictures beside them are left out.
    """
    if is_folder(path):
        try:
            files = sorted(path.iterdir())
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        folders = {split: path / split for split in SPLITS if is_folder(path / split) and has_shards(path / split)}
        folders = {"input": path} if has_shards(path) else folders
        if pictures and not folders:
            if len(files) > len(pictures):
                log.info("%s: left out %d that are not named like pictures", path, len(files) - len(pictures))
            return {"input": find_pictures(path)}
        if pictures:
            log.info("%s: read the shards; left out %d pictures, %s first", path, len(pictures), pictures[0].name)
        return {part: open_shards(folder, need_sums=False) for part, folder in (folders or {"input": path}).items()}
    if path.suffix.lower() in SUFFIXES:
        return {"input": find_pictures(path)}
    if path.suffix == ".npy":
        return {"input": open_array(path)}
    raise InputError(f"{path}: expected a folder, a .npy file or a picture ({', '.join(SUFFIXES)})")
