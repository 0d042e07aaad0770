"""The faster forms against the plain layers that they stand for; dropout by random bytes drops as torch's does."""

import pytest
import torch
from torch import nn

from digitsum.data.pixels import as_float
from digitsum.models import fast_layers, fast_loops
from digitsum.models.fast_layers import ConvPool, Dropout, accelerated

_MANY = 200  # more images than are computed together


def canvases(count, channels, height, width):
    """Float images that are blank in large parts, repeat themselves in others, and are positive elsewhere."""
    generator = torch.Generator().manual_seed(height * width + channels)
    x = torch.rand((count, channels, height, width), generator=generator)
    x[:, :, :, width // 3 :] = 0
    x[:, :, height // 2 :, -4:] = 1
    return x


def layers_of(in_channels, out_channels, size):
    """The plain layers and the faster form of them, with the same weights."""
    torch.manual_seed(0)
    conv = nn.Conv2d(in_channels, out_channels, size)
    nn.init.uniform_(conv.bias, -0.3, 0.3)
    conv.to(memory_format=torch.channels_last)
    return nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2)), ConvPool(conv)


def layer_of(*numbers):
    return layers_of(*numbers)[1]


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
    plain, layer = layers_of(in_channels, out_channels, size)
    x = canvases(5, in_channels, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        results = []
        for forward in (layer, plain):
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


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize(("in_channels", "out_channels", "size", "height", "width"), SHAPES)
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("fast", "pool"), [(fast_layers.conv, 1), (fast_layers.conv_pool, 2)])
def test_functions_of_convolutions_have_the_outputs_and_gradients_of_the_plain_ones(
    fast, pool, padding, in_channels, out_channels, size, height, width, num_threads
):
    torch.manual_seed(0)
    layer = nn.Conv2d(in_channels, out_channels, size, padding=padding, bias=pool == 2)
    layer.to(memory_format=torch.channels_last)
    x = canvases(3, in_channels, height, width).to(memory_format=torch.channels_last)
    plain = nn.Sequential(layer, nn.MaxPool2d(pool))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        results = []
        for forward in (lambda images: fast(layer, images), plain):
            images = x.clone(memory_format=torch.preserve_format).requires_grad_()
            out = forward(images)
            layer.zero_grad()
            out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
            results.append([out.detach(), images.grad, *(parameter.grad for parameter in layer.parameters())])
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*results, strict=True):
        assert theirs.abs().sum() > 0
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_images_that_want_a_gradient_get_theirs():
    (plain, layer), x = layers_of(1, 4, 3), canvases(2, 1, 10, 12)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(ours).sum().backward()
    plain(theirs).sum().backward()
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


@pytest.mark.parametrize("fast", [fast_layers.conv, fast_layers.conv_pool])
def test_no_images_give_convolutions_no_results_and_no_gradients(fast):
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    images = torch.zeros((0, 3, 12, 16)).requires_grad_()
    fast(layer, images).sum().backward()
    assert images.grad.shape == images.shape
    assert layer.weight.grad.abs().max() == 0


@pytest.mark.parametrize("fast", [fast_layers.conv, fast_layers.conv_pool])
def test_convolutions_take_the_librarys_in_double_and_half_precision(fast):
    layer, images = nn.Conv2d(3, 4, 3, padding=1, bias=False), canvases(2, 3, 12, 16)
    expected = fast(layer, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(layer, images).dtype == torch.bfloat16
    assert torch.allclose(fast(layer.double(), images.double()).float(), expected, atol=1e-5)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_double_precision_and_half_precision_take_the_librarys_layers(in_channels):
    layer, x = layer_of(in_channels, 4, 3), canvases(2, in_channels, 12, 16)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer.double()(x.double()).float(), expected, atol=1e-5)


def test_layers_are_replaced_in_their_order_and_those_without_a_faster_form_are_kept():
    conv, dense = nn.Conv2d(1, 2, 3), nn.Linear(8, 1)
    layers = {"conv": conv, "relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "dropout": nn.Dropout(0.3), "dense": dense}
    fast = accelerated(layers, (8, 9))
    assert [(name, type(layer)) for name, layer in fast.items()] == [
        ("crop", nn.ZeroPad2d), ("conv", ConvPool), ("dropout", Dropout), ("dense", nn.Linear)
    ]  # fmt: skip
    assert fast["conv"].weight is conv.weight
    assert fast["conv"].bias is conv.bias
    assert fast["dropout"].p == 0.3
    assert fast["dense"] is dense


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("height", "width", "sizes"), [(40, 168, (3, 3)), (21, 37, (2, 5)), (12, 13, (3,))])
def test_features_up_to_the_last_ink_are_those_of_whole_images(height, width, sizes, dtype):
    layers, channels = [], 1
    for size in sizes:
        layers.append(layer_of(channels, 4, size))
        channels = 4
    images = torch.zeros((_MANY, height, width), dtype=torch.uint8)  # the first one stays blank
    generator = torch.Generator().manual_seed(0)
    for row in range(1, len(images)):  # ink that ends in every column, at the top as well as at the bottom
        end = row % width + 1
        images[row, row % height, :end] = torch.randint(1, 256, (end,), generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else images / 255
    with torch.no_grad():
        found, order = fast_layers.features_of(layers, images)
        expected = as_float(images).unsqueeze(1)
        for layer in layers:
            expected = layer(expected)
    assert torch.equal(order.sort().values, torch.arange(len(images)))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected[order], atol=1e-5)


def test_features_are_computed_layer_by_layer_in_training_and_of_few_images_and_in_double_precision():
    layer, images = layer_of(1, 4, 3), torch.zeros((_MANY, 12, 13))
    assert fast_layers.features_of([layer], images) is None
    with torch.no_grad():
        assert fast_layers.features_of([layer], images) is not None
        assert fast_layers.features_of([layer], images[:64]) is None
        assert fast_layers.features_of([], images) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert fast_layers.features_of([layer], images) is None
        assert fast_layers.features_of([layer.double()], images) is None


def test_average_pooling_has_no_faster_form():
    layers = {"conv": nn.Conv2d(1, 2, 3), "relu": nn.ReLU(), "pool": nn.AvgPool2d(2)}
    assert list(accelerated(layers, (8, 8)).values())[1:] == list(layers.values())


@pytest.mark.parametrize(("pixels", "seen"), [(40, 38), (168, 166), (10, 10), (13, 10), (14, 14)])
def test_pixels_that_reach_no_feature_are_cropped(pixels, seen):
    layers = {"conv1": nn.Conv2d(1, 2, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "conv2": nn.Conv2d(2, 2, 3)}
    crop = accelerated(layers, (pixels, 40))["crop"]
    assert crop(torch.zeros(1, 1, pixels, 40)).shape == (1, 1, seen, 38)


def test_without_a_place_for_compiled_code_the_loops_are_compiled_anew(monkeypatch):
    njit, asked = fast_loops.numba.njit, []

    def no_cache(*functions, **options):
        if functions:  # numba's own modules, imported meanwhile
            return njit(*functions, **options)
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(fast_loops.numba, "njit", no_cache)
    twice = fast_loops._compiled(_twice)
    assert asked == [False, True]
    x = torch.ones(3)
    twice(x)
    assert x.tolist() == [2, 2, 2]


def _twice(x):
    for i in fast_loops.numba.prange(len(x)):
        x[i] *= 2


# --- dropout


@pytest.mark.parametrize("p", [0.25, 0.5, 0.3, 1 / 256])
def test_so_many_are_dropped_and_the_others_scaled(p):
    torch.manual_seed(0)
    x = torch.full((100, 9_999), 3.0)
    out = Dropout(p)(x)
    kept = out != 0
    assert torch.allclose(out[kept], torch.tensor(3 / (1 - p)))
    assert (~kept).double().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)


@pytest.mark.parametrize("offset", [1, 2, 7, 8, 9])
def test_neighbours_are_dropped_independently(offset):
    """Each byte of a random word drops a quarter, whatever the others do, the word's last and first ones among them."""
    torch.manual_seed(0)
    dropped = Dropout(0.25)(torch.ones(800_000)) == 0
    for place in range(8):
        one = dropped[place::8][: 100_000 - 2]
        other = dropped[place + offset :: 8][: 100_000 - 2]
        deviation = (0.25 * 0.75 / len(one)) ** 0.5
        assert one.double().mean().item() == pytest.approx(0.25, abs=5 * deviation)
        assert (one & other).double().mean().item() == pytest.approx(0.0625, abs=5 * deviation)


def test_the_gradient_passes_where_the_feature_did():
    torch.manual_seed(0)
    x = torch.rand(50, 21, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, torch.where(out > 0, 2.0, 0.0))


def test_equal_seeds_give_equal_masks_and_others_do_not():
    x, dropout, masks = torch.ones(1000), Dropout(0.25), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(dropout(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[2], dropout(x))


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_in_evaluation_and_at_a_rate_of_zero_nothing_changes(p):
    x = torch.rand(10, 3)
    assert torch.equal(Dropout(p).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_half_precision_stays_half_precision():
    assert Dropout(0.25)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_no_features_are_no_mistake():
    assert Dropout(0.25)(torch.ones(0, 5)).shape == (0, 5)
