"""The models that come with the package: found by their names, like files otherwise."""

import shutil
from pathlib import Path

import pytest
import torch

import digitsum
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.errors import InputError
from digitsum.models import published
from digitsum.models.published import find_model, published_models


def test_a_name_alone_is_its_newest_version(monkeypatch, tmp_path):
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    for name in ("reader-2", "reader-10", "reader-1", "other-3", "reader-01", "notes"):
        (tmp_path / f"{name}.safetensors").touch()
    found = {name: path.stem for name, path in published_models().items()}
    versions = ("reader-1", "reader-2", "reader-10", "other-3")
    assert found == {"reader": "reader-10", "other": "other-3", **{name: name for name in versions}}


def test_a_published_model_answers_as_the_checkpoint_does(published_tiny, finished_reader):
    images = torch.rand(3, 40, 200)
    expected = digitsum.load_model(finished_reader / "checkpoints" / "best.ckpt")(images)
    for name in ("tiny", "tiny-1"):
        assert torch.equal(digitsum.load_model(name)(images), expected)


def test_weights_in_half_precision_are_computed_with_in_full(published_tiny):
    half = digitsum.load_model("tiny").half()
    published_tiny.with_name("tiny-2.safetensors").write_bytes(digitsum.models.checkpoints.safetensors_of(half))
    loaded = digitsum.load_model("tiny")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    weights = half.state_dict()
    assert all(torch.equal(value, weights[name].to(value.dtype)) for name, value in loaded.state_dict().items())


def test_a_name_goes_before_a_file_and_a_path_is_a_file(published_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "mine"):
        shutil.copy(published_tiny, name)
    assert find_model("tiny") == published_tiny
    assert find_model("./tiny") == find_model(Path("tiny")) == Path("tiny")
    assert find_model("mine") == Path("mine")
    assert find_model("tiny.ckpt") == Path("tiny.ckpt")


@pytest.mark.parametrize("name", ["tinny", "tiny-3"])
def test_an_unknown_name_is_told_the_published_ones(published_tiny, name):
    with pytest.raises(InputError) as caught:
        digitsum.load_model(name)
    assert str(caught.value).startswith(f"{name}: expected a checkpoint's file or a published model (tiny, tiny-1), ")
    assert "did you mean tiny" in str(caught.value)


def test_each_model_of_the_package_has_a_card_and_reads_bundled_digits():
    models = published_models()
    if not models:
        pytest.skip("no weights have been published into this package")
    for name, path in models.items():
        assert path.with_suffix(".md").read_text().startswith(f"# {path.stem}\n")
        canvases, drawn = compose(Layout(), load_glyph_pools("bundled")["val"], seed=0, stream=0, start=0, count=200)
        with torch.inference_mode():
            preds = digitsum.load_model(name)(torch.from_numpy(canvases))
        assert (preds == torch.from_numpy(drawn.sums)).float().mean() > 0.5
