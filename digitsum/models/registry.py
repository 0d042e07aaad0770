"""The networks, by the short names that configs and checkpoints use."""

from typing import Any

from digitsum.errors import InputError
from digitsum.models.base import NetworkSettings
from digitsum.models.reader import Reader, ReaderSettings
from digitsum.models.two_conv import TwoConv, TwoConvSettings

NETWORKS: dict[str, tuple[Any, type[NetworkSettings]]] = {
    "two_conv": (TwoConv, TwoConvSettings),
    "reader": (Reader, ReaderSettings),
}
"""Short name: the network's class and the dataclass of its settings."""

_RENAMED = {"digit_cost": "length_penalty"}
"""Options in checkpoints of version 0.4, and their names now."""

_ADDED = {"reader": {"depth": 4}}
"""What networks were before there was an option for it, where that is not its default."""


def upgraded(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of the network `name` as a checkpoint or record since version 0.4 has them, as they are called now.

    What they do not name is as it was when there was no choice.
    """
    return {**_ADDED.get(name, {}), **{_RENAMED.get(option, option): value for option, value in options.items()}}


def network_settings(name: str, options: dict[str, Any]) -> NetworkSettings:
    """The settings of the network `name` from plain values; an InputError refuses what it does not know or take."""
    if name not in NETWORKS:
        raise InputError(f"unknown network {name!r}; known are {', '.join(NETWORKS)}")
    settings = NETWORKS[name][1]
    unknown = options.keys() - settings.__dataclass_fields__.keys()
    if unknown:
        raise InputError(f"the network {name} has no option {', '.join(sorted(unknown))}")
    return settings(**options)
