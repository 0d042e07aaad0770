"""The reference: a two-convolution regression network that answers with one number."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from digitsum.data.pixels import as_float
from digitsum.errors import InputError
from digitsum.models.base import Prediction
from digitsum.models.fast_layers import ConvPool, Dropout

POOLINGS = ("max", "average")


@dataclass
class TwoConvSettings:
    """The network's numbers; the defaults are the reference.

    Attributes:
        conv1_channels: of the first convolution.
        conv2_channels: of the second convolution.
        kernel_size: of both convolutions, in pixels; no padding.
        pooling: `max` or `average`, over 2x2 pixels, after each convolution.
        conv_dropout: share of the features dropped before the dense layers.
        hidden_units: of the dense layer.
        dense_dropout: share of the hidden units dropped.

    Raises:
        InputError: a value out of range.
    """

    conv1_channels: int = 32
    conv2_channels: int = 64
    kernel_size: int = 3
    pooling: str = "max"
    conv_dropout: float = 0.25
    hidden_units: int = 128
    dense_dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("conv1_channels", "conv2_channels", "kernel_size", "hidden_units"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("conv_dropout", "dense_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name}: expected a share in [0, 1), got {getattr(self, name)}")
        if self.pooling not in POOLINGS:
            raise InputError(f"model.pooling: expected one of {', '.join(POOLINGS)}, got {self.pooling!r}")


class TwoConv(nn.Module):
    """Conv, ReLU, pool, conv, ReLU, pool, dropout, dense, ReLU, dropout, one linear output; no padding.

    Weights start Glorot-uniform and biases at zero, as Keras, in whose terms the reference is written, does it.
    On 40x168 images the defaults have 20,480 features before the dense layer and 2,640,513 parameters.

    Args:
        image_size: `(H, W)` of the images.
        options: fields of `TwoConvSettings`.

    Raises:
        InputError: an option out of range, or images too small for the two convolutions.
    """

    variable_width = False
    predicts_digits = False

    def __init__(self, image_size: tuple[int, int], **options: Any) -> None:
        super().__init__()
        settings = TwoConvSettings(**options)
        size = settings.kernel_size
        height, width = (((pixels - size + 1) // 2 - size + 1) // 2 for pixels in image_size)
        if min(height, width) < 1:
            raise InputError(
                f"images of {image_size[0]}x{image_size[1]} are too small for two convolutions of "
                f"model.kernel_size={size} with pooling"
            )
        # pooling leaves out odd rows and columns at the end: pixels that reach no feature are not even looked at
        self._seen = tuple((2 * pooled + size - 1) * 2 + size - 1 for pooled in (height, width))
        self.conv1 = ConvPool(1, settings.conv1_channels, size, settings.pooling)
        self.conv2 = ConvPool(settings.conv1_channels, settings.conv2_channels, size, settings.pooling)
        self.conv_dropout = Dropout(settings.conv_dropout)
        self.dense = nn.Linear(settings.conv2_channels * height * width, settings.hidden_units)
        self.dense_dropout = Dropout(settings.dense_dropout)
        self.output = nn.Linear(settings.hidden_units, 1)
        for layer in (self.conv1, self.conv2, self.dense, self.output):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Read sums off images.

        Args:
            images: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].

        Returns:
            `(N,)` float, the sums as real numbers.
        """
        x = as_float(images[:, : self._seen[0], : self._seen[1]], self.conv1.weight.dtype).unsqueeze(1)
        x = self.conv2(self.conv1(x))
        # channels last is how the features lie in memory: flattened in this order nothing is copied
        x = self.conv_dropout(x.permute(0, 2, 3, 1).flatten(1))
        x = self.dense_dropout(F.relu(self.dense(x), inplace=True))
        return self.output(x).squeeze(1)

    def loss(self, output: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the output of `forward` `(N,)` against sums `(N,)`, a scalar."""
        return F.mse_loss(output, sums.to(output.dtype))

    def estimate(self, output: torch.Tensor) -> torch.Tensor:
        """The answer in `(N,)`, the output of `forward` itself."""
        return output

    def predict(self, output: torch.Tensor) -> Prediction:
        """The estimate is all that it says."""
        return Prediction(self.estimate(output))

    def set_decoding(self, **options: Any) -> None:
        """It has no other way to answer.

        Raises:
            InputError: any option is given.
        """
        for name in options:
            raise InputError(f"{name}: this model (two_conv) has no such choice; leave it out")
