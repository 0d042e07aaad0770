"""The reference network against its plain, layer-by-layer form."""

import pytest
import torch
from torch import nn

from digitsum.errors import InputError
from digitsum.networks import NETWORKS, build_network
from digitsum.networks.two_conv import TwoConv, TwoConvSettings


def plain(network, pooling):
    """The network as the reference lists its layers, with the same weights: ReLU before the pooling, NCHW."""
    pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
    channels, height, width = network.conv2.out_channels, 8, 40
    dense = nn.Linear(network.dense.in_features, network.dense.out_features)
    weight = network.dense.weight.data.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    dense.weight.data, dense.bias.data = weight.flatten(1).contiguous(), network.dense.bias.data
    conv1, conv2, output = (
        type(layer)(*shape)
        for layer, shape in ((network.conv1, (1, 32, 3)), (network.conv2, (32, 64, 3)), (network.output, (128, 1)))
    )
    for copy, layer in ((conv1, network.conv1), (conv2, network.conv2), (output, network.output)):
        copy.load_state_dict(layer.state_dict())
    layers = [
        conv1,
        nn.ReLU(),
        pool(2),
        conv2,
        nn.ReLU(),
        pool(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        dense,
        nn.ReLU(),
        nn.Dropout(0.5),
        output,
    ]
    return nn.Sequential(*layers)


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 40, 168), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_outputs_and_gradients_equal_those_of_the_plain_network(images, pooling):
    torch.manual_seed(0)
    network = TwoConv((40, 168), pooling=pooling).eval()
    reference = plain(network, pooling).eval()
    sums = torch.tensor([3, 11, 18, 27, 36])
    output = network(images)
    expected = reference(images.unsqueeze(1) / 255).squeeze(1)
    assert torch.allclose(output, expected, atol=1e-5)
    network.loss(output, sums).backward()
    nn.functional.mse_loss(expected, sums.float()).backward()
    for ours, theirs in ((network.conv1, reference[0]), (network.conv2, reference[3]), (network.output, reference[11])):
        assert torch.allclose(ours.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-4)
        assert torch.allclose(ours.bias.grad, theirs.bias.grad, rtol=1e-3, atol=1e-4)


def test_the_reference_has_its_features_and_parameters():
    network = TwoConv((40, 168))
    assert network.dense.in_features == 20_480
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_640_513


def test_weights_start_glorot_uniform_and_biases_at_zero():
    torch.manual_seed(0)
    network = TwoConv((40, 168))
    limits = {
        network.conv1: (6 / (9 + 288)) ** 0.5,
        network.conv2: (6 / (288 + 576)) ** 0.5,
        network.dense: (6 / (20_480 + 128)) ** 0.5,
        network.output: (6 / 129) ** 0.5,
    }
    for layer, limit in limits.items():
        assert layer.weight.abs().max() <= limit
        assert layer.weight.abs().max() > 0.9 * limit
        assert layer.bias.abs().max() == 0


def test_uint8_and_float_images_give_the_same_answer(images):
    network = TwoConv((40, 168)).eval()
    assert torch.allclose(network(images), network(images.float() / 255), atol=1e-6)


@pytest.mark.parametrize("size", [(40, 168), (28, 28), (51, 77)])
def test_any_image_size_gives_one_number_an_image(size):
    network = TwoConv(size, kernel_size=5, conv1_channels=4, conv2_channels=6, hidden_units=8)
    assert network(torch.zeros((3, *size), dtype=torch.uint8)).shape == (3,)


def test_dropout_works_while_learning_alone(images):
    network = TwoConv((40, 168))
    network.train()
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("conv1_channels", 0),
        ("conv2_channels", -1),
        ("kernel_size", 0),
        ("hidden_units", 0),
        ("conv_dropout", 1.0),
        ("dense_dropout", -0.1),
        ("pooling", "median"),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(option, value):
    with pytest.raises(InputError, match=f"model.{option}"):
        TwoConv((40, 168), **{option: value})


def test_images_too_small_for_the_convolutions_are_refused():
    with pytest.raises(InputError, match="9x9 are too small"):
        TwoConv((9, 9))


def test_unknown_networks_and_options_are_refused():
    with pytest.raises(InputError, match="unknown network 'three_conv'; known are"):
        build_network("three_conv", (40, 168), {})
    with pytest.raises(InputError, match="no option kernel"):
        build_network("two_conv", (40, 168), {"kernel": 3})


def test_the_table_leads_to_the_network():
    assert NETWORKS["two_conv"] == (TwoConv, TwoConvSettings)
    assert isinstance(build_network("two_conv", (40, 168), {}), TwoConv)
