"""Pictures from a scanner, a camera or a drawing program, brought to the form that a model was trained on."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from digitsum.data.batches import Batch
from digitsum.errors import InputError
from digitsum.files import is_folder

SUFFIXES = (".png", ".jpg", ".jpeg")
_MAX_PIXELS = 50_000_000  # a picture that unpacks to more is refused before it is unpacked


@dataclass(frozen=True)
class Picture:
    """A picture as the model gets it.

    Attributes:
        image: `(H, W)` uint8, bright ink on a dark ground.
        changes: what was done to the file's picture, in words.
    """

    image: np.ndarray
    changes: str


def find_pictures(path: Path) -> list[Path]:
    """The picture at `path`, or the pictures in that folder, in the order of their names.

    Raises:
        InputError: no picture there.
    """
    if is_folder(path):
        try:
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        if not found:
            raise InputError(f"{path}: expected pictures ({', '.join(SUFFIXES)}), found none")
        return found
    return [path]


def read_picture(path: Path, image_size: tuple[int, int]) -> Picture:
    """Read a picture and bring it to `(H, W)`.

    It becomes grey (what is transparent becomes white), is inverted when its border is bright (dark ink on paper),
    scaled to the height `H` with its aspect kept, scaled down further when it is wider than `W`, and padded with 0 on
    the right and below.

    Raises:
        InputError: the file is missing, no picture, damaged, or absurdly large.
    """
    height, width = image_size
    try:
        with warnings.catch_warnings():
            # Pillow warns above its own limit, we refuse below it
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                if file.width * file.height > _MAX_PIXELS:
                    raise InputError(
                        f"{path}: expected at most {_MAX_PIXELS:,} pixels, found {file.width}x{file.height}; shrink it"
                    )
                upright = ImageOps.exif_transpose(file)
                if upright.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips instead of scaling
                    upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
                upright = upright.convert("RGBA")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a PNG or JPEG picture, found nothing") from error
    except Exception as error:  # a damaged picture raises whatever the decoder stumbled over
        raise InputError(f"{path}: expected a PNG or JPEG picture, found one that cannot be read ({error})") from error
    paper = Image.new("RGBA", upright.size, "white")
    grey = Image.alpha_composite(paper, upright).convert("L") if _has_holes(upright) else upright.convert("L")

    changes = []
    pixels = np.asarray(grey)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if np.median(border) > 127:
        grey = ImageOps.invert(grey)
        changes.append("inverted")
    scale = min(height / grey.height, width / grey.width)
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    if size != grey.size:
        changes.append(f"scaled from {grey.height}x{grey.width} to {size[1]}x{size[0]}")
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    if size != (width, height):
        changes.append(f"padded to {height}x{width}")
    image = np.zeros((height, width), np.uint8)
    image[: size[1], : size[0]] = np.asarray(grey)
    return Picture(image, ", ".join(changes) or "as it is")


class PictureBatches:
    """Batches of pictures, read one batch at a time.

    Args:
        paths: the files.
        image_size: `(H, W)` that the model was trained on.
        batch_size: 1 or more.

    Each batch has, beside `images` and `index`, what was done to each picture as `changes`, a list of strings.
    """

    def __init__(self, paths: list[Path], image_size: tuple[int, int], batch_size: int) -> None:
        self.paths = paths
        self.image_size = image_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.paths) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.paths), self.batch_size):
            pictures = [read_picture(path, self.image_size) for path in self.paths[start : start + self.batch_size]]
            yield {
                "images": torch.from_numpy(np.stack([picture.image for picture in pictures])),
                "index": torch.arange(start, start + len(pictures)),
                "changes": [picture.changes for picture in pictures],
            }


def _has_holes(picture: Image.Image) -> bool:
    low, _ = picture.getchannel("A").getextrema()
    return low < 255  # type: ignore[operator]
