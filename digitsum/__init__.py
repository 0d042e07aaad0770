"""digitsum: reads the sum of several handwritten digits off one image, learned from the sums alone."""

from typing import TYPE_CHECKING, Any

__version__ = "0.5.0.dev0"
__all__ = ["InputError", "__version__", "load_model"]

if TYPE_CHECKING:
    from digitsum.errors import InputError
    from digitsum.models.checkpoints import load_model


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only then (PEP 562): torch takes seconds, and `--help` needs none of it."""
    if name == "load_model":
        from digitsum.models.checkpoints import load_model

        return load_model
    if name == "InputError":
        from digitsum.errors import InputError

        return InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
