"""The words of a command line: which key one is about, what it was called before, how a value is written in one."""

import re
from collections.abc import Iterable
from typing import Any

from digitsum.tuning.report import rounded

RENAMED = {
    "augmentation.slant": "augmentation.shear",
    "augmentation.warp": "augmentation.elastic",
    "augmentation.warp_spacing": "augmentation.elastic_spacing",
    "callbacks.pictures": "callbacks.prediction_logger",
    "model.digit_cost": "model.length_penalty",
    "views": "tta",
}
"""Keys until version 0.4, and their names now."""


def override_key(word: str) -> str:
    """What `key=value`, `+key=value` or `~key` is about."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def renamed(keys: Iterable[str]) -> tuple[str, str] | None:
    """The first of some keys that has another name now, and that name; a key's children and what is searched count too.

    Example:
        >>> renamed(["seed", "search.model.digit_cost.low"])
        ('search.model.digit_cost.low', 'search.model.length_penalty.low')
    """
    for key in keys:
        for old, new in RENAMED.items():
            if re.fullmatch(rf"(search\.)?{re.escape(old)}(\..+)?", key):
                return key, key.replace(old, new, 1)
    return None


def to_overrides(params: dict[str, Any]) -> list[str]:
    """A trial's settings as words that Hydra parses back.

    Example:
        >>> to_overrides({"model.lr": 0.0011781448719376517, "model.pooling": "max", "trainer.precision": None})
        ['model.lr=0.00117814', 'model.pooling=max', 'trainer.precision=null']
    """
    return [f"{key}={_written(value)}" for key, value in rounded(params).items()]


def _written(value: Any) -> str:
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    if re.fullmatch(r"[A-Za-z]\w*", value, re.ASCII) and value.lower() not in ("true", "false", "null", "nan", "inf"):
        return value
    return "'{}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))


def flat(tree: Any, prefix: str = "", *, until: str | None = None) -> dict[str, Any]:
    """A tree's leaves by their dotted keys; a mapping that has the key `until` is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value and until not in value:
            leaves |= flat(value, f"{prefix}{key}.", until=until)
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
