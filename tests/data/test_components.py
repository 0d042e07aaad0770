"""Glyphs cut out of canvases."""

import numpy as np
import pytest

from digitsum.data.components import cut_glyphs


def bars(*columns, height=20, canvases=1):
    """Canvases with an upright bar of three pixels from each of the columns on."""
    drawn = np.zeros((canvases, 40, 168), np.uint8)
    for column in columns:
        drawn[:, 10 : 10 + height, column : column + 3] = 255
    return drawn


def test_what_hangs_together_is_one_glyph_and_comes_from_left_to_right_canvas_by_canvas():
    glyphs = cut_glyphs(np.concatenate([bars(30, 60, 5), bars(), bars(90)]))
    assert glyphs.canvas.tolist() == [0, 0, 0, 2]
    assert glyphs.images.shape == (4, 28, 28)
    assert glyphs.images.dtype == np.float32
    assert not glyphs.wide.any()


def test_corners_that_touch_hang_together():
    canvas = bars(30, height=10)
    canvas[0, 20:30, 33:36] = 255
    assert len(cut_glyphs(canvas).images) == 1


def test_specks_are_left_out_though_they_are_many():
    canvas = bars(30)
    canvas[0, 38, :80:2] = 255
    assert len(cut_glyphs(canvas).images) == 1


def test_faint_ink_parts_glyphs_and_is_shown_as_their_rim():
    canvas = bars(30, 40)
    canvas[0, 15, 33:40] = 100
    glyphs = cut_glyphs(canvas)
    assert len(glyphs.images) == 2
    assert ((glyphs.images > 0.1) & (glyphs.images < 0.5)).any()


def test_what_is_much_wider_than_others_is_marked():
    canvas = bars(10, 30, 50, 70)
    canvas[0, 20, 100:140] = 255
    canvas[0, 10:30, 120:123] = 255
    assert cut_glyphs(canvas).wide.tolist() == [False] * 4 + [True]


def test_a_leaning_stroke_becomes_upright():
    canvas = np.zeros((1, 40, 40), np.uint8)
    for row in range(20):
        canvas[0, 10 + row, 12 + row // 2 : 16 + row // 2] = 255
    columns = np.flatnonzero(cut_glyphs(canvas).images[0].sum(0) > 1)
    assert np.ptp(columns) <= 6


def test_glyphs_of_every_size_are_brought_to_one():
    small = cut_glyphs(bars(30)).images[0]
    large = cut_glyphs(bars(30).repeat(3, 1).repeat(3, 2)).images[0]
    assert np.abs(small - large).mean() < 0.03


def test_uint8_and_float_images_give_the_same():
    canvases = np.random.default_rng(0).integers(256, size=(5, 40, 168), dtype=np.uint8)
    whole, parts = cut_glyphs(canvases), cut_glyphs(canvases.astype(np.float32) / 255)
    assert np.allclose(whole.images, parts.images, atol=1e-5)
    assert np.array_equal(whole.canvas, parts.canvas)


@pytest.mark.parametrize(("value", "glyphs"), [(0, 0), (255, 1)])
def test_an_empty_and_a_full_canvas_have_no_glyph_and_one(value, glyphs):
    assert len(cut_glyphs(np.full((1, 40, 168), value, np.uint8)).images) == glyphs
