"""A picture in shades of grey, whatever its format, and without trusting its file."""

import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from digitsum.errors import InputError
from digitsum.files import is_folder

# No EPS, for which Pillow calls Ghostscript, and no format without a signature of its own.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "AVIF", "PPM")
_FILTERS = threading.Lock()
_MAX_PIXELS = 50_000_000  # a picture that unpacks to more is refused before it is unpacked


def read_grey(source: Path | Image.Image, max_side: int | None = None) -> tuple[Image.Image, float]:
    """Read a picture, of several in a file the first, set upright as the camera was held.

    What is transparent is paper: white, or black under bright ink. A longer side of more than `max_side` pixels is
    shrunk to that. A `source` that is open already is left as it is.

    Returns:
        The picture in 256 shades of grey, and how many times larger it was before it was shrunk.

    Raises:
        InputError: the file is missing, no picture, damaged, or absurdly large.
    """
    if isinstance(source, Image.Image):
        path, expected = Path(), "expected a picture"
    else:
        path, expected = source, f"{source}: expected a picture"
        if path.name.startswith("._"):
            raise InputError(f"{expected}, found what macOS notes about {path.name[2:]}; delete it")
        if is_folder(path):
            raise InputError(f"{expected}, found a folder")
    try:
        # one thread at a time: the filters are the whole process's
        with _FILTERS, warnings.catch_warnings():
            # Pillow warns above its own limit, we refuse below it; what is odd about a file's notes does not matter
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _small_grey(source, max_side, expected, is_file=False)
            with Image.open(path, formats=_FORMATS) as file:
                return _small_grey(file, max_side, expected, is_file=True)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{expected}, found nothing") from error
    except Exception as error:  # a damaged picture raises whatever the decoder stumbled over
        if path.suffix.lower() in (".heic", ".heif"):
            raise InputError(f"{expected}, found HEIC, which is not read; save it as JPEG or PNG") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{expected}, found one that cannot be read ({reason})") from error


def _small_grey(image: Image.Image, max_side: int | None, expected: str, *, is_file: bool) -> tuple[Image.Image, float]:
    """What `read_grey` returns, of a picture that is open; a file of ours may be unpacked at a smaller size."""
    if image.width * image.height > _MAX_PIXELS:
        found = f"found {image.width}x{image.height}; shrink it"
        raise InputError(f"{expected.removesuffix('a picture')}at most {_MAX_PIXELS:,} pixels, {found}")
    full = max(image.size)
    if is_file and max_side and full > max_side:  # a JPEG is then unpacked at a half, a quarter or an eighth
        image.draft("L", (max(1, image.width * max_side // full), max(1, image.height * max_side // full)))
    grey = _grey(ImageOps.exif_transpose(image), max_side)
    return grey, full / max(grey.size)


def _grey(image: Image.Image, max_side: int | None) -> Image.Image:
    """A picture of any mode in 256 shades of grey."""
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips instead of scaling
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.mode == "F":
        pixels = np.nan_to_num(np.asarray(image), posinf=0, neginf=0)
        image = Image.fromarray((255 * (pixels - pixels.min()) / max(np.ptp(pixels), 1e-9)).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if max_side and max(image.size) >= 2 * max_side:
        image = image.reduce(max(image.size) // max_side)
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"), np.float32) / 255
        shade = np.asarray(image.convert("L"), np.float32)
        bright = alpha.mean() < 0.5 and (shade * alpha).sum() > 127 * alpha.sum() > 0
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black" if bright else "white"), image)
    image = image.convert("L")
    if max_side and max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    return image
