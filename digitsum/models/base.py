"""What every network offers, and what it predicts of images: a sum, and some also its distribution and the digits."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from digitsum.errors import InputError


@dataclass(frozen=True)
class DigitSequence:
    """The digits on `N` images, from left to right."""

    digits: torch.Tensor  # (N, D) int64, -1 behind an image's last digit
    positions: torch.Tensor  # (N, D) float32, how far to the right the middle of each is, in pixels; NaN where none is

    def texts(self) -> list[str]:
        """Each image's digits as a string, `407` say."""
        return ["".join(str(digit) for digit in row if digit >= 0) for row in self.digits.tolist()]


@dataclass(frozen=True)
class Prediction:
    """The answers to `N` images; a network that does not predict digits has an estimate alone."""

    estimate: torch.Tensor  # (N,) float, the best single answer; the most probable sum where there is a distribution
    probs: torch.Tensor | None = None  # (N, S) float32, the probability of each sum from 0 on, adding up to 1
    read: Callable[[], DigitSequence] | None = None  # reads the digits given the estimate, when they are asked for

    @functools.cached_property
    def sequence(self) -> DigitSequence:
        """The digits that add up to the estimate."""
        assert self.read is not None
        return self.read()


@dataclass
class NetworkSettings:
    """What a network is made from besides the size of the images: a subclass has plain values with defaults.

    Its `__post_init__` refuses values out of range.
    """

    def check_num_digits(self, fewest: int, most: int) -> None:
        """Refuse, with an InputError, training images of `fewest` to `most` digits. Most networks take any."""


class Network(nn.Module):
    """What a network, made from `(image_size, settings)`, offers to `digitsum.models.module`.

    One that answers with one number, its output `(N,)`, has `forward` and `loss` of its own and nothing else.
    """

    variable_width = False  # whether it reads images that are wider or narrower than those that it was made for
    predicts_digits = False  # whether its answers have the distribution of the sum and the digits

    @property
    def prediction_batch_size(self) -> int:
        """Images at once in prediction: large batches are faster, but who reads digits keeps much of each image."""
        return 64 if self.predicts_digits else 512

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images `(N, H, W)`, uint8 in 0..255 or float in [0, 1], to an output whose first axis is `N`."""
        raise NotImplementedError

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The training loss of an output against sums `(N,)` int64, a scalar.

        A network that predicts digits takes `digits` as well, `(N, D)` int64, -1 where they are not known.
        """
        raise NotImplementedError

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The best single answer in an output, `(N,)` float; in training mode a quick one will do."""
        return output

    def predict(self, output: torch.Tensor) -> Prediction:
        """All that an output says."""
        return Prediction(self.estimate(output))

    def combine(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The outputs of several networks of this kind, of the same images, as one: of numbers their mean."""
        return torch.stack(list(outputs)).mean(0)

    def set_decoding(self, **options: Any) -> None:
        """From now on answer otherwise than the network was trained to, as far as it can.

        Args:
            options: `num_digits`, how many digits the images hold: a number, a range `[min, max]`, or None for unknown;
                `tta`, over how many copies of an image to average (test-time augmentation).

        Raises:
            InputError: the network has no such option, or its value is out of range.
        """
        for name in options:
            raise InputError(f"{name}: this model has no such choice; leave it out")


def probability_of(probs: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """The probability `(N,)` that `probs` `(N, S)` gives to each sum `(N,)`; 0 for a sum of `S` or more."""
    sums = sums.long()
    inside = sums < probs.shape[1]
    return probs.gather(1, torch.where(inside, sums, 0)[:, None]).squeeze(1) * inside


def median_of(probs: torch.Tensor) -> torch.Tensor:
    """The sums `(N,)` int64, on the CPU, that minimise the expected absolute error under `probs` `(N, S)`."""
    return _quantile(probs, 0.5)


def mean_of(probs: torch.Tensor) -> torch.Tensor:
    """The numbers `(N,)` float that minimise the expected squared error under `probs` `(N, S)`."""
    return (probs * torch.arange(probs.shape[1], device=probs.device)).sum(1)


def interval_of(probs: torch.Tensor, mass: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last sum of the central interval, each `(N,)` int64, on the CPU.

    They are the sums at `(1 - mass) / 2` and `(1 + mass) / 2` of `probs` `(N, S)`. The interval holds at least `mass`;
    a sure model's is one sum, which holds nearly all.
    """
    return _quantile(probs, (1 - mass) / 2), _quantile(probs, (1 + mass) / 2)


def _quantile(probs: torch.Tensor, level: float) -> torch.Tensor:
    # rounding may leave the last number below the level; not every device has double precision
    return (probs.cpu().double().cumsum(1) < level).sum(1).clamp_max(probs.shape[1] - 1)
