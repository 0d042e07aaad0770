import numpy as np
import pytest

from digitsum.data.pen import drawn_with_pen


@pytest.fixture
def bar():
    glyph = np.zeros((28, 28), np.uint8)
    glyph[4:24, 11:17] = 255
    return glyph


@pytest.mark.parametrize("side", [14, 28, 39])
@pytest.mark.parametrize("stroke", [1.0, 2.5, 4.0])
def test_a_bar_becomes_as_broad_as_the_pen_where_it_was(bar, side, stroke):
    tile = drawn_with_pen(bar, side, stroke)
    assert tile.shape == (side, side)
    assert tile.dtype == np.uint8
    middle = tile[side // 2] / 255
    assert middle.sum() == pytest.approx(stroke, abs=0.35)
    assert (middle * (np.arange(side) + 0.5)).sum() / middle.sum() == pytest.approx(side / 2, abs=0.3)


def test_what_is_too_faint_to_be_a_stroke_comes_out_black(bar):
    assert not drawn_with_pen(bar // 4, 28, 2.0).any()
