"""Alignment: which digits a row of classes spells, one class for each frame, and where in the row they are."""

import torch
import torch.nn.functional as F

from digitsum.models.lattice import BLANK


def begins_digit(classes: torch.Tensor) -> torch.Tensor:
    """Which of the frames `(N, T)` begin a digit: not blank, and not the class of the frame before once more."""
    repeated = F.pad(classes[:, 1:] == classes[:, :-1], (1, 0))
    return ~repeated & (classes != BLANK)


def aligned_digits(classes: torch.Tensor, max_digits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `max_digits` digits that the classes `(N, T)` int64 spell, and the middles of their frames.

    Fixed operations, for graphs as well.

    Returns:
        `(N, D)` int64, -1 behind an image's last digit; and `(N, D)` float32, in frames from the left edge of the first
        one on, NaN where there is no digit.
    """
    device = classes.device
    number = begins_digit(classes).long().cumsum(1) - 1  # of the digit that a frame belongs to, if it is not blank
    own = (number[:, None] == torch.arange(max_digits, device=device)[:, None]) & (classes != BLANK)[:, None]
    frames = own.float()  # (N, D, T)
    middles = torch.arange(classes.shape[1], device=device) + 0.5
    return torch.where(own, classes[:, None], -1).amax(2), (frames * middles).sum(2) / frames.sum(2)
