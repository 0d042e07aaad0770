"""Alignment: the digits that a row of classes spells, and their places."""

import pytest
import torch

from digitsum.models.alignment import aligned_digits, begins_digit

CLASSES = torch.tensor([[10, 3, 3, 10, 3, 4], [7, 10, 10, 10, 10, 10], [10] * 6])


def test_a_digit_begins_where_its_class_was_not_the_frame_before():
    assert begins_digit(CLASSES).int().tolist() == [[0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize("max_digits", [2, 3, 5])
def test_the_digits_are_spelled_from_left_to_right_with_the_middles_of_their_frames(max_digits):
    digits, middles = aligned_digits(CLASSES, max_digits)
    expected = [[3, 3, 4, -1, -1], [7, -1, -1, -1, -1], [-1] * 5]
    assert digits.tolist() == [row[:max_digits] for row in expected]
    assert torch.equal(middles.isnan(), digits < 0)
    assert middles.nan_to_num(0).tolist() == [
        row[:max_digits] for row in ([2, 4.5, 5.5, 0, 0], [0.5, 0, 0, 0, 0], [0] * 5)
    ]


@pytest.mark.parametrize(("count", "max_digits"), [(3, 0), (0, 0), (0, 2)])
def test_there_may_be_no_digits_and_no_rows(count, max_digits):
    digits, middles = aligned_digits(CLASSES[:count], max_digits)
    assert digits.shape == middles.shape == (count, max_digits)
