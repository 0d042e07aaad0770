"""Settings that say `auto`: they follow the number of training images."""

from pathlib import Path

from omegaconf import DictConfig

from digitsum.cli.console import log
from digitsum.data.shards import open_splits
from digitsum.errors import InputError
from digitsum.training.budget import budget_for, validation_interval

AUTO = ("trainer.precision", "data.batch_size", "trainer.max_epochs", "trainer.check_val_every_n_epoch")
"""What may say `auto`: these, the precision, which follows the processor, and `warm_start`, which follows both."""


def settle_auto(cfg: DictConfig) -> None:
    """Put the values found here into a run's config, so that they stay the same wherever the run goes on.

    Raises:
        InputError: a number of epochs that is none; see `open_splits` for data of the user's own.
    """
    trainer, data = cfg.trainer, cfg.data
    if "auto" in (data.batch_size, trainer.max_epochs):
        count = data.num_train if "num_train" in data else len(open_splits(Path(data.root), data.split_seed)["train"])
        budget = budget_for(max(1, count), fine_tuning=cfg.init_from is not None)
        for node, key, value in (
            (data, "batch_size", budget.batch_size),
            (trainer, "max_epochs", budget.max_epochs),
        ):
            if node[key] == "auto":
                node[key] = value
        log.info("%s training images: batches of %s, %s epochs", f"{count:,}", data.batch_size, trainer.max_epochs)
    for key in ("max_epochs", "check_val_every_n_epoch"):
        if trainer[key] is not None and type(trainer[key]) is not int and trainer[key] != "auto":
            raise InputError(f"trainer.{key}: expected a whole number or auto, got {trainer[key]!r}")
    if trainer.check_val_every_n_epoch == "auto":
        trainer.check_val_every_n_epoch = validation_interval(trainer.max_epochs or -1)
