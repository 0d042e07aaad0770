"""The loops of `digitsum.models.fast_layers`, compiled by numba; images and features are `(N, H, W, C)`, float32."""

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

_log = logging.getLogger("digitsum")

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
    """Compile loops over arrays to machine code that takes tensors, and as many threads as torch has."""
    fastmath = {"contract", "reassoc", "nsz", "arcp"}  # without `nnan`: damaged numbers must stay damaged
    options: dict[str, Any] = {"parallel": True, "error_model": "numpy", "fastmath": fastmath}
    anew = numba.njit(**options)(loops)
    try:
        compiled = numba.njit(cache=True, **options)(loops)
    except RuntimeError:  # no place to keep compiled code: compiled anew in each process, then
        compiled = anew

    @functools.wraps(loops)
    def run(*tensors: torch.Tensor) -> None:
        nonlocal compiled
        arrays = [tensor.detach().numpy() for tensor in tensors]
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
def backward(x, grad, kept, weight, grad_x, grad_weight):  # type: ignore[no-untyped-def]
    """Fill the gradients of the input and of the weight, the latter for each thread by itself.

    Four products are added at a time: what they are added to is loaded and stored once.
    """
    num, height, width, channels = grad.shape
    x_width, in_channels = x.shape[2], x.shape[3]
    rows, row = weight.shape[1], np.uint64(weight.shape[2])  # unsigned: no index counts from the end
    next_row = np.uint64(x_width * in_channels)
    steps = np.array([0, in_channels, x_width * in_channels, (x_width + 1) * in_channels])  # to the places of a pool
    parts = len(grad_weight)
    for part in numba.prange(parts):
        grad_weight[part] = 0
        # of each channel in a row of pools: what is not zero, and where what it was multiplied with begins
        values = np.empty((channels, width + 4), np.float32)
        begins = np.empty((channels, width + 4), np.uint64)
        num_values = np.empty(channels, np.int64)
        # the channels that kept each of a pool's four places
        pool_values = np.empty((4, channels + 4), np.float32)
        pool_channels = np.empty((4, channels + 4), np.int64)
        pool_num = np.empty(4, np.int64)
        for image in range(num * part // parts, num * (part + 1) // parts):
            pixels, grad_pixels = x[image].reshape(-1), grad_x[image].reshape(-1)
            grad_pixels[:] = 0
            for top in range(height):
                num_values[:] = 0
                for left in range(width):
                    corner = (2 * top * x_width + 2 * left) * in_channels
                    pool_num[:] = 0
                    for channel in range(channels):
                        value, place = grad[image, top, left, channel], kept[image, top, left, channel]
                        # written in any case and counted where it is not zero: a branch would be guessed wrong
                        n, m = num_values[channel], pool_num[place]
                        values[channel, n] = pool_values[place, m] = value
                        begins[channel, n] = corner + steps[place]
                        pool_channels[place, m] = channel
                        num_values[channel] = n + (value != 0)
                        pool_num[place] = m + (value != 0)
                    for place in range(4):
                        n, v, c = pool_num[place], pool_values[place], pool_channels[place]
                        v[n : n + 4] = 0
                        c[n : n + 4] = 0
                        for m in range(0, n, 4):
                            v0, v1, v2, v3 = v[m], v[m + 1], v[m + 2], v[m + 3]
                            begin = np.uint64(corner + steps[place])
                            for k in range(rows):
                                w0, w1, w2, w3 = (
                                    weight[c[m], k], weight[c[m + 1], k], weight[c[m + 2], k], weight[c[m + 3], k]
                                )  # fmt: skip
                                for i in range(row):
                                    grad_pixels[begin + i] += v0 * w0[i] + v1 * w1[i] + v2 * w2[i] + v3 * w3[i]
                                begin += next_row
                for channel in range(channels):
                    n, v, b = num_values[channel], values[channel], begins[channel]
                    v[n : n + 4] = 0
                    b[n : n + 4] = 0
                    for m in range(0, n, 4):
                        v0, v1, v2, v3 = v[m], v[m + 1], v[m + 2], v[m + 3]
                        b0, b1, b2, b3 = b[m], b[m + 1], b[m + 2], b[m + 3]
                        for k in range(rows):
                            gw = grad_weight[part, channel, k]
                            for i in range(row):
                                gw[i] += (
                                    v0 * pixels[b0 + i]
                                    + v1 * pixels[b1 + i]
                                    + v2 * pixels[b2 + i]
                                    + v3 * pixels[b3 + i]
                                )
                            b0 += next_row
                            b1 += next_row
                            b2 += next_row
                            b3 += next_row


@_compiled
def pool_forward(x, least, out, kept):  # type: ignore[no-untyped-def]
    """Fill `out` with the largest of the four places under each output, or `least`, and `kept` with which it is."""
    num, height, width, channels = out.shape
    for image in numba.prange(num):
        for top in range(height):
            for left in range(width):
                v0, v1 = x[image, 2 * top, 2 * left], x[image, 2 * top, 2 * left + 1]
                v2, v3 = x[image, 2 * top + 1, 2 * left], x[image, 2 * top + 1, 2 * left + 1]
                o, k = out[image, top, left], kept[image, top, left]
                for c in range(channels):
                    largest, place = v0[c], np.uint8(0)
                    if v1[c] > largest or v1[c] != v1[c]:
                        largest, place = v1[c], np.uint8(1)
                    if v2[c] > largest or v2[c] != v2[c]:
                        largest, place = v2[c], np.uint8(2)
                    if v3[c] > largest or v3[c] != v3[c]:
                        largest, place = v3[c], np.uint8(3)
                    o[c] = least[0] if largest <= least[0] else largest
                    k[c] = place


@numba.njit
def _largest(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """The largest of four numbers and which of them it is, the first of equal ones."""
    largest, place = v0, np.uint8(0)
    if v1 > largest:
        largest, place = v1, np.uint8(1)
    if v2 > largest:
        largest, place = v2, np.uint8(2)
    if v3 > largest:
        largest, place = v3, np.uint8(3)
    return largest, place


@numba.njit
def _nine(w, c, p0, p1, p2, p3, p4, p5, p6, p7, p8):  # type: ignore[no-untyped-def]
    """The sum of nine products, written out so that it stays in a register."""
    above = p0 * w[0, c] + p1 * w[1, c] + p2 * w[2, c]
    return above + p3 * w[3, c] + p4 * w[4, c] + p5 * w[5, c] + p6 * w[6, c] + p7 * w[7, c] + p8 * w[8, c]


@_compiled
def blank_forward(images, taps, bias, out, kept):  # type: ignore[no-untyped-def]
    """Fill `out`, and in `kept` which of the four places under each output is the largest."""
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
                if size == 3:
                    p00, p01, p02, p03 = patch[0, 0], patch[0, 1], patch[0, 2], patch[0, 3]
                    p10, p11, p12, p13 = patch[1, 0], patch[1, 1], patch[1, 2], patch[1, 3]
                    p20, p21, p22, p23 = patch[2, 0], patch[2, 1], patch[2, 2], patch[2, 3]
                    p30, p31, p32, p33 = patch[3, 0], patch[3, 1], patch[3, 2], patch[3, 3]
                    for c in range(channels):
                        v0 = _nine(taps, c, p00, p01, p02, p10, p11, p12, p20, p21, p22)
                        v1 = _nine(taps, c, p01, p02, p03, p11, p12, p13, p21, p22, p23)
                        v2 = _nine(taps, c, p10, p11, p12, p20, p21, p22, p30, p31, p32)
                        v3 = _nine(taps, c, p11, p12, p13, p21, p22, p23, p31, p32, p33)
                        largest, k[c] = _largest(bias[c] + v0, bias[c] + v1, bias[c] + v2, bias[c] + v3)
                        o[c] = np.float32(0) if largest <= 0 else largest
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
                    largest, k[c] = _largest(sums[0, c], sums[1, c], sums[2, c], sums[3, c])
                    o[c] = np.float32(0) if largest <= 0 else largest


@_compiled
def blank_backward(images, grad, out, kept, grad_taps, grad_bias):  # type: ignore[no-untyped-def]
    """Fill the gradients of the weight and of the bias for each thread by itself."""
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
