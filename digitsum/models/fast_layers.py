"""Faster forms of layers, for training on a CPU: convolutions with their pooling as one, dropout by random bytes.

Of four outputs of a convolution max pooling keeps one, and ReLU, where no batch norm parts them, lets about a fifth of
these through: three in four, or some nineteen in twenty, gradients of a convolution are zero. A library multiplies them
all the same; our loops visit the others. They compute what the plain layers compute, summed in another order.

`accelerated` replaces the layers of a sequence, and `features_of` applies its convolutions in evaluation, only where
there may be ink; `conv_pool` and `conv` are for a network that calls its convolutions.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from digitsum.data.pixels import as_float
from digitsum.models import fast_loops

_IMAGES_AT_ONCE = 64  # whose features are computed together in evaluation: they stay in the processor's cache


def accelerated(layers: dict[str, nn.Module], image_size: tuple[int, int]) -> dict[str, nn.Module]:
    """The same layers in the same order, the faster forms instead of those that have one; a convolution keeps its name.

    They are for images `(N, 1, H, W)` of `image_size` `(H, W)`; ReLU and pooling over 2x2 follow each convolution.
    """
    # pooling leaves out odd rows and columns at the end: pixels that reach no feature are not even looked at
    sizes = [layer.kernel_size[0] for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    below, right = (_num_pixels(_num_features(pixels, sizes), sizes) - pixels for pixels in image_size)
    fast: dict[str, nn.Module] = {"crop": nn.ZeroPad2d((0, right, 0, below))}
    rest = list(layers.items())
    while rest:
        name, layer = rest[0]
        fuses = [type(layer) for _, layer in rest[:3]] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
        if fuses and isinstance(layer, nn.Conv2d):
            layer = ConvPool(layer)
        elif isinstance(layer, nn.Dropout):
            layer = Dropout(layer.p)
        fast[name], rest = layer, rest[3 if fuses else 1 :]
    return fast


def _num_features(pixels: int, kernel_sizes: Sequence[int]) -> int:
    """How many features `pixels` have, along one axis."""
    for size in kernel_sizes:
        pixels = (pixels - size + 1) // 2
    return pixels


def _num_pixels(features: int, kernel_sizes: Sequence[int]) -> int:
    """How many pixels the first `features` see, along one axis."""
    for size in reversed(kernel_sizes):
        features = 2 * features + size - 1
    return features


def features_of(layers: Sequence["ConvPool"], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What `layers` make of images one after the other, in evaluation of many images; None otherwise.

    Behind an image's last ink all columns of features are alike: they are computed once. Images whose ink ends near
    each other's are computed together, up to there.

    Args:
        layers: as `accelerated` has them.
        images: `(N, H, W)`, uint8 in 0..255 or float in [0, 1].

    Returns:
        The features `(N, C, h, w)`, float32, of the images in the order that is returned with them, `(N,)` int64.
    """
    plain = layers and not torch.is_grad_enabled() and _is_plain_float(layers[0].weight, layers[0].weight)
    if not plain or len(images) <= _IMAGES_AT_ONCE:
        return None
    sizes = [layer.weight.shape[-1] for layer in layers]
    height, width = (_num_features(pixels, sizes) for pixels in images.shape[1:])
    images = images[:, : _num_pixels(height, sizes), : _num_pixels(width, sizes)]

    def features(part: torch.Tensor) -> torch.Tensor:
        x = as_float(part).unsqueeze(1)
        for layer in layers:
            x = layer(x)
        return _channels_last(x)

    ends = ((images != 0).any(1) * torch.arange(1, images.shape[2] + 1)).amax(1)
    widths = ends.div(2 ** len(layers), rounding_mode="floor").add(1).clamp(max=width)
    blank = features(torch.zeros_like(images[:1, :, : _num_pixels(1, sizes)]))
    out, order = torch.empty((len(images), height, width, blank.shape[3])), widths.argsort()
    for rows, part in zip(order.split(_IMAGES_AT_ONCE), out.split(_IMAGES_AT_ONCE), strict=True):
        inked = int(widths[rows[-1]])
        part[:, :, :inked] = features(images[rows, :, : _num_pixels(inked, sizes)])
        part[:, :, inked:] = blank
    return out.permute(0, 3, 1, 2), order


class ConvPool(nn.Module):
    """`relu(max_pool2d(conv(x), 2))`, with the weight and the bias of `conv`, which has no padding and no stride."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, (H - k + 1) // 2, (W - k + 1) // 2)`, both float."""
        if _is_plain_float(x, self.weight):
            if x.shape[1] == 1 and not x.requires_grad:
                return _BlankStep.apply(x, self.weight, self.bias)
            return _Step.apply(x, self.weight, self.bias, (0, 0), True)
        # the larger of four values rectified is the largest of four rectified values, on a quarter of the memory
        return F.relu(F.max_pool2d(F.conv2d(x, self.weight, self.bias), 2), inplace=True)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, several times as fast on a CPU where `256 * p` is whole, as for 0.25 and 0.5.

    A feature is dropped where a random byte is less than `256 * p`, which has the probability `p` exactly.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop features of `x` in training mode and scale the others by `1 / (1 - p)`; any shape."""
        threshold = 256 * self.p
        if not self.training or self.p == 0 or x.device.type != "cpu" or threshold % 1 or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        noise = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (noise >= int(threshold)).to(x.dtype).mul_(1 / (1 - self.p))


def conv_pool(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`max_pool2d(layer(x), 2)` of a convolution without stride, padded with zeros or not."""
    if torch.is_grad_enabled() and _is_plain_float(x, layer.weight):
        assert isinstance(layer.padding, tuple)
        return _Step.apply(x, layer.weight, layer.bias, layer.padding, False)
    return F.max_pool2d(layer(x), 2)


def conv(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """`layer(x)` of a convolution without stride and bias, padded with zeros or not."""
    assert layer.bias is None
    if torch.is_grad_enabled() and _is_plain_float(x, layer.weight):
        return _Conv.apply(x, layer.weight, layer.padding)
    return layer(x)


def _is_plain_float(x: torch.Tensor, weight: torch.Tensor) -> bool:
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    return x.device.type == "cpu" and exact and not torch.compiler.is_compiling()


class _Step(torch.autograd.Function):
    """The convolution is the library's, the pooling ours; the backward pass visits what pooling, and ReLU, kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        padding: tuple[int, ...],
        rectified: bool,
    ) -> torch.Tensor:
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
        x = x.contiguous(memory_format=torch.channels_last)
        out, kept = _pooled(F.conv2d(x, weight, bias), 0.0 if rectified else -torch.inf)
        ctx.save_for_backward(x, weight, kept, out if rectified else None)
        ctx.padding, ctx.has_bias = padding, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight, kept, out = ctx.saved_tensors
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        channels, in_channels, rows, columns = weight.shape
        grad_x = torch.empty_like(x)
        grad_weight = torch.empty((torch.get_num_threads(), channels, rows, columns * in_channels))
        fast_loops.backward(
            *map(_channels_last, (x, grad, kept)),
            _channels_last(weight).flatten(2),
            _channels_last(grad_x),
            grad_weight,
        )
        grad_weight = grad_weight.sum(0).view(channels, rows, columns, in_channels).permute(0, 3, 1, 2)
        (top, left), (height, width) = ctx.padding, x.shape[2:]
        grad_x = grad_x[:, :, top : height - top, left : width - left]
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if ctx.has_bias else None, None, None


def _pooled(x: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each 2x2 places of `x`, or `least`, and which of the four it is, uint8."""
    num, channels, height, width = x.shape
    out = torch.empty((num, channels, height // 2, width // 2), memory_format=torch.channels_last)
    kept = torch.empty_like(out, dtype=torch.uint8)
    fast_loops.pool_forward(_channels_last(x), torch.tensor([least]), _channels_last(out), _channels_last(kept))
    return out, kept


class _Conv(torch.autograd.Function):
    """The library's convolution; its weight's gradient is one product of matrices, which the library forms slower."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        channels, in_channels, rows, columns = weight.shape
        grad_x = conv2d_input(x.shape, weight, grad, padding=ctx.padding)
        down, right = ctx.padding
        padded = _channels_last(F.pad(x, (right, right, down, down)))
        # a row for each place of the output: what its weights were multiplied with, as it lies in memory
        patches = padded.unfold(1, rows, 1).unfold(2, columns, 1).permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
        product = patches.t() @ _channels_last(grad).flatten(0, 2)
        return grad_x, product.t().reshape(channels, rows, columns, in_channels).permute(0, 3, 1, 2), None


class _BlankStep(torch.autograd.Function):
    """The same for images of one channel, most of whose places are blank; the images get no gradient."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        channels, size = len(weight), weight.shape[-1]
        height, width = ((pixels - size + 1) // 2 for pixels in images.shape[2:])
        out = torch.empty((len(images), channels, height, width), memory_format=torch.channels_last)
        kept = torch.empty_like(out, dtype=torch.uint8)
        images = images.squeeze(1).contiguous()
        taps = weight.detach().reshape(channels, -1).t().contiguous()
        fast_loops.blank_forward(images, taps, bias, _channels_last(out), _channels_last(kept))
        ctx.save_for_backward(images, weight, out, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        images, weight, out, kept = ctx.saved_tensors
        channels, parts = len(weight), torch.get_num_threads()
        grad_taps = torch.empty((parts, weight[0].numel(), channels))
        grad_bias = torch.empty((parts, channels))
        fast_loops.blank_backward(images, *map(_channels_last, (grad, out, kept)), grad_taps, grad_bias)
        return None, grad_taps.sum(0).t().reshape(weight.shape), grad_bias.sum(0)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """`(N, C, H, W)` as `(N, H, W, C)`: the same memory, if it lies so."""
    return x.permute(0, 2, 3, 1).contiguous()
