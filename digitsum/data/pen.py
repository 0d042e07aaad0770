"""Glyphs drawn anew with a round pen, thin or broad, as people's pens are."""

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from digitsum.data.glyphs import GLYPH_SIZE

_FINE = 4  # the pen's way is found, and drawn, in pixels this many times finer

_INK = 100  # brightness of 0..255 from which a pixel of an enlarged glyph is within its stroke


def drawn_with_pen(glyph: np.ndarray, side: int, stroke: float) -> np.ndarray:
    """Draw a glyph anew along the middle of its strokes.

    Args:
        glyph: `(28, 28)` uint8, white on black.
        side: height and width in pixels of the tile to draw.
        stroke: width of the pen in pixels of that tile, above 0.

    Returns:
        `(side, side)` uint8. A glyph without a pixel of brightness 100 or more has nothing to draw: it comes out black.
    """
    way = skeletonize(ndimage.zoom(glyph.astype(np.float32), _FINE, order=1, grid_mode=True, mode="nearest") > _INK)
    if not way.any():
        return np.zeros((side, side), np.uint8)
    away = ndimage.distance_transform_edt(~way) * (side / (GLYPH_SIZE * _FINE))
    # each pixel of the tile is the mean of fine ones; their own edges are half a fine pixel soft on both sides
    fine = ndimage.zoom(away, side / GLYPH_SIZE, order=1, grid_mode=True, mode="nearest")
    ink = np.clip((stroke / 2 - fine) * _FINE + 0.5, 0, 1)
    tile: np.ndarray = ink.reshape(side, _FINE, side, _FINE).mean((1, 3))
    return np.rint(255 * tile).astype(np.uint8)
