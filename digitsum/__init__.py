"""digitsum: reads the sum of several handwritten digits off one image, learned from the sums alone."""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.5.0.dev0"
__all__ = ["InputError", "__version__", "load_model"]

# A notebook gives every process that it starts its own backend, which matplotlib refuses, at import, where it is not
# installed; nothing here draws on a screen.
if os.environ.get("MPLBACKEND", "").startswith("module://") and (
    importlib.util.find_spec(os.environ["MPLBACKEND"].removeprefix("module://").partition(".")[0]) is None
):
    del os.environ["MPLBACKEND"]

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
