"""An ensemble: several trained networks that answer together."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from digitsum.errors import InputError
from digitsum.models.base import Network, Prediction
from digitsum.models.module import SumModule


class Ensemble(Network):
    """Networks of one kind, whose outputs are combined into one (see `Network.combine`) and then read by the first.

    Args:
        networks: one or more, trained on images of one height, and of one width unless they read any.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self._members = tuple(networks)  # the same, whose type is known
        self.variable_width = networks[0].variable_width
        self.predicts_digits = networks[0].predicts_digits

    def __copy__(self) -> "Ensemble":
        """An ensemble of the same weights that can be told to answer otherwise."""
        return Ensemble([copy.copy(network) for network in self._members])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The combined output of images `(N, H, W)`, uint8 in 0..255 or float in [0, 1]."""
        return self._members[0].combine([network(images) for network in self._members])

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """The loss of the combined output against sums `(N,)`, a scalar."""
        return self._members[0].loss(output, sums)

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The best single answers of the combined output, `(N,)` float."""
        return self._members[0].estimate(output)

    def predict(self, output: torch.Tensor) -> Prediction:
        """All that the combined output says."""
        return self._members[0].predict(output)

    def set_decoding(self, **options: Any) -> None:
        """See `Network.set_decoding`; all networks answer so."""
        for network in self._members:
            network.set_decoding(**options)


def ensemble_of(modules: dict[Path, SumModule]) -> SumModule:
    """One model that answers as an `Ensemble` of trained ones; a single one as it is. The first one is changed.

    Args:
        modules: one or more, in evaluation mode, by their files.

    Raises:
        InputError: networks of several kinds, made for other images, or for other numbers of digits.
    """
    (path, first), *others = modules.items()
    for other, module in others:
        expected = _made_for(first)
        for key, found in _made_for(module).items():
            if found != expected.get(key):
                like = f"like {path}, whose {key} is {expected.get(key)}"
                raise InputError(f"{other}: expected a model {like}, to answer with it, found {key} {found}")
    if others:
        first.net = Ensemble([module.net for module in modules.values()])
    return first


def _made_for(module: SumModule) -> dict[str, Any]:
    network, options = module.hparams["network"], module.hparams["options"]
    height, width = module.image_size
    size = {"height": height} if module.net.variable_width else {"height": height, "width": width}
    return {"network": network, **size, "num_digits": options.get("num_digits")}


def require_single(module: SumModule, name: str) -> None:
    """Refuse an ensemble for what takes one network, which an InputError calls `name`."""
    if isinstance(module.net, Ensemble):
        raise InputError(f"{name}: expected one model, got several that answer together; take each by itself")
