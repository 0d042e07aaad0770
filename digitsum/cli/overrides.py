"""The words of a command line: which key one is about, what it was called before, how it is written for pasting."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from digitsum.cli.project import PROJECT
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
    """The first of some keys that has another name now, and that name; its children and what is searched count, too."""
    for key in keys:
        for old, new in RENAMED.items():
            if re.fullmatch(rf"(search\.)?{re.escape(old)}(\..+)?", key):
                return key, key.replace(old, new, 1)
    return None


def to_overrides(params: dict[str, Any]) -> list[str]:
    """Settings as words that Hydra parses back; numbers of a trial as it was trained with them.

    Example:
        >>> to_overrides({"model.lr": 0.0011781448719376517, "trainer.precision": None, "input": "my digits/a.npy"})
        ['model.lr=0.00117814', 'trainer.precision=null', "input='my digits/a.npy'"]
    """
    return [f"{key}={_written(value)}" for key, value in rounded(params).items()]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if not isinstance(value, str | Path):
        return "null" if value is None else str(value).lower()
    text = str(value)
    if re.fullmatch(r"(?!(true|false|null|nan|inf)\Z)[a-z/][\w./-]*", text, re.ASCII | re.IGNORECASE):
        return text
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf would look up what ${...} names
    return QuotedString(text, Quote.single).with_quotes()


def command_line(script: str, *words: str, **settings: Any) -> str:
    r"""A command to paste into a shell, where Hydra gets each value exactly, whatever characters it has.

    `words` are overrides that are written already, and `settings` those by key; a default `outputs_dir` is left out.

    Example:
        >>> print(command_line("scripts/predict.py", ckpt_path="a, b.ckpt", split="test"))
        python scripts/predict.py "ckpt_path='a, b.ckpt'" split=test
    """
    return f"python {script} {shell_words(*words, **settings)}".rstrip()


def shell_words(*words: str, **settings: Any) -> str:
    """The words of `command_line`, to be added to some command."""
    if "outputs_dir" in settings and (outputs_dir := unless_default(settings.pop("outputs_dir"))):
        settings["outputs_dir"] = outputs_dir
    return " ".join(map(shell_quote, [*words, *to_overrides(settings)]))


def unless_default(outputs_dir: str) -> Path | None:
    """The whole path of an `outputs_dir` that a command must name, or None for the default."""
    path = Path(outputs_dir).absolute()
    return None if path == Path(PROJECT, "outputs") else path


def shell_quote(word: str) -> str:
    """A word for a shell, in double quotes where single quotes would need quotes of their own."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)


def flatten(tree: Any, prefix: str = "", *, until: str | None = None) -> dict[str, Any]:
    """A tree's leaves by their dotted keys; a mapping that has the key `until` is a leaf."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value and until not in value:
            leaves |= flatten(value, f"{prefix}{key}.", until=until)
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
