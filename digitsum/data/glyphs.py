"""Handwritten digits, 28x28: bundled, MNIST or the user's own, split into pools that share nothing."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from digitsum.data.pixels import check_brightness
from digitsum.errors import InputError, check
from digitsum.files import exists, read_npy

GLYPH_SIZE = 28
"""Height and width of a glyph in pixels, as in MNIST."""

SPLITS = ("train", "val", "test")

# Which glyphs are held out never depends on a user's seed: two composed sets of one source can then be told apart
# by their canvases alone, and a model trained on one is strictly tested on another.
_POOL_SEED = 20260101
_NUM_MNIST_TRAIN, _NUM_MNIST_VAL = 60_000, 5_000

# The published digests of the unpacked files (yann.lecun.com/exdb/mnist, mirrored by torchvision).
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class GlyphPool:
    """Glyphs that canvases of one split are drawn from.

    `index` is each glyph's number in its source, the same in every pool. MNIST counts its training digits 0..59,999 and
    its test digits 60,000..69,999.
    """

    images: np.ndarray  # (G, 28, 28) uint8, white strokes on a background of exactly 0
    labels: np.ndarray  # (G,) int64, the digits 0..9
    index: np.ndarray  # (G,) int64

    def __post_init__(self) -> None:
        assert self.images.shape == (len(self.labels), GLYPH_SIZE, GLYPH_SIZE)
        assert len(self.index) == len(self.labels) > 0

    def take(self, positions: np.ndarray) -> "GlyphPool":
        """The glyphs at `positions` `(K,)`, as a pool of their own."""
        return GlyphPool(self.images[positions], self.labels[positions], self.index[positions])


def load_glyph_pools(
    source: str,
    *,
    mnist_root: str | None = None,
    download: bool = False,
    glyph_images: str | None = None,
    glyph_labels: str | None = None,
    shared: bool = False,
) -> dict[str, GlyphPool]:
    """Load a source of glyphs and split it into the pools `train`, `val` and `test`, which share none.

    The source is `bundled` (the 1,797 digits that scikit-learn ships), `mnist` (in `mnist_root`, as torchvision has it,
    maybe after a `download`), or `arrays`: the user's `.npy` files `glyph_images` `(G, 28, 28)` uint8 and
    `glyph_labels` `(G,)`, whole numbers 0..9. With `shared` the pools are one, as in the public data set, without
    MNIST's test digits: a figure on such a test set is optimistic.

    Raises:
        InputError: an unknown source, a missing or damaged file, or too few glyphs to split.
    """
    sources: dict[str, Callable[[], GlyphPool]] = {
        "bundled": _bundled,
        "mnist": lambda: _mnist(mnist_root, download),
        "arrays": lambda: _own(glyph_images, glyph_labels),
    }
    check("data.glyphs", source, source in sources, "bundled, mnist or arrays")
    everything, mnist = sources[source](), source == "mnist"
    count = _NUM_MNIST_TRAIN if mnist else len(everything.labels)
    if shared:
        return dict.fromkeys(SPLITS, everything.take(np.arange(count)))
    order, num_val = np.random.default_rng(_POOL_SEED).permutation(count), _NUM_MNIST_VAL if mnist else count // 10
    if num_val == 0:
        raise InputError(
            f"{glyph_images}: expected at least 10 glyphs to split 80/10/10, found {count}; "
            "add glyphs or set data.glyphs_shared=true"
        )
    val, rest = np.split(order, [num_val])
    # MNIST has test digits of its own
    test, train = (np.arange(count, len(everything.labels)), rest) if mnist else np.split(rest, [num_val])
    return {split: everything.take(np.sort(part)) for split, part in zip(SPLITS, (train, val, test), strict=True)}


def _bundled() -> GlyphPool:
    from sklearn.datasets import load_digits  # a second to import, needed only to compose

    digits = load_digits()
    images = _as_pen_strokes(torch.tensor(digits.images, dtype=torch.float32) / 16)
    return GlyphPool(images, digits.target.astype(np.int64), np.arange(len(images)))


def _as_pen_strokes(coarse: torch.Tensor) -> np.ndarray:
    """Bring `(G, 8, 8)` ink densities in [0, 1] to `(G, 28, 28)` uint8 strokes with MNIST's size and place.

    An 8x8 digit is a blurred, sampled pen stroke: enlarged smoothly and put through a steep contrast curve it is one
    again. As in MNIST the ink's bounding box then fits 20x20 pixels and its centre of mass is the tile's.
    """
    size = 60  # the 8 pixels, 2 of margin on each side, each enlarged five times
    large = F.interpolate(F.pad(coarse[:, None], (2, 2, 2, 2)), size=(size, size), mode="bicubic")
    steep = ((large - 0.35) / 0.45).clamp(0, 1)
    ink = steep * steep * (3 - 2 * steep)

    inked = ink[:, 0] > 0.3
    spans = (size - line.argmax(1) - line.flip(1).argmax(1) for line in (inked.any(2).float(), inked.any(1).float()))
    scale = torch.maximum(*spans) / 20

    places = torch.arange(size) + 0.5
    offsets = torch.arange(GLYPH_SIZE) + 0.5 - GLYPH_SIZE / 2
    mass = ink.sum((1, 2, 3))
    centres = ((ink.sum(others) * places).sum(1) / mass for others in ((1, 3), (1, 2)))
    ys, xs = ((centre[:, None] + offsets * scale[:, None]) / size * 2 - 1 for centre in centres)
    grid = torch.stack([xs[:, None, :].expand(-1, GLYPH_SIZE, -1), ys[:, :, None].expand(-1, -1, GLYPH_SIZE)], dim=-1)
    strokes = F.grid_sample(ink, grid, mode="bilinear", align_corners=False)[:, 0]
    return (strokes * 255).round().to(torch.uint8).numpy()


def _mnist(root: str | None, download: bool) -> GlyphPool:
    how = "set data.mnist_root (or DIGITSUM_MNIST) to the folder that holds MNIST/raw, or pass data.download=true"
    if root is None:
        raise InputError(f"data.mnist_root: expected the folder that holds MNIST/raw, got none; {how}")
    folder = Path(root, "MNIST", "raw")
    if download and not all(exists(folder / name) for name in _MNIST_MD5):
        from torchvision.datasets import MNIST  # two seconds to import

        try:
            MNIST(root, download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"MNIST cannot be downloaded to {root} ({str(error).splitlines()[0]})") from error
    files = []
    for name, digest in _MNIST_MD5.items():
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"MNIST not found in {root}: {how}") from error
        except OSError as error:
            raise InputError(f"cannot read {folder / name}: {error.strerror or error}") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise InputError(f"{folder / name} is not the published MNIST file (MD5 differs): delete it, then {how}")
        files.append(np.frombuffer(content, np.uint8))
    images = np.concatenate([file[16:] for file in files[::2]]).reshape(-1, GLYPH_SIZE, GLYPH_SIZE)
    labels = np.concatenate([file[8:] for file in files[1::2]]).astype(np.int64)  # both behind their headers
    return GlyphPool(images, labels, np.arange(len(labels)))


def _own(images_path: str | None, labels_path: str | None) -> GlyphPool:
    if images_path is None or labels_path is None:
        raise InputError("data.glyphs=arrays needs data.glyph_images=FILE.npy and data.glyph_labels=FILE.npy")
    images, labels = read_npy(Path(images_path)), read_npy(Path(labels_path))
    if images.shape[1:] != (GLYPH_SIZE, GLYPH_SIZE) or images.dtype != np.uint8:
        found = f"{images.shape} and {images.dtype}"
        raise InputError(f"{images_path}: expected glyphs of shape (G, 28, 28) and dtype uint8, found {found}")
    check_brightness(Path(images_path), [images])
    if labels.shape != (len(images),):
        raise InputError(f"{labels_path}: expected one label for each of {len(images)} glyphs, found {labels.shape}")
    if labels.dtype.kind not in "iuf" or not np.isin(labels, np.arange(10)).all():
        raise InputError(f"{labels_path}: expected whole numbers from 0 to 9, found {labels.dtype} with other values")
    return GlyphPool(np.asarray(images), labels.astype(np.int64), np.arange(len(images)))
