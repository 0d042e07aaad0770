"""The networks, by the short names that configs and checkpoints use."""

from typing import Any, Protocol

import torch

from digitsum.errors import InputError
from digitsum.models.base import Answers
from digitsum.models.reader import Reader, ReaderSettings
from digitsum.models.two_conv import TwoConv, TwoConvSettings


class Network(Protocol):
    """What a network offers; `digitsum.models.module` asks for no more.

    It is a `torch.nn.Module` made from `(image_size, **options)`, where `options` are the fields of its settings.

    Attributes:
        any_width: whether it reads images that are wider or narrower than those that it was made for.
        reads_digits: whether its answers have the distribution of the sum and the digits.
    """

    any_width: bool
    reads_digits: bool

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images `(N, H, W)`, uint8 in 0..255 or float in [0, 1], to an output whose first axis is `N`."""

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The training loss of an output against sums `(N,)` int64, a scalar."""

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The best single answer in an output, `(N,)` float; in training mode a quick one will do."""

    def answer(self, output: torch.Tensor) -> Answers:
        """All that an output says."""

    def adapt(self, **options: Any) -> None:
        """From now on answer otherwise than the network was trained to, as far as it can.

        Args:
            options: `num_digits`, how many digits the images hold: a number, a range `[least, most]`, or None for
                unknown; `views`, over how many shifted copies of an image to average.

        Raises:
            InputError: an option that the network does not have, or its value is out of range.
        """


NETWORKS: dict[str, tuple[Any, Any]] = {
    "two_conv": (TwoConv, TwoConvSettings),
    "reader": (Reader, ReaderSettings),
}
"""Short name: the network's class and the dataclass of its settings."""


def build_network(name: str, image_size: tuple[int, int], options: dict[str, Any]) -> Any:
    """Build a network from plain values, as a config or a checkpoint holds them.

    Raises:
        InputError: an unknown name or option, or a value that the network refuses.
    """
    if name not in NETWORKS:
        raise InputError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}")
    network, settings = NETWORKS[name]
    unknown = options.keys() - settings.__dataclass_fields__.keys()
    if unknown:
        raise InputError(f"the network {name} has no option {', '.join(sorted(unknown))}")
    return network(image_size, **options)
