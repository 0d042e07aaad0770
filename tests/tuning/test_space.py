"""The space of a search: ranges as a config writes them."""

import math
import re

import pytest
from conftest import SPACE

from digitsum.errors import InputError
from digitsum.tuning.space import build_space


def test_a_space_has_both_ends_of_each_range(optuna):
    space = build_space(SPACE)
    distributions = optuna.distributions
    assert space == {
        "model.lr": distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "model.conv_dropout": distributions.FloatDistribution(0.0, 0.5, step=0.05),
        "model.hidden_units": distributions.IntDistribution(8, 64),
        "model.pooling": distributions.CategoricalDistribution(["max", "average"]),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (3, "type=float, int or categorical"),
        ({}, "type=float, int or categorical"),
        ({"type": "real", "low": 0, "high": 1}, "type=float, int or categorical"),
        ({"type": "float", "low": 0}, "low and high"),
        ({"type": "float", "low": 0, "high": 1, "hihg": 2}, "low and high"),
        ({"type": "float", "low": 0, "high": 1, "choices": [1]}, "low and high"),
        ({"type": "float", "low": "a", "high": 1}, "numbers"),
        ({"type": "float", "low": False, "high": 1}, "numbers"),
        ({"type": "int", "low": 1.5, "high": 3}, "whole numbers"),
        ({"type": "float", "low": 2, "high": 1}, "low below high"),
        ({"type": "float", "low": 1, "high": 1}, "low below high"),
        ({"type": "float", "low": math.nan, "high": 1}, "low below high"),
        ({"type": "float", "low": 0, "high": math.inf}, "low below high"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low above 0 where log=true"),
        ({"type": "int", "low": -1, "high": 1, "log": True}, "low above 0 where log=true"),
        ({"type": "float", "low": 0, "high": 1, "log": "yes"}, "log=true or a step"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "log=true or a step"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "a step that leads from low to high"),
        ({"type": "float", "low": 0, "high": 1, "step": 0}, "a step that leads from low to high"),
        ({"type": "categorical"}, "choices"),
        ({"type": "categorical", "choices": []}, "choices"),
        ({"type": "categorical", "choices": "ab"}, "choices"),
        ({"type": "categorical", "choices": [1, 1]}, "choices that differ"),
        ({"type": "categorical", "choices": [[1, 2], 3]}, "numbers, words, true, false or null"),
        ({"type": "categorical", "choices": [1], "low": 1}, "choices"),
    ],
)
def test_a_wrong_range_is_refused_in_one_line(optuna, options, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_space({"model.lr": options})
    assert str(caught.value).startswith("search.model.lr: expected ")
    assert "\n" not in str(caught.value)


def test_an_empty_space_is_refused():
    with pytest.raises(InputError, match="at least one key"):
        build_space({})
