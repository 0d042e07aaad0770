"""A training as a config describes it: checked, built, run, reported, and gone on with where it was stopped."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from digitsum.cli.auto_settings import AUTO, settle_auto
from digitsum.cli.build import build_parts, build_training
from digitsum.cli.console import log, log_written
from digitsum.cli.output_dirs import from_rank_zero, is_rank_zero
from digitsum.cli.overrides import command_line, shell_quote, to_overrides
from digitsum.data.datamodule import ArraysData, ComposedData
from digitsum.errors import InputError
from digitsum.evaluation.evaluate import metrics_table
from digitsum.figures import tolerate_failure, write_figure
from digitsum.files import require_space, write_json, write_text
from digitsum.metrics import monitor_mode
from digitsum.models.checkpoints import load_model, read_checkpoint, save_safetensors
from digitsum.models.module import SumModule
from digitsum.models.published import find_model
from digitsum.models.reader import Reader
from digitsum.models.registry import NETWORKS
from digitsum.runs.environment import environment
from digitsum.runs.locate import BEST_CHECKPOINT, CONFIG_FILE, LAST_CHECKPOINT, METRICS_FILE, read_config
from digitsum.training.clusters_figure import clusters_figure
from digitsum.training.recompose import Recompose
from digitsum.training.run import SUMMARY_SUFFIX, count_parameters, train
from digitsum.training.signals import Signals
from digitsum.training.warm_start import WARM_STARTS, wants_warm_start, warm_start

_MOST_TIMES = 100  # as often as the easiest glyphs the hardest may be drawn
_SIZE = ("model.width", "model.depth")  # of a reader: if it starts from weights, they are theirs


def run(
    cfg: DictConfig, signals: Signals, *, in_sweep: bool, hparams: dict[str, Any], callbacks: Sequence[L.Callback] = ()
) -> float | None:
    """Train one model as `cfg` says, with `callbacks` beside its own; the test set is left alone in a sweep."""
    if not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed: expected 0 to {2**32 - 1}, got {cfg.seed}")
    if cfg.warm_start not in WARM_STARTS:
        raise InputError(f"warm_start: expected one of {', '.join(WARM_STARTS)}, got {cfg.warm_start!r}")
    run_dir = Path(cfg.run_dir)
    settle_auto(cfg)
    if cfg.resume is not None and is_finished(cfg, run_dir):
        if in_sweep:
            return best_score(run_dir, cfg.monitor)
        print(f"{run_dir} is finished; give it a new end with trainer.max_epochs=N")
        return None
    if cfg.resume is None and cfg.init_from is not None:
        take_size(cfg)
    arguments, datamodule = build_parts(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    callbacks = [*callbacks, *recomposing(cfg, datamodule.data, arguments["network"])]
    trainer = build_training(cfg, signals, in_sweep=in_sweep, callbacks=callbacks)
    from_rank_zero("data", datamodule.prepare_data)
    datamodule.prepare_data()  # on a node whose disk is another
    datamodule.setup()
    module = SumModule(image_size=datamodule.image_size, train_mean=datamodule.train_mean, **arguments)
    ckpt_path = restore(run_dir) if cfg.resume is not None else None
    if cfg.resume is None and cfg.init_from is not None:
        copy_weights(find_model(cfg.init_from), module)
    train_set = datamodule.splits["train"]
    if ckpt_path is None and cfg.init_from is None and wants_warm_start(cfg.warm_start, module, train_set):
        log.info("warm start: looking for the digits that the sums give away, then a few hundred steps on them")
        context = trainer.precision_plugin.forward_context
        labels, summary = warm_start(
            module,
            train_set,
            seed=cfg.seed,
            augmentation=datamodule.augmentation,
            device=trainer.strategy.root_device,
            autocast=context,
        )
        log.info("warm start: %s", summary)
        if labels is not None and is_rank_zero():
            with tolerate_failure("clusters.png"):
                write_figure(run_dir / "clusters.png", clusters_figure(labels.means, labels.probs, labels.sizes))

    if cfg.compile:
        module.net.compile()
    if is_rank_zero():
        write_text(run_dir / CONFIG_FILE, yaml.safe_dump(OmegaConf.to_container(cfg, resolve=True), sort_keys=False))
        write_json(run_dir / "environment.json", environment())
        # best, last and the one being written: weights and Adam's two means, in float32
        require_space(run_dir, 3 * 12 * count_parameters(module) + 2**24, "checkpoints")
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in datamodule.splits.items())
    log.info("data: %s images of %dx%d", sizes, *datamodule.image_size)
    log.info("model: %s, %s parameters", arguments["network"], f"{count_parameters(module):,}")
    devices = trainer.num_devices * trainer.num_nodes
    log.info("device: %s, %d in all; precision: %s", trainer.strategy.root_device, devices, trainer.precision)
    log.info("results go to %s", run_dir)

    test = cfg.test and not in_sweep
    try:
        score, results = train(trainer, module, datamodule, run_dir, test=test, hparams=hparams, ckpt_path=ckpt_path)
    except torch._dynamo.exc.TorchDynamoException as error:  # no compiler on this machine, say
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"compile: the network cannot be compiled here ({reason}); leave compile=true out") from error
    if not is_rank_zero():
        return None
    if cfg.safetensors:
        save_safetensors(module, run_dir / "best.safetensors")

    log.info("\nBest checkpoint, last epoch and the mean baseline (%.2f), in evaluation mode:", module.train_mean)
    log.info("%s\n", metrics_table(results))
    log_written(run_dir)
    log.info("\nnext:")
    if score is not None:
        predict = {"ckpt_path": run_dir / BEST_CHECKPOINT, "outputs_dir": cfg.outputs_dir}
        log.info("  %s", command_line("scripts/predict.py", **predict))
    log.info("  tensorboard --logdir %s", shell_quote(str(Path(cfg.outputs_dir).absolute())))
    return score


def recomposing(cfg: DictConfig, data: ArraysData | ComposedData, network: str) -> list[L.Callback]:
    """The callback that composes training images anew, if the config asks for any."""
    share, times = cfg.recompose, cfg.hard_glyphs
    if not 1 <= times <= _MOST_TIMES:
        raise InputError(f"hard_glyphs: expected 1 to {_MOST_TIMES} times, got {times}")
    if not 0 <= share <= 1:
        raise InputError(f"recompose: expected a share in [0, 1], got {share}")
    if not share:
        if times > 1:
            log.info("hard_glyphs=%g: without effect, nothing is composed anew (recompose=0)", times)
        return []
    if not NETWORKS[network][0].predicts_digits:
        raise InputError(f"recompose: expected a network that reads digits, got {network}; set recompose=0")
    overlap = data.layout.overlap if isinstance(data, ComposedData) else "mixed"
    return [Recompose(share, overlap, times, lambda line: log.info("\n%s", line))]  # behind a bar's line


def make_paths_absolute(cfg: DictConfig) -> None:
    """Let a run's record name its data from wherever it is read."""
    for key in ("root", "mnist_root", "glyph_images", "glyph_labels"):
        if cfg.data.get(key) is not None and not OmegaConf.is_missing(cfg.data, key):
            cfg.data[key] = str(Path(cfg.data[key]).absolute())


def check_same(cfg: DictConfig, run_dir: Path) -> None:
    """A job's folder must be of the same job when a sweep is given again."""
    recorded: dict[Any, Any] = read_config(run_dir)
    given: Any = OmegaConf.to_container(cfg, resolve=True)
    taken = _SIZE if cfg.init_from is not None else ()
    for name in (*AUTO, *taken):
        group, key = name.split(".")
        if given[group].get(key) == "auto" or (name in taken and key in given[group]):
            # what it was, on whatever machine
            cfg[group][key] = given[group][key] = recorded[group][key]
    for key in given.keys() - {"resume", "debug"}:
        if recorded.get(key) != given[key]:
            advice = "give the command of that sweep, or leave hydra.sweep.dir out"
            raise InputError(f"{run_dir}: expected a job of this sweep, found one with another {key}; {advice}")


def best_score(run_dir: Path, monitor: str) -> float | None:
    """The best value of a finished run's monitored metric."""
    with (run_dir / "history.csv").open(encoding="utf-8", newline="") as file:
        values = [float(row[monitor]) for row in csv.DictReader(file) if row.get(monitor)]
    return (min if monitor_mode(monitor) == "min" else max)(values, default=None)


def is_finished(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether a run to resume has reached the end that `cfg` gives it."""
    planned = read_config(run_dir)["trainer"].get("max_epochs")
    if cfg.trainer.max_epochs != planned and cfg.model.schedule != "constant":
        planned_as = f"model.schedule={cfg.model.schedule} was laid out for {planned} epochs"
        raise InputError(f"trainer.max_epochs: {planned_as}; start a new run with init_from=CHECKPOINT")
    return (run_dir / METRICS_FILE).is_file() and cfg.trainer.max_epochs == planned


def restore(run_dir: Path) -> Path | None:
    """Bring a run's folder to the moment of its last checkpoint; returns that, or None where there is none yet."""
    path = run_dir / LAST_CHECKPOINT
    found = path.is_file()
    if found:
        checkpoint = read_checkpoint(path)
        if not {"global_step", "loops", "optimizer_states", "callbacks"} <= checkpoint.keys():
            raise InputError(f"{path}: expected a checkpoint to resume from, found weights alone; use init_from")
        log.info("resuming after step %d", int(checkpoint["global_step"]))
    else:
        log.info("no checkpoint yet: from the beginning")
    if is_rank_zero():
        for file in (run_dir / METRICS_FILE, *run_dir.rglob(f"events*{SUMMARY_SUFFIX}")):  # not finished any more
            file.unlink(missing_ok=True)
    return path if found else None


def take_size(cfg: DictConfig) -> None:
    """Give a reader the size of the reader's weights that it starts from, of which there are several."""
    net = load_model(cfg.init_from).net if cfg.model.network == "reader" else None
    if isinstance(net, Reader):
        size = {key: getattr(net.settings, key.removeprefix("model.")) for key in _SIZE}
        for key, value in size.items():
            OmegaConf.update(cfg, key, value)
        log.info("init_from: weights of %s", " ".join(to_overrides(size)))


def copy_weights(path: Path, module: SumModule) -> None:
    """Start `module` from the weights of a checkpoint of the same network."""
    try:
        module.load_state_dict(read_checkpoint(path)["state_dict"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = "do not fit this network and image size; give the options that it was trained with"
        raise InputError(f"init_from: the weights of {path} {reason}") from error
