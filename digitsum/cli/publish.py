"""A publication as a config describes it: a run's weights measured again, then written into the package with a card."""

import csv
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import digitsum
from digitsum.cli.console import log
from digitsum.cli.predict import own_data
from digitsum.data.canvases import Layout, compose
from digitsum.data.datamodule import ComposedData, data_of
from digitsum.data.glyphs import load_glyph_pools
from digitsum.errors import InputError, check
from digitsum.files import exists, read_json, write_text, written_whole
from digitsum.metrics import round_sums
from digitsum.models.checkpoints import model_of, read_checkpoint, safetensors_of
from digitsum.models.module import SumModule
from digitsum.models.published import FOLDER, is_version
from digitsum.runs.locate import read_config

_Read = Callable[[SumModule], torch.Tensor]

_COUNTS = ("one_digit", *(f"{word}_digits" for word in ("two", "three", "four", "five", "six", "seven", "eight")))


def run(cfg: DictConfig) -> None:
    """Publish as `cfg` says; an InputError, and nothing written, where a figure is below its threshold."""
    path, folder = Path(cfg.ckpt_path), Path(cfg.folder or FOLDER)
    weights = folder / f"{cfg.name}.safetensors"
    if not is_version(cfg.name):
        raise InputError(f"name: expected a name and its version, reader-1 say, got {cfg.name!r}")
    if exists(weights):
        raise InputError(f"{weights}: is published, and never changes; choose the next version")
    checkpoint = read_checkpoint(path)
    if cfg.num_digits != "trained":
        settings: Any = OmegaConf.to_container(cfg)
        checkpoint["hyper_parameters"]["options"]["num_digits"] = settings["num_digits"]
    if cfg.width is not None:
        check("width", cfg.width, 8 <= cfg.width <= 4_000, "8 to 4,000 pixels")
        checkpoint["hyper_parameters"]["image_size"] = [checkpoint["hyper_parameters"]["image_size"][0], cfg.width]
    full, half = model_of(checkpoint, path), model_of(checkpoint, path).half().float()
    run_dir = path.absolute().parent.parent
    config, environment = read_config(run_dir), read_json(run_dir / "environment.json")

    figures: dict[str, dict[str, float]] = {}
    for name, (read, sums) in _sets(cfg, checkpoint, path).items():
        preds = read(full)
        differ = int((read(half) != preds).sum())
        guesses = (preds, torch.tensor(round(full.train_mean)))
        exact, baseline = (sums.eq(guess).float().mean().item() for guess in guesses)
        figures[name] = {"images": len(sums), "exact": exact, "baseline": baseline, "half_precision_differs": differ}
        log.info("%s: %.2f %% of %d sums right; %d differ in half precision", name, 100 * exact, len(sums), differ)
        if exact < cfg.min_exact.get(name, 0):
            reason = f"expected {cfg.min_exact[name]:.1%} of the sums right on {name}, found {exact:.1%}"
            raise InputError(f"{cfg.name}: not published: {reason}")
    in_half = not any(row["half_precision_differs"] for row in figures.values())
    about = {"digitsum_version": digitsum.__version__, "name": cfg.name, "metrics": json.dumps(figures)}
    content = safetensors_of(full.half() if in_half else full, **about)
    write_text(weights.with_suffix(".md"), _card(cfg.name, config, environment, figures, full))
    with written_whole(weights) as file:  # last: they are what publishes it
        file.write(content)
    log.info("wrote %s (%.2f MB) and its card; try: ckpt_path=%s", weights, len(content) / 1e6, cfg.name)


def _sets(cfg: DictConfig, checkpoint: dict[str, Any], path: Path) -> dict[str, tuple[_Read, torch.Tensor]]:
    """What to measure on: by name what reads it with a model, to sums `(N,)`, and the true sums `(N,)`."""
    data = data_of(checkpoint.get("datamodule_hyper_parameters", {}).get("data"), {}, path)
    if not isinstance(data, ComposedData) or data.glyphs_shared or data.glyphs == "arrays":
        raise InputError(f"{path}: expected a model of composed canvases whose test digits are its own, found another")
    test = own_data(cfg, {path: checkpoint}, ["test"])[0]["test"]
    assert test.sums is not None
    pool = load_glyph_pools(data.glyphs, mnist_root=cfg.mnist_root)["test"]
    sets: dict[str, tuple[_Read, torch.Tensor]] = {
        "test": (lambda module: _sums(module, test.images.gather(test.index)), test.sums[test.index])
    }
    for num_digits, name in enumerate(_COUNTS, 1):
        layout = Layout(num_digits=num_digits, width=max(168, 42 * num_digits))
        canvases, drawn = compose(layout, pool, seed=0, stream=0, start=0, count=cfg.num_images)
        sets[name] = functools.partial(_sums, images=torch.from_numpy(canvases)), torch.from_numpy(drawn.sums)
    if cfg.pictures is not None:
        files, truth = _truth(Path(cfg.pictures))
        sets["pictures"] = (lambda module: _picture_sums(module, files), truth)
    return sets


def _truth(folder: Path) -> tuple[list[Path], torch.Tensor]:
    try:
        with (folder / "truth.csv").open(encoding="utf-8", newline="") as file:
            rows = [(folder / row["file"], int(row["sum"])) for row in csv.DictReader(file)]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'truth.csv'}: expected columns file and sum, found none ({error!r})") from error
    return [path for path, _ in rows], torch.tensor([value for _, value in rows])


@torch.inference_mode()
def _sums(module: SumModule, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([round_sums(module(part)).long() for part in images.split(64)])


def _picture_sums(module: SumModule, files: list[Path]) -> torch.Tensor:
    """The sum of each picture; -1 where there is not one row of digits."""
    sums: dict[int, list[float | None]] = {}
    for reading in module.read(files):
        sums.setdefault(reading.index, []).append(reading.sum)
    found = [sums.get(index, []) for index in range(len(files))]
    return torch.tensor([int(one[0]) if len(one) == 1 and one[0] is not None else -1 for one in found])


_CARD = """# {name}

Weights of `digitsum`'s network `{network}`: `digitsum.load_model("{name}")`, or `ckpt_path={name}` for the commands.

- **Trained on** {num_train:,} canvases composed of {source}, from the sum of each canvas and how many digits a canvas
  may hold, {num_digits}; no digit and no place was given.
- **Settings** {options}
- **Commands** {commands}
- **Code** digitsum {version}; Python {python}, {packages}
- **Weights** {precision}, {parameters:,} numbers

| measured by scripts/publish.py | images | sums right | mean baseline |
| --- | --- | --- | --- |
{rows}

`test` are the run's own test canvases, `one_digit` and so on canvases of so many digits, whose number is not given; the
digits of all of them occur on no training canvas. `pictures` are photos, scans and drawings prepared as `model.read`
does it. One model, without test-time augmentation.

## What it cannot do

Read letters, signs or crossed-out digits (it takes them for digits), rows of another number of digits than it is told,
dense rows of touching digits of mixed height, or photos taken at an angle of more than a few degrees. Warnings and
probability say most of what is wrong with a reading, not all.
"""
_ROW = "| {name} | {images:,} | {exact:.1%} | {baseline:.1%} |"
_SOURCES = {
    "mnist": "MNIST digits (Yann LeCun, Corinna Cortes; CC BY-SA 3.0)",
    "bundled": "the handwritten digits of scikit-learn (UCI, E. Alpaydin and C. Kaynak; CC BY 4.0)",
}


def _card(name: str, config: Any, environment: Any, figures: dict[str, Any], module: SumModule) -> str:
    """The card of a model: what its run recorded, and what was measured."""
    try:
        packages = environment["packages"]
        options = module.hparams["options"]
        return _CARD.format(
            name=name,
            network=module.hparams["network"],
            num_train=config["data"]["num_train"],
            source=_SOURCES[config["data"]["glyphs"]],
            num_digits=config["model"]["num_digits"],
            options=", ".join(f"`{key}={value}`" for key, value in options.items()),
            commands=", then ".join(_commands(config, environment)),
            version=packages["digitsum"],
            python=environment["python"],
            packages=", ".join(f"{key} {value}" for key, value in packages.items() if key in ("torch", "lightning")),
            precision="half precision (no sum differs)" if module.dtype == torch.float16 else "full precision",
            parameters=sum(value.numel() for value in module.parameters()),
            rows="\n".join(_ROW.format(name=key, **row) for key, row in figures.items()),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{name}: expected what a run records beside its checkpoint, found it damaged") from error


def _commands(config: Any, environment: Any) -> list[str]:
    """What a run was started with, without where things lie on the machine; before it the run that it began from."""
    command = re.sub(r" \S*(?:dir|root|resume)=(?:'[^']*'|\S)*", "", environment["command"])
    command = re.sub(r"(init_from)=(?:'[^']*'|\S)*/", r"\1=", command)
    code = environment["code"]
    commit = f"{code['commit']}{' with changes' if code['modified'] else ''}"
    weights, earlier = Path(config["init_from"] or ""), []
    if weights.is_file():
        before = weights.absolute().parent.parent
        earlier = _commands(read_config(before), read_json(before / "environment.json"))
    machine = environment["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['torch_threads']} threads"
    known = f"seed {config['seed']}, commit {commit}, torch {environment['packages']['torch']}, {where}"
    return [*earlier, f"`{command}` ({known})"]
