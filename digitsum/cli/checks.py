"""What a training config may not say, found before anything is trained."""

from omegaconf import DictConfig

from digitsum.errors import InputError
from digitsum.metrics import monitor_mode


def settle_monitor(name: str, node: DictConfig, monitor: str) -> DictConfig:
    """A callback's config with the direction in which its metric gets better, and with names for what it keeps.

    An InputError says that what it monitors is not measured, or cannot be meant.
    """
    if "monitor" not in node:
        return node
    node, key = node.copy(), f"callbacks.{name}"
    mode = monitor_mode(node.monitor, "monitor" if node.monitor == monitor else f"{key}.monitor")
    if node.get("mode") not in (None, mode):
        why = f"as {'less' if mode == 'min' else 'more'} of {node.monitor} is better"
        raise InputError(f"{key}.mode: expected {mode}, {why}, got {node.mode}; leave it out")
    node.mode = mode
    if "save_top_k" in node:
        if node.monitor != monitor:
            raise InputError(f"{key}.monitor: expected {monitor}, as a run has it, got {node.monitor}; set monitor")
        if node.save_top_k < -1 or node.save_top_k == 0:
            raise InputError(f"{key}.save_top_k: expected 1 or more, or -1 for all epochs, got {node.save_top_k}")
        if node.filename is None:
            node.filename = "best" if node.save_top_k == 1 else "epoch_{epoch:03d}"
    elif not node.monitor.startswith("val/"):
        raise InputError(f"{key}.monitor: expected a metric of the validation set, got {node.monitor}")
    return node


def check_trainer(cfg: DictConfig) -> None:
    """Refuse, before anything is trained, Trainer arguments with which a run would leave no whole record."""
    trainer = cfg.trainer
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    train_batches, val_batches = trainer.limit_train_batches, trainer.limit_val_batches
    no_record = "false, because a run records what it does"
    for name, is_refused, expected in (
        ("strategy", trainer.strategy not in ("auto", "ddp"), "auto or ddp"),
        ("barebones", trainer.barebones, no_record),
        ("enable_autolog_hparams", trainer.enable_autolog_hparams, no_record),
        ("enable_checkpointing", trainer.enable_checkpointing is False, "true, because a run keeps its best weights"),
        ("reload_dataloaders_every_n_epochs", trainer.reload_dataloaders_every_n_epochs, "0, as data never change"),
        ("limit_train_batches", train_batches is not None and train_batches <= 0, "more than 0, because a run trains"),
        ("limit_val_batches", val_batches is not None and val_batches <= 0, "more than 0, because a run validates"),
        ("max_epochs", epochs == 0, "1 or more, or -1 for no limit"),
        ("max_steps", trainer.max_steps == 0, "1 or more, or -1 for no limit"),
        (
            "check_val_every_n_epoch",
            every is not None and epochs is not None and 0 < epochs < every,
            f"at most trainer.max_epochs={epochs}, so that an epoch is validated",
        ),
    ):
        if is_refused:
            raise InputError(f"trainer.{name}: expected {expected}, got {trainer[name]}; leave it out")
