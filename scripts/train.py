"""Train a model that reads the sum of several handwritten digits off one image.

    python scripts/train.py                         the reference network on the bundled handwriting
    python scripts/train.py experiment=smoke        the same in under a minute, to prove the installation
    python scripts/train.py data=mnist              30,000 images from MNIST digits (data.download=true fetches them)
    python scripts/train.py data=arrays data.root=FOLDER     your own data0.npy, lab0.npy, ...
    python scripts/train.py -m model.lr=1e-3,3e-4 seed=0,1   a sweep: every combination, a job each

Settings, as key=value:
    data=demo|mnist|arrays                 data.batch_size=64  data.num_train=...  data.layout.num_digits=4
    model=two_conv                         model.lr=1e-3  model.schedule=constant|one_cycle|cosine
                                           model.pooling=max|average  model.kernel_size=3  model.dense_dropout=0.5
    trainer=auto|cpu|gpu|mps               trainer.max_epochs=10, and any other argument of Lightning's Trainer
    callbacks=default|early_stopping       callbacks.early_stopping.patience=3
    logger=tensorboard|csv|none
    experiment=NAME                        a file of conf/experiment/ on top of all this
    seed=0                                 of weights, dropout and the order of the images
    test=true|false                        evaluate the test set at the end of a single run
    debug=true                             show a mistake's traceback

    --cfg job                              print the whole config instead of training
    --hydra-help                           Hydra's own options

A run leaves checkpoints, figures, metrics, history, config and versions in outputs/runs/<time>/, a sweep in
outputs/sweeps/<time>/<job>/. Look at them with: tensorboard --logdir outputs
"""

from console import PROJECT, answer_help, log, log_written, reports_mistakes, run_script

if __name__ == "__main__":
    answer_help(__doc__)  # before the imports below, which take seconds

from pathlib import Path
from typing import Any

import hydra
import lightning as L
import yaml
from build import build_datamodule, build_module, build_training, hparams, model_arguments, register
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from digitsum.errors import InputError
from digitsum.evaluation import metrics_table
from digitsum.files import write_json, write_text
from digitsum.records import environment
from digitsum.training import count_parameters, train

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="train")
@reports_mistakes
def main(cfg: DictConfig) -> float | None:
    """Train one model; returns the best validation score, a sweep's objective."""
    command = HydraConfig.get()
    return run(cfg, in_sweep=command.mode == RunMode.MULTIRUN, hparams=hparams(cfg, command))


def run(cfg: DictConfig, *, in_sweep: bool, hparams: dict[str, Any]) -> float | None:
    """Train one model as `cfg` says; the test set is left alone in a sweep."""
    if not 0 <= cfg.seed < 2**32:
        raise InputError(f"seed: expected 0 to {2**32 - 1}, got {cfg.seed}")
    run_dir = Path(cfg.run_dir)
    arguments = model_arguments(cfg)
    datamodule = build_datamodule(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = build_training(cfg, in_sweep=in_sweep)
    datamodule.prepare_data()
    datamodule.setup()
    module = build_module(arguments, datamodule)

    write_text(run_dir / "config.yaml", yaml.safe_dump(OmegaConf.to_container(cfg, resolve=True), sort_keys=False))
    write_json(run_dir / "environment.json", environment(Path(PROJECT)))
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in datamodule.splits.items())
    height, width = datamodule.image_size
    log.info("data: %s images of %dx%d", sizes, height, width)
    log.info("model: %s, %s parameters", arguments["network"], f"{count_parameters(module):,}")
    log.info("device: %s", trainer.strategy.root_device)
    log.info("results go to %s", run_dir)

    score, results = train(trainer, module, datamodule, run_dir, test=cfg.test and not in_sweep, hparams=hparams)

    log.info("\nBest checkpoint, last epoch and the constant answer (%.2f), in evaluation mode:", module.train_mean)
    log.info("%s\n", metrics_table(results))
    log_written(run_dir)
    log.info("\nnext:")
    if score is not None:
        log.info("  python scripts/predict.py ckpt_path='%s'", run_dir / "checkpoints" / "best.ckpt")
    log.info("  tensorboard --logdir '%s'", cfg.outputs_dir)
    return score


if __name__ == "__main__":
    run_script(main)
