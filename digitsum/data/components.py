"""Glyphs cut out of canvases: where digits do not touch, what hangs together is one digit."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from digitsum.data.glyphs import GLYPH_SIZE
from digitsum.data.pixels import as_float

_CHUNK = 256  # canvases labelled at once: bounds the memory
_INK = 0.5  # of full brightness: what holds a glyph together; fainter rims touch more often
_SPECK = 0.1  # of the usual glyph's ink: what has less is no glyph
_BLOB = 1.25  # of the usual glyph's longer side: what is wider is several glyphs
_WINDOW = 4 / 3  # of the usual glyph's longer side: how much of the canvas a glyph is shown on, as in MNIST
_MAX_SLANT = 0.8  # pixels to the right for each pixel down
_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # all eight, on the same canvas


@dataclass(frozen=True)
class Pieces:
    """`G` pieces of ink of `N` canvases as they lie there, canvas by canvas, on each from left to right.

    Attributes:
        crops: of each piece its own ink, `(h, w)` float32 in [0, 1], the rest 0.
        canvas: `(G,)` int64, which canvas each is from.
        corner: `(G, 2)` int64, the row and the column of each crop's upper left pixel.
        wide: `(G,)` bool, whether it is so wide that it must be several digits.
        side: the median of their longer sides in pixels; 1 without any.
    """

    crops: list[np.ndarray]
    canvas: np.ndarray
    corner: np.ndarray
    wide: np.ndarray
    side: float


def cut_pieces(canvases: np.ndarray) -> Pieces:
    """Cut out what hangs together, over edges or corners, at half of the full brightness or more, with its faint rim.

    A component with less than a tenth of the usual one's ink is a speck and left out; the usual one is the middle one
    when all are sorted by their ink and each counts as often as it has ink, so that many specks hardly move it. A rim
    is one pixel of fainter ink.

    Args:
        canvases: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].
    """
    crops: list[np.ndarray] = []
    found: list[tuple[int, int, int]] = []  # canvas, row, column
    for first in range(0, len(canvases), _CHUNK):
        grey = as_float(torch.from_numpy(canvases[first : first + _CHUNK].copy())).numpy()
        labels = ndimage.label(grey >= _INK, _NEIGHBOURS)[0]
        labels = np.where(labels > 0, labels, ndimage.maximum_filter(labels, size=(1, 3, 3)))
        boxes = list(enumerate(ndimage.find_objects(labels), start=1))
        # by the middle: a long stroke of one digit may begin left of the digit before
        for number, (row, down, right) in sorted(boxes, key=lambda box: _middle(box[1])):
            here = row, down, right
            crops.append(np.where(labels[here] == number, grey[here], 0)[0])
            found.append((first + row.start, down.start, right.start))
    ink = np.array([np.count_nonzero(crop >= _INK) for crop in crops], np.int64)
    kept = np.flatnonzero(ink >= _SPECK * _weighted_median(ink))
    crops = [crops[number] for number in kept]
    places = np.array(found, np.int64).reshape(-1, 3)[kept]
    side = float(np.median([max(crop.shape) for crop in crops])) if crops else 1.0
    wide = np.array([crop.shape[1] > _BLOB * side for crop in crops], bool)
    return Pieces(crops, places[:, 0], places[:, 1:], wide, side)


@dataclass(frozen=True)
class Glyphs:
    """`G` glyphs cut out of `N` canvases, canvas by canvas, on each from left to right.

    Attributes:
        images: `(G, 28, 28)` float32 in [0, 1], brought to one scale, upright, the centre of mass in the middle.
        canvas: `(G,)` int64, which canvas each is from.
        wide: `(G,)` bool, whether it is so wide that it must be several digits.
    """

    images: np.ndarray
    canvas: np.ndarray
    wide: np.ndarray


def cut_glyphs(canvases: np.ndarray) -> Glyphs:
    """Cut out pieces (see `cut_pieces`) and bring them to one scale, which the median of their longer sides sets.

    A glyph is sheared until its ink's places to the right do not depend on those downwards.

    Args:
        canvases: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].
    """
    pieces = cut_pieces(canvases)
    images = np.zeros((len(pieces.crops), GLYPH_SIZE, GLYPH_SIZE), np.float32)
    for image, crop in zip(images, pieces.crops, strict=True):
        _draw_upright(image, crop, _WINDOW * pieces.side / GLYPH_SIZE)
    return Glyphs(images, pieces.canvas, pieces.wide)


def _middle(box: tuple[slice, slice, slice]) -> tuple[int, int]:
    """By what glyphs are sorted: the canvas, and twice the middle of the columns."""
    return box[0].start, box[2].start + box[2].stop


def _weighted_median(ink: np.ndarray) -> float:
    """The smallest of `(G,)` such that it and those below have half of the total; 0 of nothing."""
    order = np.sort(ink)
    return float(order[np.searchsorted(order.cumsum(), order.sum() / 2)]) if len(order) else 0.0


def _draw_upright(image: np.ndarray, crop: np.ndarray, step: float) -> None:
    """Fill `image` with the glyph on `crop`, upright, each pixel `step` pixels of `crop` from the next."""
    down, right = np.indices(crop.shape)
    mass = crop.sum()
    middle = np.array([(crop * down).sum(), (crop * right).sum()]) / mass
    down, right = down - middle[0], right - middle[1]
    slant = (crop * down * right).sum() / max(float((crop * down**2).sum()), 1e-6)
    matrix = step * np.array([[1, 0], [np.clip(slant, -_MAX_SLANT, _MAX_SLANT), 1]])
    offset = middle - matrix @ np.full(2, (GLYPH_SIZE - 1) / 2)
    ndimage.affine_transform(crop, matrix, offset, output=image, order=1)
