"""How dark the ink is at each pixel of a picture, whatever its paper, the light on it and the rules under the ink."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold, rank, threshold_otsu

_SMALL = 128  # pixels of the longer side where paper is estimated
_MIN_CONTRAST = 0.06  # of ink to its paper
_LONGER_TAIL = 1.0  # skewness below which it is that of the paper: digits have 3.5 and more, dark ink's is negative
_MANY_RULES = 3  # that no digit has strokes all the way across
_STEEPEST = 6.0  # degrees, of a rule, but for the last refinement
_COVERED = 0.75  # the share of a row's pixels that a rule darkens at least; dense digits stay below


@dataclass(frozen=True)
class Ink:
    """The ink of a picture.

    Attributes:
        dark: `(H, W)` float32 from 0, the share of the paper's light that is missing.
        level: how dark the middle of a stroke is.
        noise: standard deviation of the paper.
    """

    dark: np.ndarray
    level: float
    noise: float

    def mask(self) -> np.ndarray:
        """`(H, W)` bool, where strokes are: their dark middles and what is about half as dark around them."""
        return apply_hysteresis_threshold(self.dark, max(0.4 * self.level, 3 * self.noise), 0.6 * self.level)


def is_light_on_dark(grey: np.ndarray) -> bool:
    """Whether the ink is brighter than its paper: whether the longer tail around the local median is the bright one.

    Where neither is longer, as of mere paper, it is not. Two squares are looked at and the smaller one's skewness
    counts twice: the edge of a shadow has tails, too, but shorter ones there, while in the larger one a broad pen's
    stroke is surely narrower than its surroundings.

    Args:
        grey: `(H, W)` uint8.
    """
    small = _shrunk(grey, 2 * _SMALL).astype(np.float32)
    tail = 0.0
    for share, weight in ((1, 1), (1 / 2, 2)):
        rest = small - _resized(_median(grey, share), small.shape)
        tail += weight * float((rest**3).mean() / max((rest**2).mean(), 1e-6) ** 1.5)
    return tail > _LONGER_TAIL


def find_ink(grey: np.ndarray, stroke: float | None = None, *, share: float = 1.0) -> Ink | None:
    """The ink of dark strokes on bright paper.

    Args:
        grey: `(H, W)` uint8.
        stroke: how broad strokes are, in pixels. Once that is known, shadows with sharp edges belong to the paper: it
            is then what remains when everything as narrow as a stroke is filled, and else the local median.
        share: of the shorter side, how large the square of that median is.

    Returns:
        None where next to nothing is darker than its surroundings.
    """
    if stroke is None:
        return _darker(grey, ndimage.uniform_filter(_median(grey, share), 3))
    small = _shrunk(grey, min(1000, max(40, round(3 * max(grey.shape) / stroke))))  # strokes of 3 pixels
    size = int(3 * stroke * small.shape[1] / grey.shape[1]) // 2 * 2 + 3
    paper = ndimage.uniform_filter(ndimage.grey_closing(small.astype(np.float32), (size, size)), size)
    return _darker(grey, paper, filled=True)


def _darker(grey: np.ndarray, paper: np.ndarray, *, filled: bool = False) -> Ink | None:
    """What is darker than its paper, which is given smaller, maybe `filled`: as bright as its brightest grain."""
    paper = _resized(paper, grey.shape)
    dark = 1 - (grey + np.float32(1)) / (paper + 1)
    if filled:
        some = dark[::2, ::2]
        dark -= np.median(some[some <= 0.5 * some.max()])
    for blurred in (False, True):
        if blurred:
            dark = ndimage.gaussian_filter(dark, 1)
        some = dark[::2, ::2]
        brighter = some[some < 0]  # than its surroundings, so that there is no ink among it
        noise = 1.4826 * float(np.median(-brighter)) if len(brighter) else 0.0
        found = dark[dark > max(5 * noise, _MIN_CONTRAST)]
        if len(found) < 10:
            return None
        split = threshold_otsu(found) if found.min() < found.max() else found[0]
        level = float(np.median(found[found >= split]))
        if level > 10 * noise:
            break
    return Ink(np.maximum(dark, 0), level, noise)


def without_rules(ink: Ink, digit_height: float) -> Ink | None:
    """The ink without the rules or squares of the paper, or None where there are none.

    A rule darkens nearly a whole row or column of pixels, both ends included, at one angle. What is not much darker
    than the rule that it lies on goes with it.
    """
    dark, found = ink.dark, False
    for turned in (False, True):
        view = dark.T if turned else dark
        level = _rules(view, ink)
        if level is None:
            continue
        rules = ndimage.label(level[:, level.shape[1] // 2])[1]
        # the bar of a single 7 goes all the way across; but where rules join digits, their height is not known
        if rules >= _MANY_RULES or view.shape[1] >= 4 * digit_height:
            dark, found = np.where(dark < 1.4 * (level.T if turned else level) + 2 * ink.noise, 0, dark), True
    return replace(ink, dark=dark) if found else None


def _rules(dark: np.ndarray, ink: Ink) -> np.ndarray | None:
    """How dark rules from left to right are, `(H, W)` float32, 0 beside them; None where there are none."""
    height, width = dark.shape
    size = min(width, 400), max(1, round(height * min(width, 400) / width))
    small = np.minimum(np.asarray(Image.fromarray(dark).resize(size, Image.Resampling.BOX)), ink.level)
    small = ndimage.maximum_filter1d(small, 3, axis=0)  # a rule that bends a little stays in its row
    end = -(-size[0] // 20)
    rank_ = int((1 - _COVERED) * size[0])
    least = max(0.1 * ink.level, 3 * ink.noise)
    away = np.arange(size[0]) - size[0] / 2
    margin = int(np.tan(np.radians(_STEEPEST + 0.5)) * size[0] / 2) + 1
    padded = np.pad(small, ((margin, margin), (0, 0)), mode="edge")
    darker = padded > least
    index = np.arange(margin * size[0], (margin + size[1]) * size[0]).reshape(size[::-1])  # of each pixel in them

    def level_at(angle: float) -> np.ndarray:
        """How dark a rule of this angle is in each row, counted in the middle of the picture; 0 where there is none."""
        slanted = index + np.round(away * np.tan(np.radians(angle))).astype(int) * size[0]
        rows = np.flatnonzero(darker.ravel()[slanted].sum(1) >= size[0] - rank_)  # most rows are not dark enough
        flat = padded.ravel()[slanted[rows]]
        level = np.partition(flat, rank_, axis=1)[:, rank_]
        ends = np.minimum(flat[:, :end].mean(1), flat[:, -end:].mean(1))
        levels = np.zeros(size[1], np.float32)
        levels[rows] = np.where(ends > 0.5 * level, level, 0)
        return levels

    def score(angle: float) -> float:
        return float((level_at(angle) ** 2).sum())

    angle = max(np.arange(-_STEEPEST, _STEEPEST + 0.1, 0.5), key=score)
    angle = max(angle + np.arange(-0.375, 0.4, 0.125), key=score)
    level = level_at(angle)
    if not level.any():
        return None
    row = np.arange(height)[:, None] - (np.arange(width) - width / 2) * np.tan(np.radians(angle))
    return level[np.clip(np.round(row * size[1] / height), 0, size[1] - 1).astype(int)]


def _shrunk(grey: np.ndarray, longest: int) -> np.ndarray:
    """The picture with a longer side of at most `longest` pixels, each the mean of those that it stands for."""
    scale = min(1, longest / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.array(Image.fromarray(grey).resize(size, Image.Resampling.BOX))  # a copy: rank filters want to write


def _resized(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels `(h, w)` float32 between which others are interpolated, `shape` `(H, W)`."""
    height, width = shape
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _median(grey: np.ndarray, share: float) -> np.ndarray:
    """The median around each place of a picture, float32 and small: in a square as high as this share of its height.

    Of a picture that is higher than wide, of its width.
    """
    small = _shrunk(grey, _SMALL)
    size = int((min(small.shape) - 1) * share) // 2 * 2 + 1
    return rank.median(small, np.ones((size, size), bool)).astype(np.float32)
