"""Pixels: what an image's numbers mean, whatever type they have, and what is no image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from digitsum.errors import InputError

CHUNK = 1_000
"""Images that are looked at together: bounds the memory that this takes."""


def as_float(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images of any shape as `dtype` in [0, 1]: uint8 counts 0..255, float is in [0, 1] already.

    Example:
        >>> as_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    floats = images.to(dtype)
    return floats / 255 if images.dtype == torch.uint8 else floats


def checked_images(images: Any, image_size: tuple[int, int], *, variable_width: bool = False) -> torch.Tensor:
    """Somebody's tensor or array as a network takes it: `(N, H, W)`, uint8 in 0..255 or float32 in [0, 1].

    Other whole numbers in 0..255 become uint8, other floats float32. `image_size` `(H, W)` is what the network was
    trained on; with `variable_width` it reads other widths.

    Raises:
        InputError: another shape or type, float pixels outside of [0, 1] or not finite, whole ones outside of 0..255,
            or of no other value than 0 and 1, which are all but black.
    """
    try:
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"images: expected a tensor or an array of numbers, got {type(images).__name__}") from error
    height, width = image_size
    expected = f"(N, {height}, W)" if variable_width else f"(N, {height}, {width})"
    if images.ndim != 3 or images.shape[1] != height or (images.shape[2] != width and not variable_width):
        raise InputError(f"images: expected shape {expected}, got {tuple(images.shape)}; crop or pad them")
    if images.is_complex() or images.dtype == torch.bool:
        raise InputError(f"images: expected uint8 in 0..255 or float in [0, 1], got {images.dtype}")
    if not images.numel():
        return images.to(torch.uint8)
    low, high = (value.item() for value in images.aminmax())
    if images.is_floating_point():
        if not (low >= 0 and high <= 1):  # false for NaN as well
            raise InputError(f"images: expected float pixels in [0, 1], got {low:g} to {high:g}; divide them by 255?")
        return images.float()
    if low < 0 or high > 255:
        raise InputError(f"images: expected whole pixels in 0..255, got {low} to {high}")
    if high == 1:
        raise InputError("images: expected whole pixels in 0..255, got nothing but 0 and 1; multiply them by 255")
    return images.to(torch.uint8)


def check_brightness(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Refuse uint8 images `(n, H, W)` from `path` whose brightest pixel is 1: they would pass for black.

    Images are read up to the first chunk with a brighter pixel.
    """
    chunks = (array[start : start + CHUNK] for array in arrays for start in range(0, len(array), CHUNK))
    brightest = 0
    while brightest <= 1 and (chunk := next(chunks, None)) is not None:
        brightest = max(brightest, chunk.max())
    if brightest == 1:
        raise InputError(
            f"{path}: expected uint8 pixels in 0..255, found only 0 and 1; multiply them by 255, or store them as float"
        )
