"""Several networks that answer together: the mean of what each says, read by the first."""

from pathlib import Path

import pytest
import torch

from digitsum.errors import InputError
from digitsum.models.checkpoints import load_model, save_safetensors
from digitsum.models.ensemble import ensemble_of
from digitsum.models.export import export
from digitsum.models.module import SumModule
from digitsum.models.reader import ReaderSettings
from digitsum.models.two_conv import TwoConvSettings


def modules_of(network, *settings, size=(40, 168)):
    """A module for each of the settings, each with weights of its own."""
    found = {}
    for seed, one in enumerate(settings):
        torch.manual_seed(seed)
        found[Path(f"{seed}.ckpt")] = SumModule(network, size, one).eval()
    return found


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 40, 168), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.inference_mode()
@pytest.mark.parametrize("tta", [1, 3])
def test_a_distribution_is_the_mean_of_the_readers_distributions(images, tta):
    modules = modules_of("reader", *[ReaderSettings(width=8)] * 3)
    for module in modules.values():
        module.net.set_decoding(tta=tta)
    expected = torch.stack([module.predict(images).probs for module in modules.values()]).mean(0)
    prediction = ensemble_of(modules).predict(images)
    assert torch.allclose(prediction.probs, expected, atol=1e-6)
    assert torch.equal(prediction.estimate, expected.argmax(1).float())
    digits, positions = prediction.sequence.digits, prediction.sequence.positions
    assert torch.equal(digits.clamp_min(0).sum(1).float(), prediction.estimate)
    assert (digits >= 0).sum(1).tolist() == [4] * 5
    assert (positions[digits >= 0] < 200).all()


@torch.inference_mode()
def test_a_number_is_the_mean_of_the_networks_numbers(images):
    modules = modules_of("two_conv", TwoConvSettings(conv1_channels=2), TwoConvSettings(hidden_units=3))
    expected = torch.stack([module(images) for module in modules.values()]).mean(0)
    assert torch.allclose(ensemble_of(modules)(images), expected, atol=1e-6)


def test_one_model_is_no_ensemble():
    modules = modules_of("two_conv", TwoConvSettings())
    assert not hasattr(ensemble_of(modules).net, "networks")


def test_to_read_otherwise_once_changes_no_network(images):
    module = ensemble_of(modules_of("reader", *[ReaderSettings(width=8)] * 2))
    before = module.read(images)
    others = module.read(images, num_digits=2, tta=2)
    assert {len(reading.digits) for reading in others} == {2}
    assert module.read(images) == before


@pytest.mark.parametrize(
    ("others", "what"),
    [
        (modules_of("two_conv", TwoConvSettings()), "whose network is reader, to answer with it, found network two_c"),
        (modules_of("reader", ReaderSettings(width=8, num_digits=3)), "whose num_digits is 4, .* found num_digits 3"),
        (modules_of("reader", ReaderSettings(width=8), size=(48, 168)), "whose height is 40, .* found height 48"),
    ],
)
def test_models_that_are_not_alike_are_refused(others, what):
    first = modules_of("reader", ReaderSettings(width=8))
    with pytest.raises(InputError, match=what) as error:
        ensemble_of({Path("first.ckpt"): first[Path("0.ckpt")], **others})
    assert str(error.value).startswith("0.ckpt: expected a model like first.ckpt")


def test_readers_of_other_widths_answer_together(images):
    (one,), (other,) = (
        modules_of("reader", ReaderSettings(width=8), size=(40, width)).values() for width in (168, 200)
    )
    assert ensemble_of({Path("a"): one, Path("b"): other}).predict(images).probs.shape[0] == 5


def test_an_ensemble_is_not_written_as_one_model(images, tmp_path):
    module = ensemble_of(modules_of("two_conv", *[TwoConvSettings()] * 2))
    with pytest.raises(InputError, match="expected one model, got several that answer together"):
        save_safetensors(module, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="expected one model, got several that answer together"):
        export(module, tmp_path / "a.safetensors", images, format="safetensors")
    assert not list(tmp_path.iterdir())


def test_a_list_of_checkpoints_is_loaded_as_one_model(images, tmp_path):
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    modules = modules_of("two_conv", *[TwoConvSettings()] * 2)
    for path, module in zip(paths, modules.values(), strict=True):
        save_safetensors(module, path)
    with torch.inference_mode():
        expected = sum(module(images) for module in modules.values()) / 2
        assert torch.allclose(load_model(paths)(images), expected, atol=1e-6)
    with pytest.raises(InputError, match="expected a checkpoint or several, got none"):
        load_model([])
