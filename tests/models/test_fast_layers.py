"""The fused layer against the plain layers that it stands for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from digitsum.models import fast_layers as conv_pool
from digitsum.models.fast_layers import ConvPool


def canvases(count, channels, height, width):
    """Float images that are blank in large parts, repeat themselves in others, and are positive elsewhere."""
    generator = torch.Generator().manual_seed(height * width + channels)
    x = torch.rand((count, channels, height, width), generator=generator)
    x[:, :, :, width // 3 :] = 0
    x[:, :, height // 2 :, -4:] = 1
    return x


def plain(layer, x):
    return F.relu(F.max_pool2d(F.conv2d(x, layer.weight, layer.bias), 2))


def layer_of(in_channels, out_channels, size):
    torch.manual_seed(0)
    layer = ConvPool(in_channels, out_channels, size, "max")
    nn.init.uniform_(layer.bias, -0.3, 0.3)
    return layer.to(memory_format=torch.channels_last)


SHAPES = [
    (1, 32, 3, 38, 166),
    (1, 5, 1, 9, 7),
    (1, 3, 4, 12, 30),
    (1, 2, 7, 8, 8),
    (32, 64, 3, 18, 82),
    (3, 5, 1, 6, 4),
    (2, 3, 4, 9, 12),
    (4, 70, 5, 11, 40),
]


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize(("in_channels", "out_channels", "size", "height", "width"), SHAPES)
def test_outputs_and_gradients_are_those_of_the_plain_layers(
    in_channels, out_channels, size, height, width, num_threads
):
    layer, x = layer_of(in_channels, out_channels, size), canvases(5, in_channels, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        results = []
        for forward in (layer, lambda x: plain(layer, x)):
            images = x.clone().requires_grad_(in_channels > 1)
            out = forward(images)
            layer.zero_grad()
            grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
            out.backward(grad * (grad > 0))
            results.append((out.detach(), layer.weight.grad, layer.bias.grad, images.grad))
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*results, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_images_that_want_a_gradient_get_theirs():
    layer, x = layer_of(1, 4, 3), canvases(2, 1, 10, 12)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(ours).sum().backward()
    plain(layer, theirs).sum().backward()
    assert theirs.grad.abs().sum() > 0
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_equal_inputs_give_equal_bits(in_channels):
    layer, x = layer_of(in_channels, 8, 3), canvases(7, in_channels, 20, 30)
    found = []
    for _ in range(3):
        layer.zero_grad()
        layer(x).square().sum().backward()
        found.append(torch.cat([layer.weight.grad.flatten(), layer.bias.grad]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_weights_are_not_hidden(in_channels, bad):
    layer, x = layer_of(in_channels, 4, 3), canvases(2, in_channels, 12, 12) + 0.1
    with torch.no_grad():
        layer.weight[2, 0, 1, 1] = bad
        out = layer(x)
    assert not out[:, 2].isfinite().all()
    assert out[:, 0].isfinite().all()


@pytest.mark.parametrize("in_channels", [1, 3])
def test_no_images_give_no_results_and_no_gradients(in_channels):
    layer = layer_of(in_channels, 4, 3)
    out = layer(torch.zeros((0, in_channels, 12, 16)))
    assert out.shape == (0, 4, 5, 7)
    out.sum().backward()
    assert layer.weight.grad.abs().max() == 0


@pytest.mark.parametrize("in_channels", [1, 3])
def test_double_precision_and_half_precision_take_the_librarys_layers(in_channels):
    layer, x = layer_of(in_channels, 4, 3), canvases(2, in_channels, 12, 16)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer.double()(x.double()).float(), expected, atol=1e-5)


def test_average_pooling_is_that_of_the_plain_layers():
    torch.manual_seed(0)
    layer, x = ConvPool(2, 3, 3, "average"), canvases(2, 2, 12, 16)
    assert torch.equal(layer(x), F.avg_pool2d(F.relu(F.conv2d(x, layer.weight, layer.bias)), 2))


def test_without_a_place_for_compiled_code_the_loops_are_compiled_anew(monkeypatch):
    njit, asked = conv_pool.numba.njit, []

    def no_cache(**options):
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(conv_pool.numba, "njit", no_cache)
    twice = conv_pool._compiled(_twice)
    assert asked == [True, False]
    x = torch.ones(3)
    twice(x.numpy())
    assert x.tolist() == [2, 2, 2]


def _twice(x):
    for i in conv_pool.numba.prange(len(x)):
        x[i] *= 2
