"""The reference: a two-convolution regression network that answers with one number."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from digitsum.data.pixels import as_float
from digitsum.errors import InputError, check
from digitsum.models.base import Network, NetworkSettings
from digitsum.models.fast_layers import ConvPool, accelerated, features_of

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@dataclass
class TwoConvSettings(NetworkSettings):
    """The network's numbers; the defaults are the reference."""

    conv1_channels: int = 32
    conv2_channels: int = 64
    kernel_size: int = 3  # of both convolutions, in pixels; no padding
    pooling: str = "max"  # or `average`, over 2x2 pixels, after each convolution
    conv_dropout: float = 0.25  # share of the features dropped before the dense layers
    hidden_units: int = 128  # of the dense layer
    dense_dropout: float = 0.5  # share of the hidden units dropped
    fast: bool = True  # train on a CPU with the faster forms of the layers (see `digitsum.models.fast_layers`)

    def __post_init__(self) -> None:
        for name in ("conv1_channels", "conv2_channels", "kernel_size", "hidden_units"):
            check(f"model.{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("conv_dropout", "dense_dropout"):
            check(f"model.{name}", getattr(self, name), 0 <= getattr(self, name) < 1, "a share in [0, 1)")
        check("model.pooling", self.pooling, self.pooling in POOLINGS, f"one of {', '.join(POOLINGS)}")


class TwoConv(nn.Sequential, Network):
    """Conv, ReLU, pool, conv, ReLU, pool, dropout, dense, ReLU, dropout, one linear output; no padding.

    Weights start Glorot-uniform and biases at zero, and features are flattened with their channels last, as Keras, in
    whose terms the reference is written, does it. On images of 40x168, `(H, W)`, the defaults have 20,480 features
    before the dense layer and 2,640,513 parameters.

    Raises:
        InputError: images too small for the two convolutions.
    """

    def __init__(self, image_size: tuple[int, int], settings: TwoConvSettings | None = None) -> None:
        settings = settings or TwoConvSettings()
        size = settings.kernel_size
        height, width = (((pixels - size + 1) // 2 - size + 1) // 2 for pixels in image_size)
        if min(height, width) < 1:
            raise InputError(
                f"images of {image_size[0]}x{image_size[1]} are too small for two convolutions of "
                f"model.kernel_size={size} with pooling"
            )
        pool = POOLINGS[settings.pooling]
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(1, settings.conv1_channels, size),
            "relu1": nn.ReLU(),
            "pool1": pool(2),
            "conv2": nn.Conv2d(settings.conv1_channels, settings.conv2_channels, size),
            "relu2": nn.ReLU(),
            "pool2": pool(2),
            "flatten": FlattenChannelsLast(),
            "conv_dropout": nn.Dropout(settings.conv_dropout),
            "dense": nn.Linear(settings.conv2_channels * height * width, settings.hidden_units),
            "relu3": nn.ReLU(),
            "dense_dropout": nn.Dropout(settings.dense_dropout),
            "output": nn.Linear(settings.hidden_units, 1),
        }
        for layer in layers.values():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.get_parameter("bias"))
        if settings.fast:
            layers = accelerated(layers, image_size)
        super().__init__(OrderedDict(layers))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Read sums `(N,)`, as real numbers, off images `(N, H, W)`, uint8 in 0..255 or float in [0, 1]."""
        found = features_of([layer for layer in self if isinstance(layer, ConvPool)], images)
        if found is None:
            return super().forward(as_float(images, next(self.parameters()).dtype).unsqueeze(1)).squeeze(1)
        x, order = found  # the same layers, on a part of the pixels
        for layer in list(self)[[*self._modules].index("flatten") :]:
            x = layer(x)
        return torch.empty_like(x[:, 0]).index_copy_(0, order, x[:, 0])

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """Mean squared error of an output against sums, both `(N,)`, a scalar."""
        return F.mse_loss(output, sums.to(output.dtype))


class FlattenChannelsLast(nn.Module):
    """`(N, C, H, W)` to `(N, H * W * C)`: as features lie in memory, so that nothing is copied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten `x`."""
        return x.permute(0, 2, 3, 1).flatten(1)
