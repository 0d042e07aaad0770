"""The space of a search: which settings are tried, and in which range."""

import math
from typing import TYPE_CHECKING, Any

from digitsum.errors import InputError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def build_space(settings: dict[str, Any]) -> "dict[str, BaseDistribution]":
    """The space of a search, from the `type` of each key: `float`, `int` or `categorical`.

    A number has `low` and `high`, which are both in the space, and maybe `log` or `step`; anything else has `choices`.

    Raises:
        InputError: there is no key, or an option is missing, unknown, or does not fit the others.
    """
    if not settings:
        raise InputError("search: expected at least one key to search, got none")
    return {key: _distribution(key, options) for key, options in settings.items()}


def _distribution(key: str, options: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def refusal(expected: str) -> InputError:
        return InputError(f"search.{key}: expected {expected}, got {options}")

    kind = options.get("type") if isinstance(options, dict) else None
    if kind == "categorical":
        choices = options.get("choices")
        if options.keys() != {"type", "choices"} or not isinstance(choices, list) or not choices:
            raise refusal("choices=[...] beside type=categorical")
        if not all(isinstance(choice, int | float | str | None) for choice in choices):
            raise refusal("numbers, words, true, false or null as choices")
        if len(set(choices)) < len(choices):
            raise refusal("choices that differ")
        return CategoricalDistribution(choices)
    if kind not in ("float", "int"):
        raise refusal("type=float, int or categorical, and its range")
    if not {"type", "low", "high"} <= options.keys() <= {"type", "low", "high", "log", "step"}:
        raise refusal(f"low and high, and maybe log or step, beside type={kind}")
    low, high, log, step = options["low"], options["high"], options.get("log", False), options.get("step")
    for value in (low, high) if step is None else (low, high, step):
        if not isinstance(value, int if kind == "int" else int | float) or isinstance(value, bool):
            raise refusal("whole numbers" if kind == "int" else "numbers")
    if not isinstance(log, bool) or (log and step is not None):
        raise refusal("log=true or a step")
    if not -math.inf < low < high < math.inf:
        raise refusal("low below high")
    if log and low <= 0:
        raise refusal("low above 0 where log=true")
    if step is not None and not (step > 0 and math.isclose((high - low) / step, round((high - low) / step))):
        raise refusal("a step that leads from low to high")
    if kind == "int":
        return IntDistribution(low, high, log=log, step=1 if step is None else step)
    return FloatDistribution(low, high, log=log, step=step)
