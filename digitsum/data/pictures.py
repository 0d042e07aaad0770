"""Pictures from a scanner, a camera or a drawing program: found, read, and put into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from digitsum.data.batches import Batch
from digitsum.data.grey import read_grey
from digitsum.data.preparation import Picture, prepare_rows
from digitsum.data.rows import Components
from digitsum.errors import InputError
from digitsum.files import is_folder

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif", ".ppm", ".pgm", ".heic", ".heif",
)  # fmt: skip
"""What names of pictures end with. HEIC is among them to be refused by its name instead of left out in silence."""

PREPARE = ("auto", "none")

NO_DIGITS = "no digits found"
"""The warning of a picture on which nothing is like ink."""

_MAX_SIDE = 2_000  # pixels in which rows of digits are looked for
_MAX_WIDTH = 4_000  # of a canvas, the widest that a reader takes
_THUMBNAIL = 400  # pixels of the longer side
_CANVAS_DIGITS = (8, 34)  # heights of what hangs together on a canvas: tiles of 28 pixels, touching ones at most 31


def find_pictures(path: Path) -> list[Path]:
    """The picture at `path`, or what is named like a picture in that folder, in the order of the names.

    Raises:
        InputError: a folder that cannot be read, or without pictures.
    """
    if not is_folder(path):
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not found:
        raise InputError(f"{path}: expected pictures ({', '.join(SUFFIXES)}), found none")
    return found


def read_picture(source: Path | Image.Image, image_size: tuple[int, int]) -> Picture:
    """Read a picture as it is and bring it to `(H, W)`.

    It becomes grey (what is transparent becomes paper), is inverted when its border is bright (dark ink on paper),
    scaled to the height `H` with its aspect kept, scaled down further when it is wider than `W`, and padded with 0 on
    the right and below.

    Raises:
        InputError: the file is missing, no picture, damaged, or absurdly large.
    """
    height, width = image_size
    grey, _ = read_grey(source)
    original = _thumbnail(grey, None)
    changes = []
    if _has_bright_border(np.asarray(grey)):
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
    return Picture(image, ", ".join(changes) or "as it is", original=original)


def read_rows(
    source: Path | Image.Image, image_size: tuple[int, int], prepare: str = "auto", *, variable_width: bool = False
) -> list[Picture]:
    """Read the rows of digits on a picture, from top to bottom.

    Args:
        source: the file, or a picture that is open.
        image_size: `(H, W)` of the canvases that the model was trained on.
        prepare: `auto` finds the rows and brings each to the form of a canvas (`digitsum.data.preparation`), but leaves
            a picture that is like a canvas as it is: as high as one, with digits as high as on one, on a ground of
            exactly 0 (or the inverse of that). `none` is `read_picture`.
        variable_width: whether the model takes images of any width; else wide rows are shrunk to `W`.

    Returns:
        At least one, each `(H, W)` or wider. Where nothing is like ink: zeros, with the warning `no digits found`.

    Raises:
        InputError: see `read_picture`.
    """
    if prepare == "none":
        return [read_picture(source, image_size)]
    height, width = image_size
    grey, scale = read_grey(source, _MAX_SIDE)
    canvas = _as_canvas(np.asarray(grey), height)
    rows = [canvas] if canvas else prepare_rows(np.asarray(grey), height)
    if not rows:
        return [Picture(np.zeros(image_size, np.uint8), "none", (NO_DIGITS,), None, 0, _thumbnail(grey, None))]
    rows = [_fitted(row, width, _MAX_WIDTH if variable_width else width) for row in rows]
    return [
        replace(
            row,
            box=row.box and tuple(round(edge * scale) for edge in row.box),
            original=_thumbnail(grey, row.box),
        )
        for row in rows
    ]


class PictureBatches:
    """Batches of pictures, read one after the other; a picture with several rows of digits is several images.

    A file that cannot be read is left out. After a pass `refused` has each of them with the reason.

    Args:
        paths: the files, one or more; pictures that are open may be among them.
        image_size: `(H, W)` that the model was trained on.
        batch_size: 1 or more.
        prepare: `auto` or `none`, see `read_rows`.
        variable_width: whether the model takes images of any width.
        leave_out: whether a file that cannot be read is left out; else it ends the pass.

    Each batch has `images` `(B, H, W)` uint8, as wide as the widest, `index` `(B,)` int64, which of the paths each is
    from, and as lists `lines` (which row of the picture, from 1), and `changes`, `warnings`, `num_components` and
    `originals` of each `Picture`.

    Raises:
        InputError: another `prepare`; in a pass: no file at all can be read, or, unless `leave_out`, one cannot.
    """

    def __init__(
        self,
        paths: Sequence[Path | Image.Image],
        image_size: tuple[int, int],
        batch_size: int,
        *,
        prepare: str = "auto",
        variable_width: bool = False,
        leave_out: bool = True,
    ) -> None:
        if prepare not in PREPARE:
            raise InputError(f"prepare: expected one of {', '.join(PREPARE)}, got {prepare!r}")
        self.paths = paths
        self.image_size = image_size
        self.batch_size = batch_size
        self.prepare = prepare
        self.variable_width = variable_width
        self.leave_out = leave_out
        self.refused: list[tuple[Path | Image.Image, str]] = []

    def __iter__(self) -> Iterator[Batch]:
        self.refused = []
        rows: list[tuple[int, int, Picture]] = []
        for number, path in enumerate(self.paths):
            try:
                found = read_rows(path, self.image_size, self.prepare, variable_width=self.variable_width)
            except InputError as error:
                if not self.leave_out:
                    raise
                self.refused.append((path, str(error).removeprefix(f"{path}: ")))
                continue
            rows += [(number, line, row) for line, row in enumerate(found, start=1)]
            while len(rows) >= self.batch_size:
                yield _batch(rows[: self.batch_size])
                del rows[: self.batch_size]
        if rows:
            yield _batch(rows)
        if len(self.refused) == len(self.paths):
            path, reason = self.refused[0]
            more = f"; none of the {len(self.paths)} pictures can be read" if len(self.paths) > 1 else ""
            raise InputError(f"{path}: {reason}{more}")


def _batch(rows: list[tuple[int, int, Picture]]) -> Batch:
    numbers, lines, pictures = zip(*rows, strict=True)
    width = max(picture.image.shape[1] for picture in pictures)
    images = [np.pad(picture.image, ((0, 0), (0, width - picture.image.shape[1]))) for picture in pictures]
    return {
        "images": torch.from_numpy(np.stack(images)),
        "index": torch.tensor(numbers),
        "lines": list(lines),
        "changes": [picture.changes for picture in pictures],
        "warnings": [picture.warnings for picture in pictures],
        "num_components": [picture.num_components for picture in pictures],
        "originals": [picture.original for picture in pictures],
    }


def _as_canvas(pixels: np.ndarray, height: int) -> Picture | None:
    """The picture as it is, if it is like a canvas."""
    changes = "as it is"
    if _has_bright_border(pixels):
        pixels, changes = 255 - pixels, "inverted"
    if len(pixels) != height or (pixels == 0).mean() < 0.5:
        return None
    components = Components(pixels > 0)
    low, high = _CANVAS_DIGITS
    return Picture(pixels, changes) if components and low <= components.digit_height <= high else None


def _thumbnail(grey: Image.Image, box: tuple[int, ...] | None) -> np.ndarray:
    """What is in the box, and a little around it, small."""
    if box is not None:
        left, top, right, bottom = box
        rim = (bottom - top) // 4
        grey = grey.crop(
            (max(0, left - rim), max(0, top - rim), min(grey.width, right + rim), min(grey.height, bottom + rim))
        )
    scale = min(1.0, _THUMBNAIL / max(grey.size))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return np.asarray(grey.resize(size, Image.Resampling.BOX))


def _fitted(row: Picture, min_width: int, max_width: int) -> Picture:
    """A row shrunk to `max_width` or padded with 0 on the right to `min_width`."""
    height, width = row.image.shape
    if width > max_width:
        lower = max(1, round(height * max_width / width))
        smaller = np.asarray(Image.fromarray(row.image).resize((max_width, lower), Image.Resampling.LANCZOS))
        above = (height - lower) // 2
        shrunk = np.pad(smaller, ((above, height - lower - above), (0, 0)))
        words = () if lower > 0.8 * height else ("too many digits for the width",)
        changes = f"{row.changes}, shrunk from a width of {width} to {max_width}"
        return replace(row, image=shrunk, changes=changes, warnings=row.warnings + words)
    if width < min_width:
        return replace(row, image=np.pad(row.image, ((0, 0), (0, min_width - width))))
    return row


def _has_bright_border(pixels: np.ndarray) -> bool:
    return bool(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])) > 127)
