"""Recomposed training: while a reader learns, it reads its training images and learns from canvases made of them."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from digitsum.data.batches import Batches
from digitsum.data.recomposition import Recomposition
from digitsum.models.base import probability_of
from digitsum.models.module import SumModule

_READ_AT = (1 / 8, 1 / 2)
"""When it reads, as shares of the epochs: early for the most of it, and once more when it reads better."""

_BATCH = 64
_GLYPH_READINGS = 2  # turned otherwise each time: once is chance


class Recompose(L.Callback):
    """Lets the data module compose a share of its training images anew (see `digitsum.data.recomposition`).

    An image counts as read if the most probable sum is its own; the digits are those that add up to it. What was read
    belongs to the checkpoint, so that a run goes on from it bit for bit.

    Args:
        share: of the training images that fall apart into digits, in [0, 1].
        overlap: what becomes of ink on ink, one of `digitsum.data.recomposition.BLENDS`.
        hard_glyphs: how often the hardest glyphs are drawn, in times of the easiest, 1 or more; 1: all alike. The
            reader says which they are after it has read the images.
        report: called with a line for the user before and after the images are read.
    """

    def __init__(self, share: float, overlap: str, hard_glyphs: float, report: Callable[[str], None]) -> None:
        self.share = share
        self.overlap = overlap
        self.hard_glyphs = hard_glyphs
        self._report = report
        self._digits: torch.Tensor | None = None  # (N, D) int8, -1 where nothing was read
        self._glyph_probs: torch.Tensor | None = None  # (G,) of the glyphs' digits, where some are harder than others

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Read, if it is time to."""
        epochs = trainer.max_epochs or 0
        if trainer.current_epoch in [max(1, round(share * epochs)) for share in _READ_AT]:
            self._report("recompose: reading the training images")
            digits = read_digits(trainer, pl_module)
            self._digits = trainer.strategy.broadcast(digits)  # batch norm's means differ between processes
            self._glyph_probs = None
            self._compose(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Go on with what was read before a run was stopped."""
        if self._digits is not None:
            self._compose(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What was read belongs to the checkpoint."""
        return {"digits": self._digits, "glyph_probs": self._glyph_probs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint's run had read."""
        self._digits, self._glyph_probs = state_dict["digits"], state_dict.get("glyph_probs")

    def _compose(self, trainer: L.Trainer, module: SumModule) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert self._digits is not None
        made = Recomposition(datamodule.splits["train"], self._digits, self.overlap)
        made.to(trainer.strategy.root_device)
        if self.hard_glyphs > 1 and made.num_glyphs:
            # another library may cut other glyphs than that with which a checkpoint was made
            if self._glyph_probs is None or len(self._glyph_probs) != made.num_drawn:
                self._report("recompose: reading the glyphs by themselves")
                self._glyph_probs = trainer.strategy.broadcast(read_glyphs(trainer, module, made))
            made.prefer_hard(self._glyph_probs, self.hard_glyphs)
        datamodule.recompose(made, self.share)
        if made.num_glyphs:
            line = f"from {made.num_glyphs:,} glyphs of {made.num_canvases:,} canvases that fall apart as they are read"
            self._report(f"recompose: {line}")
        else:
            self._report("recompose: too few canvases fall apart as they are read: training without it")


@torch.no_grad()
def read_digits(trainer: L.Trainer, module: SumModule) -> torch.Tensor:
    """The digits `(N, D)` int8 of the training images, from left to right, -1 behind the last one.

    An image whose most probable sum is not its own has none.
    """
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    train = datamodule.splits["train"]
    module.eval()
    found = []
    for batch in Batches(train, _BATCH):
        with trainer.precision_plugin.forward_context():
            prediction = module.predict(batch["images"].to(module.device))
        digits = prediction.sequence.digits.cpu().to(torch.int8)
        digits[prediction.estimate.cpu() != batch["sums"]] = -1
        found.append(digits)
    module.train()
    most = max(digits.shape[1] for digits in found)
    return torch.cat([torch.nn.functional.pad(digits, (0, most - digits.shape[1]), value=-1) for digits in found])


@torch.no_grad()
def read_glyphs(trainer: L.Trainer, module: SumModule, recomposition: Recomposition) -> torch.Tensor:
    """The probability `(G,)` float32, on the CPU, of the digit of each glyph that `recomposition` draws from.

    Each is read by itself, and that it is one digit is known; the mean of two readings, turned and scaled by chance.
    """
    module.eval()
    net = copy.copy(module.net)  # its weights are shared
    net.set_decoding(num_digits=1)
    readings = []
    for _ in range(_GLYPH_READINGS):
        found = []
        for images, digits in recomposition.glyphs():
            with trainer.precision_plugin.forward_context():
                probs = net.predict(net(images)).probs
            assert probs is not None
            found.append(probability_of(probs.float(), digits).cpu())
        readings.append(torch.cat(found))
    module.train()
    return torch.stack(readings).mean(0)
