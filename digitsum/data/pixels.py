"""Pixels: what an image's numbers mean, whatever type they have."""

import torch


def as_float(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Images of any shape as `dtype` in [0, 1]: uint8 counts 0..255, float is in [0, 1] already.

    Example:
        >>> as_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    floats = images.to(dtype)
    return floats / 255 if images.dtype == torch.uint8 else floats
