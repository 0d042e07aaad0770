"""Hard pictures made by code: a line of 8 to 13 MNIST test digits as a phone sees it on paper.

    python tests/data/hard_lines.py CHECKPOINT [COUNT]      how many of them a trained model reads right
    python tests/data/hard_lines.py --save FOLDER [COUNT]   write them as PNG files named by their digits
    python tests/data/hard_lines.py --save FOLDER COUNT val others, of validation digits, to choose settings with

MNIST is found through the environment variable DIGITSUM_MNIST.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

from digitsum.data.glyphs import GlyphPool, load_glyph_pools
from digitsum.data.preparation import prepare_rows
from digitsum.models.checkpoints import load_model
from digitsum.models.module import SumModule

_FINE = 4  # strokes are drawn this many times larger than they are seen


def mnist_digits(root: str, split: str = "test") -> GlyphPool:
    """MNIST's test digits, or those of its training digits that are kept for `val`."""
    return load_glyph_pools("mnist", mnist_root=root)[split]


def hard_line(pool: GlyphPool, seed: int, number: int) -> tuple[np.ndarray, str]:
    """Draw picture `number` of the sequence `seed`.

    Digits of mixed heights of 10 to 26 pixels, from touching to wide apart, strokes of 1 to 4 pixels, a sloping line,
    on grey paper with a gradient and grain, half of the pictures with rules, half with a shadow.

    Returns:
        The picture `(H, W)` uint8 and its digits.
    """
    rng = np.random.default_rng([seed, number])
    ink, digits = draw_line(pool, rng)
    return on_paper(ink, rng), digits


def draw_line(pool: GlyphPool, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The ink of a line, `(H, W)` float in 0..1, and its digits."""
    chosen = rng.integers(len(pool.labels), size=rng.integers(8, 13, endpoint=True))
    stroke, gap, slope = rng.uniform(1, 4), rng.uniform(-1, 12), rng.uniform(-0.1, 0.1)
    heights = rng.uniform(10, 26, size=len(chosen))
    # of a small digit drawn with a broad pen nobody could tell what it was
    glyphs = [_pen(pool.images[one], high, min(stroke, high / 6)) for one, high in zip(chosen, heights, strict=True)]
    width = int(sum(glyph.shape[1] / _FINE + max(gap, 0) + 3 for glyph in glyphs)) + 40
    height = int(70 + abs(slope) * width)
    ink = np.zeros((height * _FINE, width * _FINE), np.float32)
    x = rng.uniform(8, 20)
    for glyph in glyphs:
        middle = height / 2 + slope * (x - width / 2) + rng.normal(0, 1.5)
        top, left = int(middle * _FINE - glyph.shape[0] / 2), int(x * _FINE)
        place = ink[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        np.maximum(place, glyph[: place.shape[0], : place.shape[1]], out=place)
        x += glyph.shape[1] / _FINE + gap * rng.uniform(0.5, 1.5) + rng.uniform(-0.5, 0.5)
    ink = ink.reshape(height, _FINE, width, _FINE).mean((1, 3)) * rng.uniform(0.45, 0.85)
    return ink, "".join(str(digit) for digit in pool.labels[chosen])


def on_paper(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture `(H, W)` uint8 of ink on paper as a camera sees it."""
    height, width = ink.shape
    light = _paper(rng, height, width)
    if rng.random() < 0.5:  # rules
        y = np.arange(height)[:, None] - rng.uniform(-0.03, 0.03) * np.arange(width)
        near = np.abs((y + rng.uniform(0, 40)) % rng.uniform(24, 40) - 10)
        light *= 1 - rng.uniform(0.1, 0.35) * np.clip(1.2 - near, 0, 1)
    seen = ndimage.gaussian_filter(light * (1 - ink), rng.uniform(0.3, 0.8)) + rng.normal(0, 0.015, light.shape)
    return (255 * seen.clip(0, 1)).astype(np.uint8)


def _pen(glyph: np.ndarray, height: float, stroke: float) -> np.ndarray:
    """A glyph drawn anew by a round pen, `height` pixels high, each in `_FINE` fine ones."""
    rows, columns = np.flatnonzero(glyph.max(1)), np.flatnonzero(glyph.max(0))
    cut = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = max(height - stroke, 4) * _FINE / cut.shape[0]
    large = ndimage.zoom(cut.astype(np.float32), factor, order=1)
    line = np.pad(skeletonize(large > 100), int(stroke * _FINE / 2) + 1)
    return (ndimage.distance_transform_edt(~line) <= stroke * _FINE / 2).astype(np.float32)


def _paper(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paper as the light falls on it, `(H, W)` in 0..1."""
    y, x = np.mgrid[0:height, 0:width] / width
    light = rng.uniform(0.6, 0.95) * (1 + rng.uniform(-0.3, 0.3) * (x - 0.5) + rng.uniform(-0.3, 0.3) * y)
    light = light * (1 + 0.03 * ndimage.gaussian_filter(rng.normal(size=(height, width)), 3) * 6)
    if rng.random() < 0.5:  # the shadow of a hand or of the phone
        angle, edge = rng.uniform(0, np.pi), rng.uniform(0.02, 0.1)
        distance = (x - rng.uniform(0.2, 0.8)) * np.cos(angle) + (y - height / width / 2) * np.sin(angle)
        light = light * (1 - rng.uniform(0.15, 0.45) / (1 + np.exp(-distance / edge * 4)))
    return light


def count_right(module: SumModule, pictures: list[tuple[np.ndarray, str]]) -> int:
    """Of how many pictures a model that reads digits reads one row, and all of its digits."""
    right = 0
    for pixels, digits in pictures:
        rows = prepare_rows(pixels, module.image_size[0])
        with torch.inference_mode():
            read = [module.predict(torch.from_numpy(row.image)[None]).sequence.texts()[0] for row in rows]
        right += read == [digits]
    return right


def main() -> None:
    """Read the pictures with a checkpoint, or write them to a folder."""
    save = sys.argv[1] == "--save"
    place, *rest = sys.argv[2:] if save else sys.argv[1:]
    count, split = int(rest[0]) if rest else 500, rest[1] if len(rest) > 1 else "test"
    pool = mnist_digits(os.environ["DIGITSUM_MNIST"], split)
    pictures = [hard_line(pool, 0 if split == "test" else 1, number) for number in range(count)]
    if save:
        Path(place).mkdir(parents=True, exist_ok=True)
        for number, (pixels, digits) in enumerate(pictures):
            Image.fromarray(pixels).save(Path(place) / f"{number:03}_{digits}.png")
        return
    module = load_model(place)
    module.net.set_decoding(num_digits=None, tta=6)
    right = count_right(module, pictures)
    print(f"{right} of {len(pictures)} lines read right ({right / len(pictures):.1%})")


if __name__ == "__main__":
    main()
