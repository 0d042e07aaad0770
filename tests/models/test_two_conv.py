"""The reference network against its plain, layer-by-layer form."""

import statistics

import pytest
import torch
from torch import nn

from digitsum.data.batches import Batches
from digitsum.data.canvases import Layout
from digitsum.data.datamodule import ComposedData, SumDataModule
from digitsum.errors import InputError
from digitsum.models.registry import NETWORKS, build_network
from digitsum.models.two_conv import TwoConv, TwoConvSettings


class Plain(nn.Module):
    """The network as the reference lists its layers, with the same weights: ReLU before the pooling, NCHW."""

    def __init__(self, network, pooling, image_size=(40, 168)):
        super().__init__()
        size, (hidden, _) = network.conv1.kernel_size[0], network.dense.weight.shape
        first, second = network.conv1.out_channels, network.conv2.out_channels
        pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, first, size), nn.ReLU(), pool(2), nn.Conv2d(first, second, size), nn.ReLU(), pool(2)),
            *(nn.Dropout(0.25), nn.Flatten(), nn.Linear(network.dense.in_features, hidden), nn.ReLU()),
            *(nn.Dropout(0.5), nn.Linear(hidden, 1)),
        )
        for index, layer in ((0, network.conv1), (3, network.conv2), (11, network.output)):
            self.layers[index].load_state_dict(layer.state_dict())
        dense, self.features = self.layers[8], self.layers[:6](torch.zeros((1, 1, *image_size))).shape
        with torch.no_grad():
            dense.weight.copy_(channels_first(network.dense.weight, self.features))
            dense.bias.copy_(network.dense.bias)

    def forward(self, images):
        return self.layers(images.unsqueeze(1).to(self.layers[0].weight.dtype) / 255).squeeze(1)


def channels_first(weight, features):
    """The dense layer's weight for features in the order `(C, H, W)`, where ours lie in the order `(H, W, C)`."""
    _, channels, height, width = features
    return weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2).flatten(1)


@pytest.fixture
def images():
    """Like canvases: mostly blank, with strokes of full ink."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (5, 40, 168), dtype=torch.uint8, generator=generator)
    noise[:, :, 50:60] = 255
    return noise * (torch.rand((5, 40, 168), generator=generator) < 0.2)


@pytest.mark.parametrize("options", [{}, {"kernel_size": 5}, {"kernel_size": 2, "conv1_channels": 3}])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_outputs_and_gradients_equal_those_of_the_plain_network(images, pooling, options):
    torch.manual_seed(0)
    network = TwoConv((40, 168), pooling=pooling, **options).eval()
    for layer in (network.conv1, network.conv2, network.dense):
        nn.init.uniform_(layer.bias, -0.1, 0.1)
    # in double precision: in single the largest of four that are nearly equal may be another one
    reference = Plain(network, pooling).eval().double()
    sums = torch.tensor([3, 11, 18, 27, 36])
    output, expected = network(images), reference(images)
    assert torch.allclose(output.double(), expected, atol=1e-5)
    network.loss(output, sums).backward()
    nn.functional.mse_loss(expected, sums.double()).backward()
    layers = reference.layers
    assert near(channels_first(network.dense.weight.grad, reference.features), layers[8].weight.grad)
    for ours, theirs in ((network.conv1, layers[0]), (network.conv2, layers[3]), (network.output, layers[11])):
        assert near(ours.weight.grad, theirs.weight.grad)
        assert near(ours.bias.grad, theirs.bias.grad)


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
        network = TwoConv((40, 56), conv1_channels=16, conv2_channels=32)
        plain = Plain(network, "max", (40, 56))
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
