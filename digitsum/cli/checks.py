"""What a training config may not say, found before anything is trained."""

from omegaconf import DictConfig

from digitsum.errors import InputError
from digitsum.metrics import monitor_mode


def settle_monitor(name: str, node: DictConfig, monitor: str) -> DictConfig:
    """A callback's config with the direction in which its metric gets better, and with names for what it keeps.

    Raises:
        InputError: what it monitors is not measured, or cannot be meant.
    """
    if "monitor" not in node:
        return node
    node, key = node.copy(), f"callbacks.{name}"
    mode = monitor_mode(node.monitor, "monitor" if node.monitor == monitor else f"{key}.monitor")
    if node.get("mode") not in (None, mode):
        better = "less of" if mode == "min" else "more of"
        raise InputError(
            f"{key}.mode: expected {mode}, as {better} {node.monitor} is better, got {node.mode}; leave it out"
        )
    node.mode = mode
    if "save_top_k" in node:
        if node.monitor != monitor:
            raise InputError(
                f"{key}.monitor: expected {monitor}, as a run has it, got {node.monitor}; set monitor instead"
            )
        if node.save_top_k < -1 or node.save_top_k == 0:
            raise InputError(f"{key}.save_top_k: expected 1 or more, or -1 for all epochs, got {node.save_top_k}")
        if node.filename is None:
            node.filename = "best" if node.save_top_k == 1 else "epoch_{epoch:03d}"
    elif not node.monitor.startswith("val/"):
        raise InputError(f"{key}.monitor: expected a metric of the validation set, got {node.monitor}")
    return node


def check_trainer(cfg: DictConfig) -> None:
    """Refuse, before anything is trained, Trainer arguments with which a run would leave no whole record.

    Raises:
        InputError: one of them, with what to do.
    """
    trainer = cfg.trainer
    if trainer.strategy not in ("auto", "ddp"):
        raise InputError(f"trainer.strategy: expected auto or ddp, got {trainer.strategy}")
    for name in ("barebones", "enable_autolog_hparams"):
        if trainer[name]:
            raise InputError(f"trainer.{name}: expected false, because a run records what it does; leave it out")
    if trainer.enable_checkpointing is False:
        raise InputError(
            "trainer.enable_checkpointing: expected true, because a run keeps its best weights; leave it out"
        )
    if trainer.reload_dataloaders_every_n_epochs:
        raise InputError("trainer.reload_dataloaders_every_n_epochs: expected 0, because the data stay as they are")
    for name in ("limit_train_batches", "limit_val_batches"):
        if trainer[name] is not None and trainer[name] <= 0:
            raise InputError(f"trainer.{name}: expected more than 0, got {trainer[name]}; a run trains and validates")
    for name in ("max_epochs", "max_steps"):
        if trainer[name] == 0:
            raise InputError(f"trainer.{name}: expected 1 or more, or -1 for no limit, got 0")
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and epochs is not None and 0 < epochs < every:
        raise InputError(
            f"trainer.check_val_every_n_epoch: expected at most trainer.max_epochs={epochs}, got {every}; no epoch "
            "would be validated"
        )
