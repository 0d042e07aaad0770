"""From a checkpoint to a model, without the code that trained it and without trusting it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from digitsum.errors import InputError
from digitsum.models.checkpoints import load_model, save_safetensors


@pytest.fixture
def checkpoint(finished_run):
    return finished_run / "checkpoints" / "best.ckpt"


def changed(path, tmp_path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


def test_a_model_reads_an_array_of_images(checkpoint):
    model = load_model(checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 168), dtype=np.uint8)
    with torch.inference_mode():
        sums = model(torch.from_numpy(images))
    assert sums.shape == (3,)
    assert not model.training


def test_hyperparameters_are_plain_values(checkpoint):
    def check(value):
        if isinstance(value, dict):
            return all(type(key) is str and check(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(check, value))
        return value is None or type(value) in (int, float, str, bool)

    content = torch.load(checkpoint, weights_only=True)
    assert check(content["hyper_parameters"])
    assert check(content["datamodule_hyper_parameters"])
    assert content["hyper_parameters"]["network"] == "two_conv"


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": Payload(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match=r"evil.ckpt: .* more than plain values"):
        load_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("content", "words"), [
    (b"", "damaged"), (b"not a checkpoint", "damaged"), (None, "found nothing"),
])  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x.ckpt: .*{words}"):
        load_model(path)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="found a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_refused(checkpoint, tmp_path, share):
    content = checkpoint.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"cut.ckpt: .*damaged"):
        load_model(tmp_path / "cut.ckpt")


def test_another_file_of_torchs_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="another file of torch's"):
        load_model(tmp_path / "other.pt")


@pytest.mark.parametrize("change", [
    lambda content: content["hyper_parameters"].update(network="os.system"),
    lambda content: content["hyper_parameters"].update(surprise=1),
    lambda content: content["hyper_parameters"]["options"].update(kernel_size=-3),
    lambda content: content["hyper_parameters"]["options"].update(hidden_units=9),
    lambda content: content["state_dict"].popitem(),
    lambda content: content.update(state_dict=3),
    lambda content: content.update(hyper_parameters=["two_conv"]),
    lambda content: content["hyper_parameters"].update(image_size="big"),
])  # fmt: skip
def test_hyperparameters_or_weights_that_do_not_fit_are_refused_in_one_line(checkpoint, tmp_path, change):
    path = changed(checkpoint, tmp_path, change)
    with pytest.raises(InputError, match="does not fit") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


# --- checkpoints that version 0.4 wrote, after an epoch or six on 40 images (model.width=2 model.digit_cost=0.5
# model.num_digits=[3,5]; model.conv1_channels=1 model.conv2_channels=1 model.hidden_units=2), and what it answered

VERSION_0_4 = Path(__file__).parent / "checkpoints_0_4"


@pytest.fixture
def patterns():
    pixels = torch.arange(40 * 168).view(40, 168)
    return torch.stack([pixels * 7919 % 256, (pixels % 168 // 24 % 2) * 200]).to(torch.uint8)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_regression_network_of_version_0_4_answers_as_it_did(patterns, tmp_path, suffix):
    model = load_model(VERSION_0_4 / "two_conv.ckpt")
    if suffix == ".safetensors":
        save_safetensors(model, tmp_path / "model.safetensors")
        model = load_model(tmp_path / "model.safetensors")
    with torch.inference_mode():
        assert model(patterns).tolist() == pytest.approx([-0.0688645, -0.2486473], abs=1e-5)


def test_a_reader_of_version_0_4_answers_as_it_did(patterns):
    model = load_model(VERSION_0_4 / "reader.ckpt")
    options = {"num_digits": [3, 5], "width": 2, "dropout": 0.0, "length_penalty": 0.5}
    assert model.hparams["options"] == {"depth": 4, **options, "fast": True}
    with torch.inference_mode():
        prediction = model.predict(patterns)
    assert prediction.estimate.tolist() == [18, 18]
    assert prediction.probs[:, 18].tolist() == pytest.approx([0.0572109, 0.0572303], abs=1e-6)
    assert prediction.probs[:, 9].tolist() == pytest.approx([0.0273597, 0.0274026], abs=1e-6)
    assert prediction.sequence.texts() == ["990", "099"]
