"""Composed data sets: canvases written to disk as shards, cached by everything that determines them."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from digitsum.data.canvases import Layout, Placements, compose
from digitsum.data.glyphs import SPLITS, GlyphPool, load_glyph_pools
from digitsum.errors import InputError, check
from digitsum.files import exists, folder_written_whole, read_json, require_space, write_json

# Raise it when the same settings would give other arrays: cached sets of an older format are then left alone.
_FORMAT = 1
_SHARD = 10_000  # images a shard, as in the public files
_CHUNK = 1_000  # images composed at once: small enough to stay in the processor's cache


@dataclass
class Composition:
    """Everything that determines a composed data set, and nothing else."""

    glyphs: str = "bundled"  # or `mnist` or `arrays`: the source of the digits
    glyph_images: str | None = None  # for `arrays`, a `.npy` file (G, 28, 28) uint8
    glyph_labels: str | None = None  # for `arrays`, a `.npy` file (G,) of digits
    # all splits draw from one pool, as in the public data set; otherwise ("strict") no glyph of a validation or test
    # canvas is on a training canvas
    glyphs_shared: bool = False
    num_train: int = 9_600  # canvases
    num_val: int = 1_200
    num_test: int = 1_200
    compose_seed: int = 0  # of the layouts and of which glyphs are drawn; not the run's seed
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        check("data.compose_seed", self.compose_seed, self.compose_seed >= 0, "0 or more")
        for split in SPLITS:
            check(f"data.num_{split}", self.count(split), self.count(split) >= 1, "1 or more canvases")

    def count(self, split: str) -> int:
        """How many canvases `split` has."""
        return int(getattr(self, f"num_{split}"))

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with anything that would change an array.

        Bundled glyphs and MNIST count by their names, since their content is fixed, the user's own by their bytes.
        """
        content = {"format": _FORMAT, **asdict(self)}
        for key, plain in (("digit_scale", [1, 1]), ("pen", 0)):
            if content["layout"][key] == plain:  # sets that were composed before there was such a key stay known
                del content["layout"][key]
        for key in ("glyph_images", "glyph_labels"):
            path = content[key]
            if path is not None:
                try:
                    content[key] = hashlib.blake2b(Path(path).read_bytes()).hexdigest()
                except (OSError, ValueError) as error:  # a ValueError where no file can have such a name
                    reason = getattr(error, "strerror", None) or error
                    raise InputError(f"data.{key}: cannot read {path}: {reason}") from error
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def dataset_folder(composition: Composition, datasets_dir: Path) -> Path:
    """The folder below `datasets_dir` that holds the composed set, or will."""
    total = sum(map(composition.count, SPLITS))
    return datasets_dir / f"{composition.glyphs}-{total}-{composition.fingerprint}"


def cached_dataset(composition: Composition, datasets_dir: Path, **options: Any) -> Path:
    """The folder below `datasets_dir` that holds the composed set; `write_dataset` makes it unless it is there."""
    folder = dataset_folder(composition, datasets_dir)
    if not exists(folder / "dataset.json"):
        write_dataset(composition, folder, **options)
    return folder


def write_dataset(
    composition: Composition,
    folder: Path,
    *,
    mnist_root: str | None = None,
    download: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Compose a data set and write it to `folder`, which appears only when it is complete.

    It gets `train/ val/ test/`, each with shards `data0.npy` `(n, H, W)` uint8, `lab0.npy` `(n,)` unsigned,
    `truth0.npz` (what was drawn; for evaluation only), ..., and `dataset.json`. When another process finishes the
    same set first, its result stands and this one is dropped. Memory does not grow with the number of images.
    `progress` is called with the number of canvases written since the last call; see `load_glyph_pools` for the rest.

    Raises:
        InputError: the glyphs cannot be loaded, `folder` holds something else, or it cannot be written.
    """
    fingerprint = composition.fingerprint
    pools = load_glyph_pools(
        composition.glyphs,
        mnist_root=mnist_root,
        download=download,
        glyph_images=composition.glyph_images,
        glyph_labels=composition.glyph_labels,
        shared=composition.glyphs_shared,
    )
    try:
        with folder_written_whole(folder) as temporary:
            pixels = composition.layout.height * composition.layout.width
            require_space(folder.parent, pixels * sum(map(composition.count, SPLITS)), "the data set")
            statistics = {
                split: _write_split(composition, pools[split], stream, temporary / split, progress)
                for stream, split in enumerate(SPLITS)
            }
            description = {
                "fingerprint": fingerprint,
                **asdict(composition),
                "glyphs_per_split": {split: len(pool.labels) for split, pool in pools.items()},
                "statistics": statistics,
            }
            write_json(temporary / "dataset.json", description)
    except OSError as error:
        path = folder / "dataset.json"
        found = read_json(path) if exists(path) else None
        if isinstance(found, dict) and found.get("fingerprint") == fingerprint:
            return
        if exists(folder):
            raise InputError(f"{folder} exists and holds something else; choose another folder") from error
        raise InputError(
            f"cannot write {folder}: {error.strerror or error}; free space or choose another folder with "
            "outputs_dir=FOLDER (make_data.py: out=FOLDER)"
        ) from error


def _write_split(
    composition: Composition, pool: GlyphPool, stream: int, folder: Path, progress: Callable[[int], None] | None
) -> dict[str, Any]:
    folder.mkdir()
    layout, total = composition.layout, composition.count(folder.name)
    label_type = np.min_scalar_type(9 * layout.digit_range[1])
    pixel_sum = pixel_squares = 0
    all_sums = []
    for shard, first in enumerate(range(0, total, _SHARD)):
        size = min(_SHARD, total - first)
        drawn: list[Placements] = []
        # written, not mapped: a full disk is then an error, where a mapped page would kill the process
        with (folder / f"data{shard}.npy").open("wb") as images:
            header = {"descr": "|u1", "fortran_order": False, "shape": (size, layout.height, layout.width)}
            np.lib.format.write_array_header_1_0(images, header)
            for begin in range(0, size, _CHUNK):
                count = min(_CHUNK, size - begin)
                chunk, placements = compose(
                    layout, pool, seed=composition.compose_seed, stream=stream, start=first + begin, count=count
                )
                images.write(chunk.data)
                drawn.append(placements)
                pixel_sum += int(chunk.sum(dtype=np.int64))
                pixel_squares += int(np.square(chunk, dtype=np.uint16).sum(dtype=np.int64))  # 255**2 fits
                if progress is not None:
                    progress(count)
        sums = np.concatenate([placements.sums for placements in drawn])
        np.save(folder / f"lab{shard}.npy", sums.astype(label_type))
        truth = {name: np.concatenate([vars(part)[name] for part in drawn]) for name in vars(drawn[0])}
        np.savez_compressed(folder / f"truth{shard}.npz", **truth)  # type: ignore[arg-type]
        all_sums.append(sums)
    for path in folder.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    pixels, sums = total * layout.height * layout.width, np.concatenate(all_sums)
    mean = pixel_sum / pixels
    return {
        "images": total,
        "pixel_mean": round(mean, 4),
        "pixel_std": round((pixel_squares / pixels - mean**2) ** 0.5, 4),
        "sum_mean": round(float(sums.mean()), 4),
        "sum_std": round(float(sums.std()), 4),
    }
