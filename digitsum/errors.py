"""The one exception for what a user got wrong."""


class InputError(ValueError):
    """A mistake in what the user handed over: a file, a folder, a setting, a checkpoint.

    The message is one line: what was expected, what was found, where, and what to do. The scripts print it without
    a traceback and exit with 1; any other exception is a bug of ours and keeps its traceback.
    """


def check(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a setting's value unless what it must fulfil `holds`."""
    if not holds:
        raise InputError(f"{name}: expected {expected}, got {value!r}")
