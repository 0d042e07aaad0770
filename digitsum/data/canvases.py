"""Canvases: several glyphs on one image, their layout drawn from a distribution, with the sum of their digits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from digitsum.data.glyphs import GLYPH_SIZE, GlyphPool
from digitsum.data.pen import drawn_with_pen
from digitsum.errors import InputError, check

# Canvases are drawn in blocks with a random generator each, so that canvas i is the same however many are asked
# for at once, and so that any of them can be drawn without the ones before. Changing it changes every data set.
_BLOCK = 1_000

_PEN_WIDTHS = (1.0, 4.0)  # of a canvas's pen, the narrowest and the broadest, in pixels

OVERLAPS: dict[str, Callable[..., np.ndarray]] = {
    "wrap": np.add,
    "max": np.maximum,
    "clip": lambda below, ink: below + np.minimum(ink, 255 - below),
}
"""What becomes of two brightnesses, both uint8."""


def number_range(value: Any, name: str, or_else: str = "") -> tuple[int, int]:
    """Both ends of a whole number from 1, or of a range `[min, max]` of them.

    Raises:
        InputError: it is neither; `name` is what it is called, `or_else` what it may be as well.
    """
    ends = [value, value] if type(value) is int else value
    whole = isinstance(ends, Sequence) and len(ends) == 2 and all(type(end) is int for end in ends)
    good = whole and 1 <= ends[0] <= ends[1]
    check(name, value, good, f"a whole number from 1 or a range [min, max]{or_else}")
    return ends[0], ends[1]


@dataclass
class Layout:
    """The layout distribution: how digits are placed on a canvas. The defaults are the public data set's.

    The first tile's left edge is `max(0, U{-first_offset..first_offset})`, each next left edge is the one before
    `+ 28 + U{-pitch_jitter..pitch_jitter}`, and each top edge is `U{0..vertical_jitter}`, where `U{a..b}` is a
    uniform whole number with both ends included. (Source: inferred by matching images of the public data set to MNIST.)
    With digits of several sizes, each uniform within `digit_scale`, a tile is a square of `28 * size` pixels, so much
    is added to the next left edge for each pixel above, and what it lacks of 28 pixels is half above it.

    Raises:
        InputError: a value out of range, or a canvas too small for the widest layout that can be drawn.
    """

    height: int = 40  # of the canvas, in pixels
    width: int = 168
    num_digits: Any = 4  # an int, or a range [min, max], each count equally likely; OmegaConf has no such union
    pitch_jitter: int = 14  # how far, in pixels, the distance between two left edges strays from 28
    first_offset: int = 14  # the largest left margin, in pixels
    vertical_jitter: int = 11  # the largest top margin, in pixels
    # the smallest and the largest size of a digit, a share of 28 pixels; with its size goes the distance to the next
    digit_scale: Any = field(default_factory=lambda: [1.0, 1.0])
    pen: float = 0.0  # the share of canvases whose digits are drawn anew with one round pen of 1 to 4 pixels
    # ink on ink: `wrap` adds modulo 256 as in the public files, `max` keeps the brighter, `clip` adds up to 255
    overlap: str = "wrap"

    def __post_init__(self) -> None:
        max_digits = self.digit_range[1]
        check(
            "layout.pitch_jitter", self.pitch_jitter, 0 <= self.pitch_jitter <= GLYPH_SIZE, f"0 to {GLYPH_SIZE} pixels"
        )
        for name in ("first_offset", "vertical_jitter"):
            check(f"layout.{name}", getattr(self, name), getattr(self, name) >= 0, "0 or more pixels")
        check("layout.overlap", self.overlap, self.overlap in OVERLAPS, f"one of {', '.join(OVERLAPS)}")
        scale = self.digit_scale
        two = isinstance(scale, Sequence) and len(scale) == 2 and all(type(end) in (int, float) for end in scale)
        good = two and 0.25 <= scale[0] <= scale[1] <= 4
        check("layout.digit_scale", scale, good, "[smallest, largest], 0.25 to 4")
        check("layout.pen", self.pen, 0 <= self.pen <= 1, "a share, 0 to 1")
        side, pitch = round(GLYPH_SIZE * scale[1]), round((GLYPH_SIZE + self.pitch_jitter) * scale[1])
        needed = {
            "width": self.first_offset + side + (max_digits - 1) * pitch,
            "height": max(side, GLYPH_SIZE + self.vertical_jitter),
        }
        for name, pixels in needed.items():
            if getattr(self, name) < pixels:
                raise InputError(
                    f"layout.{name}: {max_digits} digits can reach {pixels} pixels, got {getattr(self, name)}; "
                    f"set data.layout.{name}={pixels}"
                )

    @property
    def digit_range(self) -> tuple[int, int]:
        """The smallest and the largest number of digits on a canvas."""
        return number_range(self.num_digits, "layout.num_digits")


@dataclass(frozen=True)
class Placements:
    """What was drawn on `N` canvases with up to `D` digits each; places without a digit hold -1."""

    digits: np.ndarray  # (N, D) int8, from left to right
    left: np.ndarray  # (N, D) int16, left edges in pixels of the 28 pixels around the tiles' middles
    top: np.ndarray  # (N, D) int16, top edges in pixels, likewise
    glyph: np.ndarray  # (N, D) int32, which glyph of the source was drawn (`GlyphPool.index`)

    @property
    def sums(self) -> np.ndarray:
        """`(N,)` int64, the sum of the digits on each canvas."""
        return np.where(self.digits >= 0, self.digits, 0).sum(1, dtype=np.int64)


def compose(
    layout: Layout, pool: GlyphPool, *, seed: int, stream: int, start: int, count: int
) -> tuple[np.ndarray, Placements]:
    """Draw canvases `start` to `start + count` of an endless, reproducible sequence, however it is cut into calls.

    Each glyph of the pool is as likely as the others. A `seed` of 0 or more has independent sequences, one for each
    `stream`.

    Returns:
        The canvases `(count, H, W)` uint8 and what was drawn on them.
    """
    assert count >= 1
    blocks = range(start // _BLOCK, (start + count - 1) // _BLOCK + 1)
    drawn = [_draw_block(layout, len(pool.labels), seed, stream, block) for block in blocks]
    window = slice(start - blocks[0] * _BLOCK, start - blocks[0] * _BLOCK + count)
    chosen, left, top, side, stroke = (np.concatenate(parts)[window] for parts in zip(*drawn, strict=True))
    absent = chosen < 0
    rim = (GLYPH_SIZE - side) // 2
    columns = (
        (pool.labels[chosen], np.int8),
        (left - rim, np.int16),
        (top - rim, np.int16),
        (pool.index[chosen], np.int32),
    )
    placements = Placements(*(np.where(absent, -1, values).astype(dtype) for values, dtype in columns))
    return _render(layout, pool.images, chosen, left, top, side, stroke), placements


def _draw_block(layout: Layout, num_glyphs: int, seed: int, stream: int, block: int) -> tuple[np.ndarray, ...]:
    """Draw where digits are, and with which pen.

    Returns:
        `(_BLOCK, D)` positions in the pool (-1 where no digit is), left and top edges, and sides of the tiles, and
        `(_BLOCK,)` widths of the pens, 0 where glyphs stay as they are.
    """
    rng = np.random.default_rng([seed, stream, block])
    min_digits, max_digits = layout.digit_range
    shape = (_BLOCK, max_digits)
    chosen = rng.integers(num_glyphs, size=shape)
    first = np.maximum(0, rng.integers(-layout.first_offset, layout.first_offset, size=(_BLOCK, 1), endpoint=True))
    jitter = rng.integers(-layout.pitch_jitter, layout.pitch_jitter, size=(_BLOCK, max_digits - 1), endpoint=True)
    top = rng.integers(0, layout.vertical_jitter, size=shape, endpoint=True)
    counts = rng.integers(min_digits, max_digits, size=(_BLOCK, 1), endpoint=True)
    scale = rng.uniform(layout.digit_scale[0], layout.digit_scale[1], size=shape)
    side = np.rint(GLYPH_SIZE * scale).astype(np.int64)
    pitch = np.rint((GLYPH_SIZE + jitter) * scale[:, :-1]).astype(np.int64)
    left = np.cumsum(np.concatenate([first, pitch], axis=1), axis=1)
    top = (top + (GLYPH_SIZE - side) // 2).clip(0, layout.height - side)
    stroke = np.where(rng.random(_BLOCK) < layout.pen, rng.uniform(*_PEN_WIDTHS, size=_BLOCK), 0.0)
    return np.where(np.arange(max_digits) < counts, chosen, -1), left, top, side, stroke


def _render(
    layout: Layout,
    glyphs: np.ndarray,
    chosen: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    side: np.ndarray,
    stroke: np.ndarray,
) -> np.ndarray:
    canvases = np.zeros((len(chosen), layout.height, layout.width), np.uint8)
    blend = OVERLAPS[layout.overlap]
    for pixels in np.unique(side):
        # (N, H - side + 1, W - side + 1, side, side): every place that a tile can have, without a copy
        tiles = np.lib.stride_tricks.sliding_window_view(canvases, (pixels, pixels), axis=(1, 2), writeable=True)
        for place in range(chosen.shape[1]):
            rows = np.flatnonzero((chosen[:, place] >= 0) & (side[:, place] == pixels))
            if not len(rows):
                continue
            where = (rows, top[rows, place], left[rows, place])
            drawn = _resized(glyphs[chosen[rows, place]], pixels)
            for number in np.flatnonzero(stroke[rows]):
                row = rows[number]
                # nobody could tell a small digit from a broad pen's blot
                drawn[number] = drawn_with_pen(glyphs[chosen[row, place]], pixels, min(stroke[row], pixels / 7))
            tiles[where] = blend(tiles[where], drawn)
    return canvases


def _resized(glyphs: np.ndarray, side: int) -> np.ndarray:
    """Glyphs `(G, 28, 28)` uint8 as `(G, side, side)`, each new pixel the mean of what it covers, where they shrink."""
    if side == GLYPH_SIZE:
        return glyphs
    grey = torch.from_numpy(glyphs)[:, None].float()
    small = F.interpolate(grey, (side, side), mode="bilinear", align_corners=False, antialias=True)
    resized: np.ndarray = small[:, 0].round().to(torch.uint8).numpy()
    return resized
