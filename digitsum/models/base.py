"""What a network says about images: a number, and from some networks its distribution and the digits themselves."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Reading:
    """The digits on `N` images, from left to right.

    Attributes:
        digits: `(N, D)` int64, -1 behind an image's last digit.
        places: `(N, D)` float32, how far to the right the middle of each digit is, in pixels; NaN where there is none.
    """

    digits: torch.Tensor
    places: torch.Tensor

    def texts(self) -> list[str]:
        """Each image's digits as a string.

        Example:
            >>> Reading(torch.tensor([[4, 0, 7], [1, -1, -1]]), torch.zeros(2, 3)).texts()
            ['407', '1']
        """
        return ["".join(str(digit) for digit in row if digit >= 0) for row in self.digits.tolist()]


@dataclass(frozen=True)
class Answers:
    """The answers to `N` images.

    Attributes:
        estimate: `(N,)` float, the best single answer; the most probable sum where there is a distribution.
        probs: `(N, S)` float32, the probability of each sum from 0 on, adding up to 1; None from other networks.
        read: reads the digits given the estimate, when they are asked for; None likewise.
    """

    estimate: torch.Tensor
    probs: torch.Tensor | None = None
    read: Callable[[], Reading] | None = None

    @functools.cached_property
    def reading(self) -> Reading:
        """The digits that add up to the estimate."""
        assert self.read is not None
        return self.read()


def probability_of(probs: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """The probability `(N,)` that `probs` `(N, S)` gives to each sum `(N,)`; 0 for a sum of `S` or more.

    Example:
        >>> probability_of(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([1, 7]))
        tensor([0.7500, 0.0000])
    """
    sums = sums.long()
    inside = sums < probs.shape[1]
    return probs.gather(1, torch.where(inside, sums, 0)[:, None]).squeeze(1) * inside


def median_of(probs: torch.Tensor) -> torch.Tensor:
    """The sums `(N,)` int64, on the CPU, that minimise the expected absolute error under `probs` `(N, S)`.

    Example:
        >>> median_of(torch.tensor([[0.4, 0.0, 0.3, 0.3]]))
        tensor([2])
    """
    return _quantile(probs, 0.5)


def mean_of(probs: torch.Tensor) -> torch.Tensor:
    """The numbers `(N,)` float that minimise the expected squared error under `probs` `(N, S)`.

    Example:
        >>> mean_of(torch.tensor([[0.5, 0.0, 0.5]]))
        tensor([1.])
    """
    return (probs * torch.arange(probs.shape[1], device=probs.device)).sum(1)


def interval_of(probs: torch.Tensor, mass: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends `(N,)` int64, on the CPU, of the central interval.

    They are the sums at `(1 - mass) / 2` and `(1 + mass) / 2` of `probs` `(N, S)`.

    Both ends belong to it. It holds at least `mass`; a sure model's interval is one sum, which holds nearly all.

    Example:
        >>> interval_of(torch.tensor([[0.02, 0.08, 0.8, 0.1]]))
        (tensor([1]), tensor([3]))
    """
    return _quantile(probs, (1 - mass) / 2), _quantile(probs, (1 + mass) / 2)


def _quantile(probs: torch.Tensor, level: float) -> torch.Tensor:
    # rounding may leave the last number below the level; not every device has double precision
    return (probs.cpu().double().cumsum(1) < level).sum(1).clamp_max(probs.shape[1] - 1)
