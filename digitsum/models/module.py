"""The LightningModule: stages, logging and optimiser, written once for every network."""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from digitsum.data.batches import Batch
from digitsum.data.pixels import checked_images
from digitsum.errors import InputError, check
from digitsum.metrics import StageMetrics
from digitsum.models.base import NetworkSettings, Prediction
from digitsum.models.muon import Muon
from digitsum.models.reading import Reading, read_with
from digitsum.models.registry import NETWORKS, network_settings

OPTIMIZERS = ("adam", "muon")

SCHEDULES = ("constant", "one_cycle", "cosine")


@dataclass
class OptimizerSettings:
    """Adam and its schedule; the defaults are Keras's, which the reference leaves untouched."""

    optimizer: str = "adam"  # or `muon`, for the weights of convolutions (see `digitsum.models.muon`)
    lr: float = 1e-3  # the highest learning rate where a schedule changes it
    beta1: float = 0.9  # decay of the running mean of the gradient
    beta2: float = 0.999  # decay of the running mean of its square
    epsilon: float = 1e-7  # added to the root of that square
    weight_decay: float = 0.0  # decoupled, as in AdamW; 0 is Adam
    schedule: str = "constant"  # over the whole run, or `one_cycle`: up, then down to nothing; or `cosine`: down to it
    warmup: float = 0.3  # share of the run over which `one_cycle` goes up

    def __post_init__(self) -> None:
        check("model.lr", self.lr, 0 < self.lr < float("inf"), "a positive number")
        for name in ("beta1", "beta2"):
            check(f"model.{name}", getattr(self, name), 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name in ("epsilon", "weight_decay"):
            check(f"model.{name}", getattr(self, name), 0 <= getattr(self, name) < float("inf"), "0 or more")
        check("model.optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        check("model.warmup", self.warmup, 0 < self.warmup < 1, "a share in (0, 1)")
        check("model.schedule", self.schedule, self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")


class SumModule(L.LightningModule):
    """Trains and applies a network that reads sums off images.

    Once an epoch it logs `train/loss`, `train/mae`, ... and the same for `val`: to the logger, and as Lightning's
    metrics for whatever monitors one.

    Args:
        network: a key of `digitsum.models.registry.NETWORKS`.
        image_size: `(H, W)` of the images.
        settings: the network's own.
        optimizer: the optimiser's.
        train_mean: the mean of the training sums: the mean baseline that stands beside every figure.
    """

    def __init__(
        self,
        network: str,
        image_size: tuple[int, int],
        settings: NetworkSettings | None = None,
        optimizer: OptimizerSettings | None = None,
        train_mean: float = 0.0,
    ) -> None:
        super().__init__()
        settings, optimizer = settings or network_settings(network, {}), optimizer or OptimizerSettings()
        self.image_size = (image_size[0], image_size[1])
        self.train_mean = train_mean
        self.optimizer_settings = optimizer
        self.net = NETWORKS[network][0](self.image_size, settings)
        # plain values only: a checkpoint is loaded with weights_only=True
        self.save_hyperparameters(
            {
                "network": network,
                "image_size": list(self.image_size),
                "options": asdict(settings),
                "optimizer": asdict(optimizer),
                "train_mean": train_mean,
            },
            logger=False,
        )
        self.last_loss: torch.Tensor | None = None
        self.train_metrics = StageMetrics("train")
        self.val_metrics = StageMetrics("val")
        self.epoch_metrics: dict[str, float] = {}  # of the last validation and, once the epoch has ended, its training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Read sums `(N,)`, the best single estimates as real numbers, off images `(N, H, W)`.

        Raises:
            InputError: they are not those that the network was made for; see `digitsum.data.pixels.checked_images`.
        """
        images = checked_images(images, self.image_size, variable_width=self.net.variable_width)
        return self.net.estimate(self.net(images.to(self.device)))

    def predict(self, images: torch.Tensor) -> Prediction:
        """All that the network says of images `(N, H, W)`, of none as well; see `forward`."""
        if not len(images):  # a process's part of the last batch
            return Prediction(torch.empty(0, device=images.device))
        return self.net.predict(self.net(images))

    def read(
        self, x: Any, *, num_digits: Any = "trained", tta: int = 1, prepare: str = "auto", batch_size: int = 64
    ) -> list[Reading]:
        """Read sums and digits off images or pictures, as plain values; several threads may read at once.

        Args:
            x: the path of a picture or of a folder of them, or a PIL image; a list of such paths and images; or an
                array or tensor `(H, W)` or `(N, H, W)`, uint8 or float in [0, 1], as `forward` takes it.
            num_digits: how many digits the images hold, for a model that reads them: a number, a range `(min, max)`,
                or None for any; as it is set, which is as it was trained, unless told otherwise.
            tta: for such a model: over how many copies of an image to average, 1 to 6.
            prepare: of pictures: `auto` brings paper, rules, rows and sizes to what the model knows, `none` scales them
                as they are.
            batch_size: images at once.

        Returns:
            A reading for each image, or for each row of digits of each picture, in their order; of no images none.

        Raises:
            InputError: a picture that cannot be read, images as `forward` refuses them, an option out of range or that
                the network does not have, a model that is being trained.

        Example:
            >>> module = SumModule("reader", (40, 168)).eval()
            >>> readings = module.read(torch.zeros(2, 40, 168), tta=2)
            >>> [(reading.index, type(reading.sum), reading.file) for reading in readings]
            [(0, <class 'int'>, None), (1, <class 'int'>, None)]
        """
        if self.training:
            raise InputError("read: expected a model in evaluation mode, got one in training; call model.eval()")
        net = copy.copy(self.net)  # its weights are shared, how it decodes is this call's own
        if num_digits != "trained":
            net.set_decoding(num_digits=list(num_digits) if isinstance(num_digits, tuple) else num_digits)
        if tta != 1:
            net.set_decoding(tta=tta)
        return read_with(
            lambda images: net.predict(net(images.to(self.device))),
            x,
            self.image_size,
            variable_width=net.variable_width,
            prepare=prepare,
            batch_size=batch_size,
        )

    def on_fit_start(self) -> None:
        """Let each process draw its own dropout: until now their seeds were equal, so that their weights are."""
        for stage_metrics in (self.train_metrics, self.val_metrics):
            stage_metrics.reset()  # the states that an earlier `trainer.validate` left cannot be updated outside of it
        if self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One batch: its loss, and its metrics as they are while learning."""
        if len(batch["sums"]):
            output = self.net(batch["images"])
            known = {"digits": batch["digits"]} if "digits" in batch else {}
            loss = self.net.loss(output, batch["sums"], **known)
            self.train_metrics.update(loss, self.net.estimate(output.detach()), batch["sums"])
            self.last_loss = loss.detach()  # for a progress bar; to log it costs more than all else around a step
        else:  # there is nothing to learn for this process, but the others wait for its gradient
            loss = 0 * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        self._check_finite(loss, batch_idx)
        return loss * batch.get("loss_weight", 1)

    def on_train_epoch_start(self) -> None:
        """The last validation was another epoch's; this one may end before its own, at `max_steps` say."""
        self.epoch_metrics = {}

    def on_train_epoch_end(self) -> None:
        """Log the epoch, before its checkpoint; Lightning's own way to the logger comes after that."""
        self._log_stage(self.train_metrics)
        if self.logger is not None:
            self.logger.log_metrics(self.epoch_metrics, step=self.global_step)

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """One batch of the validation set; returns the estimates `(B,)`."""
        if not len(batch["sums"]):  # this process's part of the last batch
            return torch.empty(0, device=self.device)
        output = self.net(batch["images"])
        preds = self.net.estimate(output).float()
        self.val_metrics.update(self.net.loss(output, batch["sums"]), preds, batch["sums"])
        return preds

    def on_validation_epoch_end(self) -> None:
        """Keep the validation's metrics for the epoch's end, and offer them to whatever monitors one."""
        self._log_stage(self.val_metrics)

    def make_optimizer(self) -> torch.optim.AdamW:
        """Adam, or Muon, with the module's settings, fused into one kernel.

        With a trainer that trains in bfloat16, Muon multiplies its matrices in it.
        """
        settings = self.optimizer_settings
        options: dict[str, Any] = {
            "lr": settings.lr,
            "betas": (settings.beta1, settings.beta2),
            "eps": settings.epsilon,
            "weight_decay": settings.weight_decay,
            "fused": True,
        }
        if settings.optimizer == "muon":
            half = self._trainer is not None and self._trainer.precision.startswith("bf16")
            return Muon(self.parameters(), dtype=torch.bfloat16 if half else torch.float32, **options)
        return torch.optim.AdamW(self.parameters(), **options)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, with the schedule stepped after each batch."""
        settings, optimizer = self.optimizer_settings, self.make_optimizer()
        if settings.schedule == "constant":
            return optimizer
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        if not isinstance(steps, int):  # infinite
            raise InputError(f"trainer.max_epochs: model.schedule={settings.schedule} needs an end, got {epochs}")
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

    def _log_stage(self, stage_metrics: StageMetrics) -> None:
        metrics = stage_metrics.compute()
        stage_metrics.reset()
        for name, value in metrics.items():
            self.log(name, value, logger=False, prog_bar=name == "val/mae", sync_dist=True)
        self.epoch_metrics |= {name: value.item() for name, value in metrics.items()}

    def may_sync_device(self, count: int) -> bool:
        """Whether the host may wait for the device after so many batches or steps: on a GPU only once in a while."""
        every = self.trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        return self.device.type == "cpu" or count % every == 0

    def _check_finite(self, loss: torch.Tensor, batch_idx: int) -> None:
        """Stop, all processes at once, at a loss that is no number."""
        if not self.may_sync_device(batch_idx):
            return
        total = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="sum")
        if not torch.isfinite(total):
            raise InputError(
                f"the loss is {total.item()} at step {self.global_step} (epoch {self.current_epoch + 1}); the last "
                "good checkpoint, if an epoch was finished, is checkpoints/last.ckpt; likely causes: model.lr too "
                "high, half precision, damaged images, or sums that model.num_digits rules out; try a lower model.lr "
                "or trainer.gradient_clip_val=1"
            )
