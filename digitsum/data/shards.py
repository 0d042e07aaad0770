"""Shards on disk (`data0.npy`, `lab0.npy`, ...) as one checked, memory-mapped view of images and sums."""

import hashlib
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from digitsum.data.glyphs import SPLITS
from digitsum.data.pixels import CHUNK, check_brightness
from digitsum.errors import InputError
from digitsum.files import allow_open_files, exists, is_folder, read_npy

_NAME = re.compile(r"(data|lab|label)(\d+)\.npy")
_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)  # Windows has none


class MemmapImages:
    """Images in one or more memory-mapped arrays, gathered by their numbers as uint8 or float32 (`dtype`).

    Args:
        arrays: each `(n, *image_size)`, `image_size` being `(H, W)`, all uint8 or all float.
        names: of the arrays' files, for the fingerprint.
    """

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str] = ()) -> None:
        assert arrays
        self._names, self._arrays = list(names), list(arrays)
        # every look into a memmap makes another memmap, which takes longer than to copy an image
        self._parts = [np.asarray(array) for array in arrays]
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.image_size: tuple[int, int] = (arrays[0].shape[1], arrays[0].shape[2])
        self.dtype = torch.uint8 if arrays[0].dtype == np.uint8 else torch.float32

    def __len__(self) -> int:
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        """Hexadecimal digits that change with the arrays' names, shapes, dtypes, and some images spaced over each.

        They are 64 of each of up to 16 arrays, and fewer of more: each is a place of its own on the disk.
        """
        digest = hashlib.blake2b(repr(self._names).encode(), digest_size=16)
        samples = min(64, max(4, 1_024 // len(self._parts)))
        rows = [np.unique(np.linspace(0, len(part) - 1, samples).astype(np.int64)) for part in self._parts]
        for number in np.concatenate([start + some for start, some in zip(self._starts, rows, strict=False)]):
            self.read_ahead(number, number + 1)  # all at once: in turn the disk takes twenty times as long
        for part, some in zip(self._parts, rows, strict=True):
            spaced = torch.from_numpy(part[some])
            digest.update(repr((part.shape, spaced.dtype)).encode() + spaced.numpy().tobytes())
        return digest.hexdigest()

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """Read the images at `index` `(B,)` int64: `(B, H, W)` uint8 in 0..255, or float32 in [0, 1]."""
        numbers = index.numpy()
        images = torch.empty((len(numbers), *self.image_size), dtype=self.dtype)
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        rows = (numbers - self._starts[shards]).tolist()
        # image by image: shuffled batches have hardly two of one shard
        for image, shard, row in zip(images.numpy(), shards.tolist(), rows, strict=True):
            image[...] = self._parts[shard][row]
        return images

    def read_ahead(self, first: int, last: int) -> None:
        """Ask the operating system to read images `first` to before `last` off the disk; returns without waiting."""
        shards = np.searchsorted(self._starts, [first, last - 1], side="right") - 1
        for shard in range(shards[0], shards[1] + 1):
            array, start = self._arrays[shard], int(self._starts[shard])
            begin, end = max(int(first) - start, 0), min(int(last) - start, len(array))
            mapped = getattr(array, "_mmap", None)
            if begin < end and mapped is not None and _WILL_NEED is not None:
                offset = array.offset % mmap.ALLOCATIONGRANULARITY  # type: ignore[attr-defined]
                stride = array.strides[0]
                page = (offset + begin * stride) // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(_WILL_NEED, page, offset + end * stride - page)


@dataclass(frozen=True)
class SumDataset:
    """A split: which images of a folder belong to it, and their sums."""

    images: MemmapImages  # the folder's
    sums: torch.Tensor | None  # (M,) int64 for every image of the folder, where they are known
    index: torch.Tensor  # (N,) int64, the numbers of the split's images in the folder

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_bytes(self) -> int:
        """How many bytes the split's images are, as `images.gather` gives them."""
        height, width = self.images.image_size
        return len(self) * height * width * self.images.dtype.itemsize

    def fingerprint(self) -> str:
        """Hexadecimal digits that change with the images (see `MemmapImages.fingerprint`), any sum, or the split."""
        digest = hashlib.blake2b(self.images.fingerprint().encode(), digest_size=16)
        for numbers in (self.sums, self.index):
            digest.update(b"" if numbers is None else numbers.numpy().tobytes())
        return digest.hexdigest()


def open_splits(root: Path, split_seed: int) -> dict[str, SumDataset]:
    """Open the user's folder of shards as `train`, `val` and `test`.

    Either it has sub-folders of these names, each with shards and images of one size, or shards itself, 10 images or
    more, split 80/10/10 at random by `split_seed`. Anything else is an InputError; see `open_shards`.
    """
    if not is_folder(root):
        raise InputError(f"{root}: expected a folder of shards, found {'a file' if exists(root) else 'nothing'}")
    missing = [split for split in SPLITS if not is_folder(root / split)]
    if not missing:
        splits = {split: open_shards(root / split) for split in SPLITS}
        sizes = {split: "{}x{}".format(*dataset.images.image_size) for split, dataset in splits.items()}
        for split, size in sizes.items():
            if size != sizes["train"]:
                raise InputError(f"{root / split}: expected images of {sizes['train']} as in train, found {size}")
        return splits
    if len(missing) < len(SPLITS):
        raise InputError(f"{root}: expected sub-folders train, val and test, found no {' and no '.join(missing)}")
    everything = open_shards(root)
    tenth = len(everything) // 10
    if tenth == 0:
        raise InputError(f"{root}: expected at least 10 images to split 80/10/10, found {len(everything)}")
    order = torch.from_numpy(np.random.default_rng(split_seed).permutation(len(everything)))
    parts = {"train": order[2 * tenth :], "val": order[:tenth], "test": order[tenth : 2 * tenth]}
    return {split: SumDataset(everything.images, everything.sums, part.sort().values) for split, part in parts.items()}


def has_shards(folder: Path) -> bool:
    """Whether an existing folder has images in shards, `data0.npy` and so on."""
    try:
        return any(match[1] == "data" for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
    except OSError:  # whoever reads it says why
        return False


def open_shards(folder: Path, *, need_sums: bool = True) -> SumDataset:
    """Open and check every shard of a folder: `data*.npy` with `lab*.npy` or `label*.npy`, in natural order.

    Images are `(n, H, W)`, `(n, 1, H, W)` or `(n, H, W, 1)`, uint8, or float in [0, 1]; sums are `(n,)` or `(n, 1)`, of
    any integer or integral float type. Only the sums, and float images, are read to be checked.

    Raises:
        InputError: the folder has no shards, one of its arrays is not as above, or a shard has no partner; with
            `need_sums=False` there may be no label file at all.
    """
    data, labels = _numbered(folder)
    if not data:
        raise InputError(f"{folder}: expected shards data0.npy and lab0.npy, data1.npy ..., found none")
    alone = data.keys() ^ labels.keys()
    if alone and (labels or need_sums):
        number = min(alone)
        raise InputError(
            f"{data.get(number) or labels[number]}: expected images in data{number}.npy and their sums in "
            f"lab{number}.npy or label{number}.npy, found this one alone"
        )
    allow_open_files(len(data))
    return _open(folder, *([files[number] for number in sorted(files)] for files in (data, labels)))


def open_array(path: Path) -> SumDataset:
    """Open and check one `.npy` file of images, as of a shard, without sums; see `open_shards`."""
    return _open(path, [path], [])


def _numbered(folder: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """The files of images and of sums in a folder, by number."""
    found: dict[str, dict[int, Path]] = {"data": {}, "lab": {}}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from error
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            same = found[match[1].removesuffix("el")].setdefault(int(match[2]), path)
            if same is not path:
                raise InputError(f"{folder}: expected one file, found both {same.name} and {path.name}")
    return found["data"], found["lab"]


def _open(where: Path, data: list[Path], labels: list[Path]) -> SumDataset:
    """Open files of images, and of their sums, of which there may be none."""
    arrays = [read_images(path) for path in data]
    kinds = ["{} images of {}x{}".format(array.dtype, *array.shape[1:]) for array in arrays]
    for path, kind in zip(data, kinds, strict=True):
        if kind != kinds[0]:
            raise InputError(f"{path}: expected {kinds[0]} as in {data[0].name}, found {kind}")
    if arrays[0].dtype == np.uint8:
        check_brightness(where, arrays)
    sums = [read_sums(path) for path in labels]
    for path, some, array in zip(labels, sums, arrays, strict=False):
        if len(some) != len(array):
            raise InputError(f"{path}: expected a sum for each of {len(array)} images, found {len(some)}")
    images = MemmapImages(arrays, [path.name for path in data])
    return SumDataset(images, torch.from_numpy(np.concatenate(sums)) if sums else None, torch.arange(len(images)))


def read_images(path: Path) -> np.ndarray:
    """Map the images of one `.npy` file: `(n, H, W)`, uint8, or float in [0, 1]; an InputError says what is wrong."""
    array: np.ndarray = read_npy(path)
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        array = array[:, 0] if array.shape[1] == 1 else array[..., 0]
    if array.ndim != 3:
        raise InputError(f"{path}: expected images (n, H, W), (n, 1, H, W) or (n, H, W, 1), found shape {array.shape}")
    if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise InputError(f"{path}: expected pixels of dtype uint8, float16, float32 or float64, found {array.dtype}")
    for start in range(0, len(array) if array.dtype != np.uint8 else 0, CHUNK):
        part = array[start : start + CHUNK]
        if not (part.min() >= 0 and part.max() <= 1):  # false for NaN as well
            bad = start + int(np.flatnonzero(~((part >= 0) & (part <= 1)).all((1, 2)))[0])
            raise InputError(
                f"{path}: expected float pixels in [0, 1], found others in image {bad}; "
                "store 0..255 as uint8, or divide by 255"
            )
    return array


def read_sums(path: Path) -> np.ndarray:
    """Read the sums of one `.npy` file as `(n,)` int64; an InputError says where one is no whole number from 0."""
    array = np.asarray(read_npy(path))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{path}: expected sums (n,) or (n, 1), found shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected whole numbers, found dtype {array.dtype}")
    # 2**53 is the last whole number up to which a double holds every one; a float16 cannot even hold the bound
    values = array.astype(np.float64) if array.dtype.kind == "f" else array
    with np.errstate(invalid="ignore"):
        good = (values >= 0) & (values <= 2**53) & (values == np.floor(values))
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise InputError(f"{path}: expected whole sums of 0 or more, found {array[bad]} at row {bad}")
    return array.astype(np.int64)
