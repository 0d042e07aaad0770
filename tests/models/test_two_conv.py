"""The reference network: its layers, and the faster forms of them against the plain ones."""

import statistics

import pytest
import torch
from torch import nn

from digitsum.data.batches import Batches
from digitsum.data.canvases import Layout
from digitsum.data.datamodule import ComposedData, SumDataModule
from digitsum.errors import InputError
from digitsum.models.registry import NETWORKS, network_settings
from digitsum.models.two_conv import FlattenChannelsLast, TwoConv, TwoConvSettings


def fast_and_plain(image_size=(40, 168), **options):
    """The network with the faster layers and with the plain ones, and the same weights."""
    fast, plain = (TwoConv(image_size, TwoConvSettings(fast=fast, **options)) for fast in (True, False))
    plain.load_state_dict(fast.state_dict())
    return fast, plain


@pytest.fixture
def images():
    """Like canvases: mostly blank, with strokes of full ink."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (5, 40, 168), dtype=torch.uint8, generator=generator)
    noise[:, :, 50:60] = 255
    return noise * (torch.rand((5, 40, 168), generator=generator) < 0.2)


def test_the_layers_are_those_of_the_reference():
    names = [type(layer).__name__ for layer in TwoConv((40, 168), TwoConvSettings(fast=False))]
    assert names == [
        "Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "FlattenChannelsLast", "Dropout", "Linear",
        "ReLU", "Dropout", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"kernel_size": 5}, {"kernel_size": 2, "conv1_channels": 3}])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_outputs_and_gradients_equal_those_of_the_plain_layers(images, pooling, options):
    torch.manual_seed(0)
    network, plain = fast_and_plain(pooling=pooling, **options)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.1, 0.1)
    plain.load_state_dict(network.state_dict())
    network.eval()
    plain.eval().double()  # in single precision the largest of four that are nearly equal may be another one
    sums = torch.tensor([3, 11, 18, 27, 36])
    output, expected = network(images), plain(images)
    assert torch.allclose(output.double(), expected, atol=1e-5)
    network.loss(output, sums).backward()
    plain.loss(expected, sums).backward()
    gradients = [{name: x.grad for name, x in each.named_parameters()} for each in (network, plain)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert near(gradient, gradients[1][name]), name


def test_features_are_flattened_with_their_channels_last():
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert torch.equal(FlattenChannelsLast()(x), x.permute(0, 2, 3, 1).reshape(2, -1))
    assert FlattenChannelsLast()(x)[0, :4].tolist() == [0, 20, 40, 1]


def near(ours, theirs):
    """Whether rounding is all that parts two gradients; a value that nearly is 0 may be rectified or not."""
    return (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.slow
def test_training_ends_where_that_of_the_plain_network_ends(datasets_dir):
    """Four seeds of each, 16 epochs of 960 canvases: the means differ by less than twice the plain one's spread."""
    layout = Layout(num_digits=1, width=56)
    data = SumDataModule(
        ComposedData(num_train=960, num_val=960, num_test=1, layout=layout, datasets_dir=str(datasets_dir))
    )
    data.prepare_data()
    data.setup()

    def error(network, seed):
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(network.parameters(), eps=1e-7)
        batches = Batches(data.splits["train"], 64, shuffle_seed=seed)
        for _ in range(16):
            for batch in batches:
                optimizer.zero_grad()
                nn.functional.mse_loss(network(batch["images"]), batch["sums"].float()).backward()
                optimizer.step()
        network.eval()
        with torch.no_grad():
            errors = [(network(batch["images"]) - batch["sums"]).square() for batch in data.batches("val")]
        return torch.cat(errors).mean().item()

    ours, theirs = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        network, plain = fast_and_plain((40, 56), conv1_channels=16, conv2_channels=32)
        ours.append(error(network, seed))
        theirs.append(error(plain, seed))
    assert abs(statistics.mean(ours) - statistics.mean(theirs)) < 2 * statistics.stdev(theirs)
    constant = data.splits["val"].sums.double().var().item()
    assert max(ours) < 0.9 * constant, "too little was learned to tell"


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


def test_each_of_many_images_has_the_answer_that_it_has_alone():
    network = TwoConv((40, 168)).eval()
    images = torch.zeros((150, 40, 168), dtype=torch.uint8)
    for row in range(1, len(images)):  # in no order of where their ink ends
        images[row, 5:30, : 37 * row % 168] = row
    with torch.inference_mode():
        answers, alone = network(images), torch.cat([network(image[None]) for image in images])
    assert len(answers.unique()) > 100
    assert torch.allclose(answers, alone, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 168), (28, 28), (51, 77)])
def test_any_image_size_gives_one_number_an_image(size):
    network = TwoConv(size, TwoConvSettings(kernel_size=5, conv1_channels=4, conv2_channels=6, hidden_units=8))
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
        TwoConvSettings(**{option: value})


def test_images_too_small_for_the_convolutions_are_refused():
    with pytest.raises(InputError, match="9x9 are too small"):
        TwoConv((9, 9))


def test_unknown_networks_and_options_are_refused():
    with pytest.raises(InputError, match="unknown network 'three_conv'; known are"):
        network_settings("three_conv", {})
    with pytest.raises(InputError, match="no option kernel"):
        network_settings("two_conv", {"kernel": 3})


def test_the_table_leads_to_the_network():
    assert NETWORKS["two_conv"] == (TwoConv, TwoConvSettings)
    assert network_settings("two_conv", {"hidden_units": 8}) == TwoConvSettings(hidden_units=8)
