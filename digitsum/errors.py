"""The one exception for what a user got wrong, and what a misspelt word was probably meant to be."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the user handed over: a file, a folder, a setting, a checkpoint.

    The message is one line: what was expected, what was found, where, and what to do. The scripts print it and exit
    with 1; any other exception is a bug of ours and keeps its traceback.
    """


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a setting's value unless what it must fulfil `holds`."""
    if not holds:
        raise InputError(f"{name}: expected {expected}, got {value!r}")


def did_you_mean(word: str, known: Iterable[str], group: str = "") -> str:
    """What stands behind an error about an unknown `word`: the closest of the `known` ones, or nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {group}{close[0]}?" if close else ""
