"""Train a model that reads the sum of several handwritten digits off one image.

    python scripts/train.py                         the reference network on the bundled handwriting
    python scripts/train.py experiment=smoke        the same in under a minute, to prove the installation
    python scripts/train.py data=mnist              30,000 images from MNIST digits (data.download=true fetches them)
    python scripts/train.py experiment=reader data=mnist     the network that reads the digits
    python scripts/train.py data=arrays data.root=FOLDER     your own data0.npy, lab0.npy, ...
    python scripts/train.py -m model.lr=1e-3,3e-4 seed=0,1   a sweep: every combination, a job each

Settings, as key=value:
    data=demo|mnist|arrays                 data.batch_size=64  data.num_train=...  data.layout.num_digits=4
    model=two_conv|reader                  model.lr=1e-3  model.schedule=constant|one_cycle|cosine
                                           model.optimizer=adam|muon
                                           two_conv: model.pooling=max|average  model.kernel_size=3
                                           reader: model.num_digits=4|[2,6]|null, digits on an image  model.width=24
    augmentation.KEY=...                   distorts training images: scale shear shift elastic ... final
    trainer=auto|cpu|gpu|mps|ddp           trainer.max_epochs=10, and any other argument of Lightning's Trainer
                                           ddp: trainer.devices=2, several devices, of a process each
    callbacks=default|early_stopping       callbacks.early_stopping.patience=3
    logger=tensorboard|csv|wandb|mlflow|none   wandb and mlflow need the extra of that name
    experiment=NAME                        a file of conf/experiment/ on top of all this; some are sweeps
    hydra/launcher=joblib|slurm            a sweep's jobs side by side (hydra.launcher.n_jobs=2), or on a cluster
    seed=0                                 of weights, dropout and the order of the images
    test=true|false                        evaluate the test set at the end of a single run
    resume=FOLDER|latest                   go on in a run's folder, with the settings that it recorded
    warm_start=none|clusters|auto          for the reader with few images: begin with digits that the sums give away
    init_from=CHECKPOINT|reader            start a new run from these weights, or from those that come with the package
    compile=true                           compile the network with torch.compile: for long runs on a GPU
    save_every_n_steps=N                   write last.ckpt within an epoch, too (or save_every_n_minutes=N)
    debug=true                             show a mistake's traceback

    --cfg job                              print the whole config instead of training
    --hydra-help                           Hydra's own options

A run leaves checkpoints, figures, metrics, history, config and versions in outputs/runs/<time>/, a sweep in
outputs/sweeps/<time>/<job>/. Look at them with: tensorboard --logdir outputs
"""

from digitsum.cli.console import log, print_help_and_exit, report_user_errors, run_script
from digitsum.cli.project import PROJECT

if __name__ == "__main__":
    print_help_and_exit(__doc__)  # before the imports below, which take seconds

import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from digitsum.cli.build import hparams, register
from digitsum.cli.output_dirs import is_rank_zero
from digitsum.cli.overrides import command_line, shell_words
from digitsum.cli.resume_config import recorded_config
from digitsum.cli.train import check_same, make_paths_absolute, run
from digitsum.errors import InputError
from digitsum.files import locked
from digitsum.runs.locate import CONFIG_FILE
from digitsum.training.signals import Interrupted, Signals

register()


@hydra.main(version_base="1.3", config_path=f"{PROJECT}/conf", config_name="train")
@report_user_errors
def main(cfg: DictConfig) -> float | None:
    """Train one model; returns the best validation score, a sweep's objective."""
    command = HydraConfig.get()
    in_sweep = command.mode == RunMode.MULTIRUN
    make_paths_absolute(cfg)
    run_dir = Path(cfg.run_dir)
    if cfg.resume is not None:
        if in_sweep:
            raise InputError("resume: expected a single run, got a sweep; leave -m out")
        cfg = recorded_config(cfg, run_dir, list(command.overrides.task))
    elif in_sweep and (run_dir / CONFIG_FILE).is_file():  # the same sweep, when it was cut short
        check_same(cfg, run_dir)
        cfg.resume = str(run_dir)
    signals = Signals()
    with signals.listening(), locked(run_dir) if is_rank_zero() else nullcontext():
        try:
            return run(cfg, signals, in_sweep=in_sweep, hparams=hparams(cfg, command))
        except Interrupted:
            if in_sweep:
                print("stopped; go on with the same command and", shell_words(**{"hydra.sweep.dir": run_dir.parent}))
            else:
                again = command_line("scripts/train.py", resume=run_dir, outputs_dir=cfg.outputs_dir)
                log.info("stopped; go on with: %s", again)
            raise


def run_quietly() -> None:
    """Run another process than the first, which speaks for all of them; of mistakes, for those on its machine."""
    quiet = os.environ.get("LOCAL_RANK", "0") != "0"
    sys.argv.append("hydra/job_logging=disabled")
    logging.disable(logging.CRITICAL if quiet else logging.INFO)
    try:
        run_script(main, "train")
    except SystemExit as stop:
        raise SystemExit(1 if quiet and isinstance(stop.code, str) else stop.code) from None


if __name__ == "__main__":
    if is_rank_zero():
        run_script(main, "train")
    else:
        run_quietly()
