"""The models that come with the package, by their names: `weights/NAME-VERSION.safetensors`, each with its card."""

import re
from pathlib import Path

from digitsum.errors import InputError, did_you_mean
from digitsum.files import exists

FOLDER = Path(__file__).parent / "weights"


def published_models() -> dict[str, Path]:
    """The weights of each published model by its name with the version, `reader-1`, and of the newest without."""
    found = {path.stem: path for path in FOLDER.glob("*-*.safetensors") if is_version(path.stem)}
    newest = {name.rpartition("-")[0]: found[name] for name in sorted(found, key=_version)}
    return {**newest, **found}


def is_version(name: str) -> bool:
    """Whether a model can be published by this name: letters or digits, a hyphen, its version.

    Example:
        >>> is_version("reader-12"), is_version("reader"), is_version("../reader-1"), is_version("reader-01")
        (True, False, False, False)
    """
    return re.fullmatch(r"[a-z][a-z0-9_]*-[1-9]\d{0,5}", name) is not None


def _version(name: str) -> int:
    return int(name.rpartition("-")[2])


def find_model(path: str | Path) -> Path:
    """The file of a model: of a published one by its name, else `path` itself.

    A name goes before a file in the working folder that is called like it: `./reader`, or a `Path`, is that file.

    Raises:
        InputError: a word that is neither a published model's name nor a file.
    """
    if isinstance(path, Path) or re.fullmatch(r"[\w-]+", path) is None:  # a folder or a suffix: no name
        return Path(path)
    known = published_models()
    if path not in known and not exists(Path(path)):
        names = ", ".join(known) or "none in this installation"
        hint = did_you_mean(path, known)
        raise InputError(f"{path}: expected a checkpoint's file or a published model ({names}), found neither{hint}")
    return known.get(path, Path(path))
