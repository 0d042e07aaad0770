"""Faster forms of layers, for training on a CPU: convolution, ReLU and max pooling as one; dropout by random bytes.

Of four outputs of the convolution max pooling keeps one, and ReLU lets about a fifth of these through: some nineteen in
twenty gradients of a convolution are zero. A library multiplies them all the same; the loops below visit the others.
They compute what the plain layers compute, summed in another order.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

_log = logging.getLogger("digitsum")

_STRIP = 8  # pooled places worked through for one channel at a time: what they touch stays in the nearest cache


def accelerated(layers: dict[str, nn.Module], image_size: tuple[int, int]) -> dict[str, nn.Module]:
    """The same layers in the same order, the faster forms instead of those that have one; a convolution keeps its name.

    Args:
        layers: by their names, for images `(N, 1, H, W)`; each convolution is followed by ReLU and pooling over 2x2.
        image_size: `(H, W)` of the images.
    """
    # pooling leaves out odd rows and columns at the end: pixels that reach no feature are not even looked at
    sizes = [layer.kernel_size[0] for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    below, right = (_num_seen(pixels, sizes) - pixels for pixels in image_size)
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


def _num_seen(pixels: int, kernel_sizes: Sequence[int]) -> int:
    """How many of the first `pixels`, along one axis, reach a feature."""
    for size in kernel_sizes:
        pixels = (pixels - size + 1) // 2
    for size in reversed(kernel_sizes):
        pixels = 2 * pixels + size - 1
    return pixels


class ConvPool(nn.Module):
    """`relu(max_pool2d(conv(x), 2))`, with the weight and the bias of `conv`, which has no padding and no stride."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(N, in_channels, H, W)` to `(N, out_channels, (H - k + 1) // 2, (W - k + 1) // 2)`, both float."""
        exact = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        if x.device.type == "cpu" and exact and not torch.compiler.is_compiling():
            step = _BlankStep if x.shape[1] == 1 and not x.requires_grad else _Step
            return step.apply(x, self.weight, self.bias)
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


class _Step(torch.autograd.Function):
    """The forward pass is the library's; the backward pass visits what pooling and ReLU kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out, kept = F.max_pool2d(F.conv2d(x, weight, bias), 2, return_indices=True)
        out.relu_()
        ctx.save_for_backward(x, weight, out, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight, out, kept = ctx.saved_tensors
        channels, in_channels, rows, columns = weight.shape
        parts = torch.get_num_threads()
        grad_x = torch.empty_like(x)
        grad_weight = torch.empty((parts, channels, rows, columns * in_channels))
        grad_bias = torch.empty((parts, channels))
        _backward(
            *(_channels_last(tensor) for tensor in (x, grad, out, kept)),
            _channels_last(weight).reshape(channels, rows, -1),
            _channels_last(grad_x),
            grad_weight.numpy(),
            grad_bias.numpy(),
        )
        grad_weight = grad_weight.sum(0).view(channels, rows, columns, in_channels).permute(0, 3, 1, 2)
        return grad_x, grad_weight, grad_bias.sum(0)


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
        _blank_forward(images.numpy(), taps.numpy(), bias.detach().numpy(), _channels_last(out), _channels_last(kept))
        ctx.save_for_backward(images, weight, out, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        images, weight, out, kept = ctx.saved_tensors
        channels, parts = len(weight), torch.get_num_threads()
        grad_taps = torch.empty((parts, weight[0].numel(), channels))
        grad_bias = torch.empty((parts, channels))
        _blank_backward(
            images.numpy(),
            *(_channels_last(tensor) for tensor in (grad, out, kept)),
            grad_taps.numpy(),
            grad_bias.numpy(),
        )
        return None, grad_taps.sum(0).t().reshape(weight.shape), grad_bias.sum(0)


def _channels_last(x: torch.Tensor) -> np.ndarray:
    """`(N, C, H, W)` as numpy's `(N, H, W, C)`: the same memory, if it lies so."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


# Numba's OpenMP layer sets torch's number of threads to all cores and ends every process that is forked from this one;
# its own layer does neither, but takes calls from one thread at a time.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
_turn = threading.Lock()


def _new_turn() -> None:
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_new_turn)


def _compiled(loops: Callable[..., None]) -> Callable[..., None]:
    """Compile loops to machine code that has as many threads as torch has."""
    options: dict[str, Any] = {
        "parallel": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},  # without `nnan`: damaged numbers must stay damaged
    }
    anew = numba.njit(**options)(loops)
    try:
        compiled = numba.njit(cache=True, **options)(loops)
    except RuntimeError:  # no place to keep compiled code: compiled anew in each process, then
        compiled = anew

    @functools.wraps(loops)
    def run(*arrays: np.ndarray) -> None:
        nonlocal compiled
        with _turn:
            numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
            try:
                compiled(*arrays)
            except Exception as error:
                if compiled is anew or not compiled.stats.cache_path:
                    raise
                # what is kept is loaded before anything is computed: a damaged file spoils no result
                folder, compiled = compiled.stats.cache_path, anew
                _log.warning("%s: compiled code that is damaged (%r); compiling anew, delete it", folder, error)
                compiled(*arrays)

    return run


@_compiled
def _backward(x, grad, out, kept, weight, grad_x, grad_weight, grad_bias):  # type: ignore[no-untyped-def]
    num, height, width, channels = grad.shape
    x_width, in_channels = x.shape[2], x.shape[3]
    rows, row = weight.shape[1], weight.shape[2]
    conv_width = x_width - row // in_channels + 1
    parts = len(grad_bias)
    for part in numba.prange(parts):
        grad_weight[part] = 0
        grad_bias[part] = 0
        for image in range(num * part // parts, num * (part + 1) // parts):
            pixels, grad_pixels = x[image].reshape(-1), grad_x[image].reshape(-1)
            grad_pixels[:] = 0
            for top in range(height):
                for strip in range(0, width, _STRIP):
                    for channel in range(channels):
                        for left in range(strip, min(strip + _STRIP, width)):
                            value = grad[image, top, left, channel]
                            if out[image, top, left, channel] <= 0 or value == 0:
                                continue
                            grad_bias[part, channel] += value
                            # `kept` counts the convolution's outputs row by row; a division would be slow
                            right = kept[image, top, left, channel] - (2 * top * conv_width + 2 * left)
                            below = 1 if right >= conv_width else 0
                            right -= below * conv_width
                            begin = ((2 * top + below) * x_width + 2 * left + right) * in_channels
                            for k in range(rows):
                                w, gw = weight[channel, k], grad_weight[part, channel, k]
                                p, gp = pixels[begin : begin + row], grad_pixels[begin : begin + row]
                                for i in range(row):
                                    gw[i] += value * p[i]
                                for i in range(row):
                                    gp[i] += value * w[i]
                                begin += x_width * in_channels


@_compiled
def _blank_forward(images, taps, bias, out, kept):  # type: ignore[no-untyped-def]
    num, height, width, channels = out.shape
    size = int(np.sqrt(len(taps)))
    for image in numba.prange(num):
        pixels = images[image]
        sums = np.empty((4, channels), np.float32)
        for top in range(height):
            for left in range(width):
                patch = pixels[2 * top : 2 * top + size + 1, 2 * left : 2 * left + size + 1]
                o, k = out[image, top, left], kept[image, top, left]
                if not patch.any():
                    for c in range(channels):
                        o[c] = np.float32(0) if bias[c] <= 0 else bias[c]
                        k[c] = 0
                    continue
                for c in range(channels):
                    sums[0, c] = sums[1, c] = sums[2, c] = sums[3, c] = bias[c]
                for i in range(size):
                    for j in range(size):
                        w = taps[i * size + j]
                        p0, p1, p2, p3 = patch[i, j], patch[i, j + 1], patch[i + 1, j], patch[i + 1, j + 1]
                        for c in range(channels):
                            sums[0, c] += p0 * w[c]
                            sums[1, c] += p1 * w[c]
                            sums[2, c] += p2 * w[c]
                            sums[3, c] += p3 * w[c]
                for c in range(channels):
                    largest, place = sums[0, c], np.uint8(0)
                    if sums[1, c] > largest:
                        largest, place = sums[1, c], np.uint8(1)
                    if sums[2, c] > largest:
                        largest, place = sums[2, c], np.uint8(2)
                    if sums[3, c] > largest:
                        largest, place = sums[3, c], np.uint8(3)
                    o[c] = np.float32(0) if largest <= 0 else largest
                    k[c] = place


@_compiled
def _blank_backward(images, grad, out, kept, grad_taps, grad_bias):  # type: ignore[no-untyped-def]
    num, height, width, channels = grad.shape
    size = int(np.sqrt(grad_taps.shape[1]))
    parts = len(grad_bias)
    for part in numba.prange(parts):
        grad_taps[part] = 0
        grad_bias[part] = 0
        gb = grad_bias[part]
        chosen = np.empty((4, channels), np.float32)
        for image in range(num * part // parts, num * (part + 1) // parts):
            pixels = images[image]
            for top in range(height):
                for left in range(width):
                    g, o, k = grad[image, top, left], out[image, top, left], kept[image, top, left]
                    for c in range(channels):
                        value = g[c] if o[c] > 0 else np.float32(0)
                        gb[c] += value
                        for place in range(4):
                            chosen[place, c] = value if k[c] == place else np.float32(0)
                    patch = pixels[2 * top : 2 * top + size + 1, 2 * left : 2 * left + size + 1]
                    if not patch.any():
                        continue
                    for i in range(size):
                        for j in range(size):
                            gw = grad_taps[part, i * size + j]
                            p0, p1, p2, p3 = patch[i, j], patch[i, j + 1], patch[i + 1, j], patch[i + 1, j + 1]
                            for c in range(channels):
                                gw[c] += p0 * chosen[0, c] + p1 * chosen[1, c] + p2 * chosen[2, c] + p3 * chosen[3, c]
