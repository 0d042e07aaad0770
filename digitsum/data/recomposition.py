"""Recomposition: training canvases composed anew from glyphs that were cut out of others and read.

A canvas that falls apart into as many pieces as digits were read on it gives its pieces, and their places. Other glyphs
in these places make a new canvas whose sum is known: fresh neighbours, and fresh overlaps, which are what a reader errs
on most.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from digitsum.data.canvases import OVERLAPS
from digitsum.data.components import cut_pieces
from digitsum.data.shards import SumDataset

BLENDS = (*OVERLAPS, "mixed")

_MAX_PIXELS = 2**28  # of the canvases that are cut
_MAX_GLYPH_PIXELS = 2**28
_WINDOW = 1.25  # of the usual glyph's longer side: what is larger is no digit, or several
_MIN_GLYPHS = 100  # of fewer nothing is composed
_JITTER = (2, 4)  # pixels that a glyph strays from its place, down, and from the one before, to the right
# What no distortion of a whole canvas can do, a glyph does by itself: turn by up to so much of a circle, and grow or
# shrink by up to such a share.
_TURN = 15 / 360
_GROWTH = 0.1
# Canvases that fall apart are those whose glyphs stand far from one another: half of the new ones are narrower, down to
# this share of the distances, but no glyphs are nearer than this share of the usual one's longer side: who could read
# them?
_NARROWEST = 0.6
_NEAREST = 0.6
_HARD = 1 / 20  # of the glyphs are the hardest
_UNBELIEVED = 0.5  # a glyph whose digit has less than this probability is badly cut or badly labelled, if not odd
_BATCH = 64  # glyphs that are shown at once
_LEAST_LOSS = 1e-3  # nats: of glyphs that are all surer than that none is hard


class Recomposition:
    """Composes batches anew from the glyphs of a training split.

    Args:
        dataset: the split.
        digits: `(N, D)`, what was read on each of its images, from left to right, -1 behind the last one; an image of
            -1 alone is left out.
        overlap: what becomes of ink on ink: `wrap`, `max` or `clip` (see `digitsum.data.canvases.Layout`), or, where it
            is not known, `mixed`: on each image one of the first and the last.

    Attributes:
        num_canvases: how many canvases fall apart into the digits that were read on them.
        num_glyphs: how many glyphs they have. A recomposition without any leaves all images as they are.
    """

    def __init__(self, dataset: SumDataset, digits: torch.Tensor, overlap: str) -> None:
        assert overlap in BLENDS
        self.overlap = overlap
        height, width = dataset.images.image_size
        read = torch.nonzero((digits >= 0).any(1)).flatten()
        limit = max(1, _MAX_PIXELS // (height * width))
        if len(read) > limit:  # from all over the split
            read = read[torch.linspace(0, len(read) - 1, limit).long()]
        pieces = cut_pieces(dataset.images.gather(dataset.index[read]).numpy())
        canvas = torch.from_numpy(pieces.canvas)
        side = math.ceil(_WINDOW * pieces.side)
        sizes = torch.tensor([crop.shape for crop in pieces.crops]).reshape(-1, 2)
        unfit = torch.from_numpy(pieces.wide) | (sizes > side).any(1)
        clean = torch.bincount(canvas, minlength=len(read)) == (digits[read] >= 0).sum(1)
        clean[canvas[unfit]] = False
        kept = clean[canvas]
        self.num_canvases, self.num_glyphs = int(clean.sum()), int(kept.sum())
        if self.num_glyphs < _MIN_GLYPHS:
            self.num_canvases = self.num_glyphs = 0
            return
        numbers = torch.nonzero(kept).flatten()[: max(1, _MAX_GLYPH_PIXELS // side**2)]
        self._glyphs = torch.zeros((len(numbers), side, side), dtype=torch.uint8)
        for glyph, number in zip(self._glyphs, numbers.tolist(), strict=True):
            crop = torch.from_numpy(pieces.crops[number])
            top, left = ((side - length) // 2 for length in crop.shape)
            glyph[top : top + len(crop), left : left + crop.shape[1]] = (255 * crop).round()
        self._nearest = round(2 * _NEAREST * pieces.side)
        self._sizes = sizes[numbers]
        present = digits[read[clean]] >= 0  # (C, D)
        self._digits = digits[read[clean]][present][: len(numbers)].long()
        # each canvas's places: the middles of its glyphs, doubled, -1 without a glyph
        self._places = torch.full((*present.shape, 2), -1)
        self._places[present] = (2 * torch.from_numpy(pieces.corner) + sizes)[kept]
        # which of these canvases an image of the folder is, -1 for none
        self._canvas = torch.full((int(dataset.index.max()) + 1,), -1)
        self._canvas[dataset.index[read[clean]]] = torch.arange(self.num_canvases)
        self._height = height
        self._cumulative: torch.Tensor | None = None  # (G,) shares of the glyphs, added up; None: all alike

    def to(self, device: torch.device) -> "Recomposition":
        """Compose on `device` from now on."""
        if self.num_glyphs:
            for name in ("_glyphs", "_sizes", "_digits", "_places", "_canvas"):
                setattr(self, name, getattr(self, name).to(device))
            if self._cumulative is not None:
                self._cumulative = self._cumulative.to(device)
        return self

    def glyphs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The glyphs that are drawn from, each by itself and turned and scaled by chance, if there are any.

        Yields:
            `(B, H, W)` uint8 images, as high as the canvases and with blank on both sides, which a reader is used to,
            and `(B,)` int64 digits.
        """
        side = self._glyphs.shape[1]
        above, beside = self._height - side, 2 * side // 3
        borders = (beside, beside, above // 2, above - above // 2)
        for glyphs, digits in zip(self._glyphs.split(_BATCH), self._digits.split(_BATCH), strict=True):
            yield F.pad(_turned(glyphs), borders), digits

    def prefer_hard(self, probs: torch.Tensor, ratio: float) -> None:
        """From now on draw the hardest twentieth of the glyphs `ratio` times as often as the easiest ones.

        A glyph is as hard as -log of the probability of its digit, in nats; the easier ones are drawn in proportion
        less often, and all alike where that of the hardest is next to nothing. One that is more likely another digit
        than its own is drawn like the easiest.

        Args:
            probs: `(G,)`, the probability of the digit of each glyph by itself, in the order of `glyphs`.
            ratio: 1 or more.
        """
        assert len(probs) == self.num_drawn
        loss, believed = -probs.clamp_min(1e-9).log(), probs >= _UNBELIEVED
        if not believed.any():
            return
        hardest = loss[believed].sort().values[-math.ceil(_HARD * int(believed.sum()))].clamp_min(_LEAST_LOSS)
        weights = torch.where(believed, 1 + (ratio - 1) * (loss / hardest).clamp_max(1), 1.0).double().cumsum(0)
        self._cumulative = (weights / weights[-1]).float().to(self._glyphs.device)

    def __call__(
        self, images: torch.Tensor, sums: torch.Tensor, index: torch.Tensor, share: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compose about a `share` of those images anew that fall apart, on the device that `to` named.

        The random numbers are those of torch's generator of that device.

        Args:
            images: `(B, H, W)` uint8, or float in [0, 1]; cut on the right, perhaps, behind their ink.
            sums: `(B,)` int64.
            index: `(B,)` int64, their numbers in the folder.
            share: in [0, 1].

        Returns:
            Images and sums of the same shapes and types; and `(B, D)` int64 the digits of the new ones, from left to
            right, -1 behind the last one and for those that are as they were.
        """
        unknown = sums.new_full((len(sums), 1), -1)
        if not self.num_glyphs:
            return images, sums, unknown
        device, (height, width) = images.device, images.shape[1:]
        canvas = self._canvas[index]
        chosen = torch.nonzero((canvas >= 0) & (torch.rand(len(canvas), device=device) < share)).flatten()
        count = len(chosen)
        if not count:
            return images, sums, unknown
        places = self._places[canvas[chosen]]  # (C, D, 2), of C chosen images
        present = places[..., 0] >= 0
        narrower = torch.empty((count, 1), device=device).uniform_(_NARROWEST, 1)
        narrower.masked_fill_(torch.rand((count, 1), device=device) < 0.5, 1)
        down, right = (
            torch.randint(-2 * most, 2 * most + 1, present.shape, device=device) for most in _JITTER
        )  # halves of a pixel, as the places
        gaps = places[:, 1:, 1] - places[:, :-1, 1]
        nearest = gaps.clamp_max(self._nearest)
        gaps = torch.maximum((gaps * narrower).long() + right[:, 1:], nearest)
        columns = (places[:, :1, 1] + right[:, :1]) + F.pad(gaps, (1, 0)).cumsum(1)
        places = torch.stack([places[..., 0] + down, columns], dim=2)
        if self._cumulative is None:
            drawn = torch.randint(self.num_drawn, present.shape, device=device)
        else:
            # `torch.multinomial` adds up anew for each batch, and on a GPU not always in the same order
            drawn = torch.searchsorted(self._cumulative, torch.rand(present.shape, device=device), right=True)
            drawn = drawn.clamp_max(self.num_drawn - 1)
        sizes, side = self._sizes[drawn], self._glyphs.shape[1]
        corner = torch.div(places - sizes, 2, rounding_mode="floor")
        room = torch.tensor([height, width], device=device) - sizes
        corner = torch.minimum(corner, room).clamp_min(0)  # of the ink, which stays on the canvas
        corner -= (side - sizes) // 2  # of the window around it
        steps = torch.arange(side, device=device)
        down, right = corner[..., 0, None] + steps, corner[..., 1, None] + steps  # (C, D, side)
        ink = _turned(self._glyphs[drawn].flatten(0, 1)).view(*drawn.shape, side, side)
        inside = ((down >= 0) & (down < height))[..., None] & ((right >= 0) & (right < width))[..., None, :]
        ink *= inside & present[..., None, None]
        pixel = (down.clamp(0, height - 1) * width)[..., None] + right.clamp(0, width - 1)[..., None, :]
        # of 8 bits, a sum wraps by itself
        dtype = torch.uint8 if self.overlap in ("wrap", "max") else torch.int16
        composed = torch.zeros((count, height * width), dtype=dtype, device=device)
        if self.overlap == "max":
            composed.scatter_reduce_(1, pixel.flatten(1), ink.flatten(1), "amax")
        else:
            composed.scatter_add_(1, pixel.flatten(1), ink.flatten(1).to(dtype))
        if self.overlap == "mixed":
            wrapped = torch.rand((count, 1), device=device) < 0.5
            composed = torch.where(wrapped, composed % 256, composed)
        fresh = composed.clamp_max(255).view(count, height, width).to(images.dtype)
        digits = torch.where(present, self._digits[drawn], -1)
        return (
            images.index_copy(0, chosen, fresh if images.dtype == torch.uint8 else fresh / 255),
            sums.index_copy(0, chosen, digits.clamp_min(0).sum(1)),
            unknown.expand(-1, digits.shape[1]).index_copy(0, chosen, digits),
        )

    @property
    def num_drawn(self) -> int:
        """How many glyphs are drawn from: all, or as many as memory is for."""
        return len(self._glyphs)


def _turned(glyphs: torch.Tensor) -> torch.Tensor:
    """Each of the glyphs `(N, side, side)` uint8 turned around its middle, and smaller or larger, by chance."""
    turn, size = (
        torch.empty(len(glyphs), device=glyphs.device).uniform_(-most, most) for most in (2 * math.pi * _TURN, _GROWTH)
    )
    cos, sin = turn.cos() * (1 + size), turn.sin() * (1 + size)
    middle = torch.zeros_like(cos)
    maps = torch.stack([cos, -sin, middle, sin, cos, middle], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps, [len(glyphs), 1, *glyphs.shape[1:]], align_corners=False)
    return F.grid_sample(glyphs[:, None].float(), grid, align_corners=False)[:, 0].round().to(torch.uint8)
