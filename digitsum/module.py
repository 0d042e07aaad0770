"""The LightningModule: stages, logging and optimiser, written once for every network."""

from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torchmetrics import MeanMetric, Metric

from digitsum.answers import Answers
from digitsum.batches import Batch
from digitsum.errors import InputError
from digitsum.metrics import sum_metrics
from digitsum.networks import build_network

SCHEDULES = ("constant", "one_cycle", "cosine")


@dataclass
class OptimizerSettings:
    """Adam and its schedule; the defaults are Keras's, which the reference leaves untouched.

    Attributes:
        lr: learning rate; the highest one where a schedule changes it.
        beta1: decay of the running mean of the gradient.
        beta2: decay of the running mean of its square.
        epsilon: added to the root of that square.
        weight_decay: decoupled, as in AdamW; 0 is Adam.
        schedule: of the learning rate over the whole run: `constant`, `one_cycle` (up, then down to nothing) or
            `cosine` (down to nothing).
        warmup: share of the run over which `one_cycle` goes up.

    Raises:
        InputError: a value out of range.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise InputError(f"model.lr: expected a positive number, got {self.lr}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name}: expected a number in [0, 1), got {getattr(self, name)}")
        for name in ("epsilon", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"model.{name}: expected 0 or more, got {getattr(self, name)}")
        if not 0 < self.warmup < 1:
            raise InputError(f"model.warmup: expected a share in (0, 1), got {self.warmup}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"model.schedule: expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


class SumModule(L.LightningModule):
    """Trains and applies a network that reads sums off images.

    Offers `train/loss`, `train/mae`, ... and the same for `val` and `test` once an epoch as Lightning's metrics;
    `digitsum.callbacks.History` writes them to the logger.

    Args:
        network: short name of the network, a key of `digitsum.networks.NETWORKS`.
        image_size: `(H, W)` of the images.
        options: the network's options, plain values.
        optimizer: fields of `OptimizerSettings`.
        train_mean: the mean of the training sums: the constant answer that stands beside every figure.

    Raises:
        InputError: an unknown network, or a value that it or the optimiser refuses.
    """

    def __init__(
        self,
        network: str,
        image_size: tuple[int, int],
        options: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        train_mean: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size = (image_size[0], image_size[1])
        self.train_mean = train_mean
        self.optimizer_settings = OptimizerSettings(**(optimizer or {}))
        self.net = build_network(network, self.image_size, options or {})
        # plain values alone: a checkpoint is loaded with weights_only=True
        self.save_hyperparameters(
            {
                "network": network,
                "image_size": list(self.image_size),
                "options": dict(options or {}),
                "optimizer": asdict(self.optimizer_settings),
                "train_mean": train_mean,
            },
            logger=False,
        )
        metrics = sum_metrics()
        self.train_loss = MeanMetric()
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Read sums off images.

        Args:
            images: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].

        Returns:
            `(N,)` float, the best single answers, as real numbers.
        """
        return self.net.estimate(self.net(images))

    def answer(self, images: torch.Tensor) -> Answers:
        """All that the network says of images `(N, H, W)`; see `forward`."""
        return self.net.answer(self.net(images))

    def on_fit_start(self) -> None:
        """Take fresh metric states: those that an earlier `trainer.validate` left cannot be updated outside of it."""
        for metrics in (self.train_loss, self.train_metrics, self.val_metrics):
            metrics.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One batch: loss and metrics as they are while learning, with dropout on."""
        output = self.net(batch["images"])
        loss = self.net.loss(output, batch["sums"])
        count = len(batch["sums"])
        self._check_finite(loss, batch_idx)
        self.train_loss.update(loss.detach(), weight=count)
        self.train_metrics.update(self.net.estimate(output.detach()), batch["sums"])
        self.log_dict(self.running_metrics, on_step=False, on_epoch=True, logger=False, batch_size=count)
        self.log("loss", loss, prog_bar=True, logger=False, batch_size=count)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One batch of the validation set; returns the answers `(B,)`."""
        return self._evaluation_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One batch of the test set; returns the answers `(B,)`."""
        return self._evaluation_step("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Answers:
        """One batch of any images, with or without sums; returns all that the network says of them."""
        return self.answer(batch["images"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, fused into one kernel, with the schedule stepped after each batch."""
        settings = self.optimizer_settings
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.schedule == "constant":
            return optimizer
        if self.trainer.estimated_stepping_batches == float("inf"):
            raise InputError(
                f"trainer.max_epochs: model.schedule={settings.schedule} needs an end, got {self.trainer.max_epochs}"
            )
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler: torch.optim.lr_scheduler.LRScheduler
        if settings.schedule == "one_cycle":
            # a rise of exactly one step makes torch divide by zero
            warmup = settings.warmup * (1.001 if settings.warmup * steps == 1 else 1)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, settings.lr, total_steps=steps, pct_start=warmup, cycle_momentum=False
            )
        else:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _evaluation_step(self, stage: str, batch: Batch) -> torch.Tensor:
        metrics = self.val_metrics if stage == "val" else self.test_metrics
        output = self.net(batch["images"])
        preds = self.net.estimate(output)
        count = len(batch["sums"])
        metrics.update(preds, batch["sums"])
        loss = self.net.loss(output, batch["sums"])
        # within a fit, History writes to the logger; trainer.validate and trainer.test do it themselves
        logger = self.trainer.state.fn != TrainerFn.FITTING
        self.log(f"{stage}/loss", loss, on_epoch=True, logger=logger, batch_size=count)
        for name, metric in metrics.items():
            self.log(name, metric, on_epoch=True, logger=logger, prog_bar=name == "val/mae", batch_size=count)
        return preds

    @property
    def running_metrics(self) -> dict[str, Metric]:
        """What is summed up over a training epoch, by the names that it is logged under."""
        return {"train/loss": self.train_loss, **dict(self.train_metrics.items())}

    def _check_finite(self, loss: torch.Tensor, batch_idx: int) -> None:
        """Stop at a loss that is no number; on a GPU a look is dear, so there only where a line is logged anyway."""
        trainer = self.trainer
        if self.device.type != "cpu" and batch_idx % (trainer.log_every_n_steps or 50):  # type: ignore[attr-defined]
            return
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}); the "
                "last good checkpoint, if an epoch was finished, is checkpoints/last.ckpt; likely causes: model.lr too "
                "high, half precision, damaged images, or sums that model.num_digits rules out; try a lower model.lr "
                "or trainer.gradient_clip_val=1"
            )
