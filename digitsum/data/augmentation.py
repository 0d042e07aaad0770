"""Augmentation: each training image distorted a little differently each time that it is seen."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from digitsum.data.pixels import as_float
from digitsum.errors import check

_RADIUS = 4  # pixels of a blur: two of the largest standard deviation

_AMOUNTS = ("scale", "shear", "shift", "elastic", "stroke", "blur", "noise")


@dataclass
class Augmentation:
    """How far images are distorted, each by random amounts of its own; the defaults leave them as they are."""

    scale: float = 0.0  # largest share by which what is shown shrinks or grows, width and height each by itself
    shear: float = 0.0  # largest sideways lean, in pixels per pixel of height
    shift: float = 0.0  # largest shift in pixels, sideways and up or down
    elastic: float = 0.0  # standard deviation in pixels of an elastic deformation's control points
    elastic_spacing: int = 14  # pixels between control points: the smaller, the more local the deformation
    stroke: float = 0.0  # largest share of a pixel by which strokes grow on both sides; they shrink by half of that
    blur: float = 0.0  # largest standard deviation in pixels of a blur; the brightest pixel stays as bright
    noise: float = 0.0  # largest standard deviation of noise on the brightness in [0, 1]
    final: float = 1.0  # share of all this that is left at the end of a training, over whose second half it shrinks

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(f"augmentation.{name}", value, 0 <= value <= 10_000, "0 to 10,000")
        check("augmentation.scale", self.scale, self.scale < 1, "a share below 1")
        for name, most in (("stroke", 1), ("blur", 2), ("noise", 1), ("final", 1)):
            check(f"augmentation.{name}", getattr(self, name), getattr(self, name) <= most, f"0 to {most}")
        check("augmentation.elastic_spacing", self.elastic_spacing, self.elastic_spacing >= 1, "1 or more pixels")

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _AMOUNTS)

    def at(self, progress: float) -> "Augmentation":
        """How far images are distorted once this share of a training, 0 to 1, is done."""
        share = 1 - (1 - self.final) * max(0.0, 2 * progress - 1)
        return replace(self, **{name: share * getattr(self, name) for name in _AMOUNTS}, final=1.0)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Augment images `(N, H, W)`, uint8 in 0..255 or float in [0, 1]; float in [0, 1] comes back.

        What moves in from outside is 0. The random numbers are those of torch's generator of the images' device.
        """
        count, height, width = images.shape
        device = images.device
        images = as_float(images)

        def uniform(largest: float) -> torch.Tensor:
            return torch.empty((count, 1, 1), device=device).uniform_(-largest, largest)

        # Where each pixel of the result comes from, in units of half an image: of each column a curve along the height,
        # which is a mix of `basis`, the constant, the height itself, and the elastic deformation's control points.
        y, x = (torch.linspace(-1, 1, size, device=device) * (1 - 1 / size) for size in (height, width))
        basis = torch.stack([torch.ones_like(y), y], dim=1)
        mix = torch.zeros((count, 2, width, 2), device=device)  # the last axis is across and down
        mix[:, 0, :, :1] = x[:, None] * (1 + uniform(self.scale)) + uniform(self.shift) * 2 / width
        mix[:, 0, :, 1:] = uniform(self.shift) * 2 / height
        mix[:, 1, :, :1] = uniform(self.shear) * height / width
        mix[:, 1, :, 1:] = 1 + uniform(self.scale)
        if self.elastic:
            along_y, along_x = (_weights(size, size // self.elastic_spacing + 2, device) for size in (height, width))
            shifts = torch.randn((count, along_y.shape[1], 2, along_x.shape[1]), device=device) * self.elastic
            shifts *= torch.tensor([2 / width, 2 / height], device=device)[:, None]
            basis = torch.cat([basis, along_y], dim=1)
            mix = torch.cat([mix, (shifts @ along_x.T).transpose(2, 3)], dim=1)
        grid = (basis @ mix.flatten(2)).view(count, height, width, 2)
        images = F.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)
        if self.stroke:
            growth = uniform(self.stroke)
            wider, narrower = _brightest(images), -_brightest(-images)
            images = images.lerp(torch.where(growth > 0, wider, narrower), torch.where(growth > 0, growth, -growth / 2))
        if self.blur:
            images = _blurred(images, uniform(self.blur).abs())
        if self.noise:
            images = (images + uniform(self.noise).abs() * torch.randn_like(images)).clamp(0, 1)
        return images


def _weights(pixels: int, points: int, device: torch.device) -> torch.Tensor:
    """The weights `(pixels, points)` that control points along an axis have at each pixel, from end to end."""
    identity = torch.eye(points, device=device)[None, None]
    return F.interpolate(identity, (pixels, points), mode="bicubic", align_corners=True)[0, 0]


def _brightest(images: torch.Tensor) -> torch.Tensor:
    """The largest of each pixel of `(N, H, W)` and its eight neighbours; on a CPU six times as fast as pooling."""
    for axis in (1, 2):
        rest = images.shape[axis] - 1
        largest = images.clone()
        for here, there in ((0, 1), (1, 0)):
            part = largest.narrow(axis, here, rest)
            torch.maximum(part, images.narrow(axis, there, rest), out=part)
        images = largest
    return images


def _blurred(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Each image `(N, H, W)` under a Gaussian of its own standard deviation `(N, 1, 1)`, as bright as it was."""
    away = torch.arange(-_RADIUS, _RADIUS + 1, device=images.device)
    kernel = torch.softmax(-(away**2) / (2 * sigma.clamp_min(1e-3) ** 2), dim=-1)[:, None]  # (N, 1, 1, taps)
    padded = F.pad(images[None], (_RADIUS,) * 4)
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=len(images)), kernel.transpose(2, 3), groups=len(images))[0]
    return blurred * (images.amax((1, 2), keepdim=True) / blurred.amax((1, 2), keepdim=True).clamp_min(1e-6))
