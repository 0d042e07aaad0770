"""The words of a command line: which key one is about, and how a value is written in one."""

import re
from typing import Any

from digitsum.tuning.report import rounded


def override_key(word: str) -> str:
    """What `key=value`, `+key=value` or `~key` is about."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


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
