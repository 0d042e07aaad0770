"""From a photo, a scan or a drawing to rows of digits as the models know them: bright ink of one size on 0."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

from digitsum.data.ink import Ink, find_ink, is_light_on_dark, without_rules
from digitsum.data.rows import EIGHT, Components, run_lengths

DIGIT_HEIGHT = 21
"""Pixels that a digit of middling height gets on a canvas: as in MNIST, and one more for its blurred edge."""

_EVENNESS = 0.7  # 0 leaves the heights of a row's digits as they are to each other, 1 makes all of them equal
_MIN_GAP, _MAX_GAP = 5, 28  # pixels between two digits that do not touch
_MARGIN = 8
_MIN_STROKE, _STROKE = 1.5, 2.2  # pixels: what is narrower becomes as broad as the second
_MIN_TURN = 4  # degrees that a row may slope: digits lean by more than that
_MIN_HEIGHT = 10  # pixels of a digit in the file, below which too little of it is known
_BROAD, _BLOT = 0.3, 0.6  # the widest place of a stroke over the digit's size: a broad pen, and no stroke at all


@dataclass(frozen=True)
class Picture:
    """A row of digits as the model gets it.

    Attributes:
        image: `(H, W)` uint8, bright ink on a dark ground.
        changes: what was done to the file's picture, in words.
        warnings: why it may be outside of what the model knows, in words.
        box: left, top, right and bottom of the row in the file's picture, in pixels; None where it is all of it.
        num_components: how many pieces of ink there are, each of them a digit if none touch; None if not counted.
        original: `(h, w)` uint8, the row on the picture, small, to be shown beside the image.
    """

    image: np.ndarray
    changes: str
    warnings: tuple[str, ...] = ()
    box: tuple[int, ...] | None = None
    num_components: int | None = None
    original: np.ndarray | None = None


def prepare_rows(grey: np.ndarray, height: int) -> list[Picture]:
    """Find the rows of digits on a picture and bring each to the form that models are trained on.

    Args:
        grey: `(H, W)` uint8.
        height: of a canvas, in pixels.

    Returns:
        The rows from top to bottom, each with an image `(height, W)` of a width of its own; none where nothing is
        like ink.
    """
    changes = ["paper brought to 0"]
    if is_light_on_dark(grey):
        grey = 255 - grey
    else:
        changes.insert(0, "inverted")
    ink = find_ink(grey)
    even = ink is not None  # to a large square's median the edge of a shadow is noise, and faint ink is within it
    ink = ink or find_ink(grey, share=0.5)
    components = Components(ink.mask()) if ink else None
    if not ink or not components:
        return []
    ink = find_ink(grey, components.stroke) or ink
    plain = without_rules(ink, components.digit_height)
    if plain:
        ink = plain
        changes.append("rules removed")
    components = Components(ink.mask())
    rows = components.rows() if components else []
    flat = even and ink.noise < 0.12 * ink.level
    flat &= sum(components.area[row].sum() for row in rows) > 0.7 * components.area.sum()
    pictures = [_typeset(components, row, ink, height, changes, [] if flat else ["paper not flat"]) for row in rows]
    return [picture for picture in pictures if picture]


def _typeset(
    components: Components, row: np.ndarray, ink: Ink, height: int, changes: list[str], warnings: list[str]
) -> Picture | None:
    """Set a row's pieces of ink on a canvas; None for one of blots."""
    pieces = components.pieces(row)
    boxes = [components.box(piece) for piece in pieces]
    middling = float(np.median([bottom - top for _, top, _, bottom in boxes]))
    slope = components.slope(np.array([piece[0] for piece in pieces]))
    slope = slope if abs(slope) >= _MIN_TURN else 0.0
    tiles: list[tuple[int, np.ndarray]] = []
    broadness, thickened = [], False
    x, end = float(_MARGIN), boxes[0][0] - _MIN_GAP
    for piece, (left, top, right, bottom) in zip(pieces, boxes, strict=True):
        window = slice(max(0, top - 3), bottom + 3), slice(max(0, left - 3), right + 3)
        own = np.isin(components.labels[window], piece + 1)
        stroke, widest = _stroke(own)
        broadness.append(widest / max(right - left, bottom - top))
        # DIGIT_HEIGHT where it is of middling height
        scale = min(DIGIT_HEIGHT / middling * (middling / (bottom - top)) ** _EVENNESS, (height - 4) / (bottom - top))
        thin = stroke * scale < _MIN_STROKE
        thickened |= thin
        tile = _tile(ink, window, own, scale, _STROKE / scale - stroke if thin else 0, slope)[:height]
        if tiles:
            x += np.clip((left - end) * DIGIT_HEIGHT / middling, _MIN_GAP, _MAX_GAP)
        tiles.append((round(x), tile))
        x, end = x + tile.shape[1], max(end, right)
    if np.median(broadness) > _BLOT:
        return None
    canvas = np.zeros((height, round(x) + _MARGIN + 1), np.uint8)
    for start, tile in tiles:
        top = (height - len(tile)) // 2
        canvas[top : top + len(tile), start : start + tile.shape[1]] = tile

    left, top, right, bottom = components.box(row)
    page_height, page_width = components.labels.shape
    warnings = warnings + [
        words
        for words, true in (
            ("cut at the border", left == 0 or top == 0 or right == page_width or bottom == page_height),
            ("digits too small", middling < _MIN_HEIGHT),
            ("strokes too broad", np.median(broadness) > _BROAD),
        )
        if true
    ]
    changes = [*changes, f"digits of {middling:.0f} px set apart at {DIGIT_HEIGHT} px"]
    changes += [f"turned by {slope:.0f} degrees"] if slope else []
    changes += ["thickened"] if thickened else []
    return Picture(canvas, ", ".join(changes), tuple(warnings), (left, top, right, bottom), len(pieces))


def _tile(
    ink: Ink, window: tuple[slice, slice], own: np.ndarray, scale: float, thicker: float, slope: float
) -> np.ndarray:
    """One piece of ink as it goes onto the canvas, `(H, W)` uint8, cut to its strokes.

    Args:
        ink: of the picture.
        window: where the piece is.
        own: which of the window's pixels are the piece's.
        scale: from the picture to the canvas.
        thicker: by how many of the picture's pixels strokes shall grow.
        slope: by how many degrees the row falls to the right.
    """
    dark = np.where(ndimage.binary_dilation(own, EIGHT, iterations=2), ink.dark[window], 0)
    level = float(np.percentile(dark[own], 70))
    floor = max(0.15 * level, 2 * ink.noise)
    dark = np.clip((dark - floor) / max(level - floor, 0.01), 0, 1)
    if thicker:
        size = max(2, round(thicker + 1))
        dark = ndimage.grey_dilation(np.pad(dark, size), (size, size))
    image = Image.fromarray((255 * dark).round().astype(np.uint8))
    if slope:
        image = image.rotate(slope, Image.Resampling.BICUBIC, expand=True)
    scaled = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image.resize(scaled, Image.Resampling.LANCZOS)).astype(np.float32)
    strokes = pixels[pixels > 100]
    if len(strokes):  # a stroke that is narrower than a pixel has become paler
        pixels = np.clip(pixels * (255 / np.median(strokes)), 0, 255)
    rows, columns = np.flatnonzero(pixels.max(1) > 60), np.flatnonzero(pixels.max(0) > 60)
    if len(rows):
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return pixels.round().astype(np.uint8)


def _stroke(own: np.ndarray) -> tuple[float, float]:
    """How broad the strokes of a piece of ink are, on average and at the widest place, in pixels."""
    step = max(1, int(np.median(run_lengths(own)) // 4))  # of a broad stroke every few pixels will do
    own = np.pad(own[::step, ::step], 1)
    length = max(1, int(skeletonize(own).sum()))
    return step * own.sum() / length, step * 2 * float(ndimage.distance_transform_edt(own).max())
