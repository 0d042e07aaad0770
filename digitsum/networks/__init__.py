"""The networks, by the short names that configs and checkpoints use."""

from typing import Any, Protocol

import torch

from digitsum.errors import InputError
from digitsum.networks.two_conv import TwoConv, TwoConvSettings


class Network(Protocol):
    """What a network offers; `digitsum.module` asks for no more.

    It is a `torch.nn.Module` made from `(image_size, **options)`, where `options` are the fields of its settings.
    """

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map images `(N, H, W)`, uint8 in 0..255 or float in [0, 1], to an output whose first axis is `N`."""

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The training loss of an output against sums `(N,)` int64, a scalar."""

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The best single answer in an output, `(N,)` float."""


NETWORKS: dict[str, tuple[Any, Any]] = {
    "two_conv": (TwoConv, TwoConvSettings),
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
