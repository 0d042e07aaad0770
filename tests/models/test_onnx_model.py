"""Exported files answer as their checkpoints do, and what does not is not written."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from markdown_it import MarkdownIt
from safetensors import safe_open

import digitsum
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.errors import InputError
from digitsum.models import export as export_module
from digitsum.models.export import export
from digitsum.models.graphs import AnswerGraph
from digitsum.models.module import SumModule
from digitsum.models.onnx_model import load_onnx
from digitsum.models.reader import ReaderSettings

onnx = pytest.importorskip("onnx", reason="needs ONNX, which the extra `export` installs")
ort = pytest.importorskip("onnxruntime")

SIZE = (40, 50)  # a few frames: the graph of a wide image takes a minute to build


def seeded(network, settings=None):
    torch.manual_seed(0)
    return SumModule(network, SIZE, settings, train_mean=7.5).eval()


@pytest.fixture(scope="module")
def images():
    layout = Layout(width=50, num_digits=1)
    pool = load_glyph_pools("bundled")["val"]
    return torch.from_numpy(compose(layout, pool, seed=0, stream=0, start=0, count=9)[0])


@pytest.fixture(scope="module")
def reader():
    return seeded("reader", ReaderSettings(num_digits=[1, 2], width=8))


@pytest.fixture(scope="module")
def two_conv():
    return seeded("two_conv")


@pytest.fixture(scope="module")
def files(tmp_path_factory, reader, two_conv, images):
    """Each network and each of its outputs as ONNX, made once."""
    folder = tmp_path_factory.mktemp("exported")
    export(two_conv, folder / "sum.onnx", images)
    export(reader, folder / "answer.onnx", images, metrics={"val": {"model": {"mae": 1.5}}})
    export(reader, folder / "log_probs.onnx", images, outputs="log_probs")
    return folder


@pytest.fixture(scope="module")
def run(files):
    def run_(name, images):
        session = ort.InferenceSession(files / f"{name}.onnx")
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))

    return run_


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_regressions_sums_are_the_checkpoints_in_batches_of_any_size(run, two_conv, images, count):
    with torch.inference_mode():
        expected = two_conv(images[:count]).numpy()
    np.testing.assert_allclose(run("sum", images[:count])["sum"], expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_an_answer_has_all_that_the_reader_says(run, reader, images, count):
    answer = run("answer", images[:count])
    with torch.inference_mode():
        expected = reader.predict(images[:count])
        sequence = expected.sequence
    assert answer["sum"].dtype == np.int64
    assert answer["sum"].tolist() == expected.estimate.tolist()
    np.testing.assert_allclose(answer["probs"], expected.probs, atol=1e-5)
    np.testing.assert_allclose(answer["probability"], expected.probs.amax(1), atol=1e-5)
    assert answer["digits"].shape == (count, 2)
    most = sequence.digits.shape[1]
    assert (answer["digits"][:, :most] == sequence.digits.numpy()).all()
    assert (answer["digits"][:, most:] == -1).all()
    np.testing.assert_allclose(answer["positions"][:, :most], sequence.positions, atol=1e-3)


@pytest.mark.parametrize("width", [8, 43, 50, 131])
def test_log_probs_are_read_at_any_width(run, reader, width):
    images = torch.randint(0, 256, (3, 40, width), dtype=torch.uint8)
    with torch.inference_mode():
        expected = reader.net(images)[:, 0]
    np.testing.assert_allclose(run("log_probs", images)["log_probs"], expected, atol=1e-5)


@pytest.mark.parametrize("num_digits", [3, [2, 4], None])
def test_the_graph_of_an_answer_knows_every_choice_of_how_many_digits_there_are(images, num_digits):
    module = seeded("reader", ReaderSettings(num_digits=num_digits, width=8))
    graph = AnswerGraph(module.net, 50).eval()
    with torch.inference_mode():
        sums, _, probs, digits, _ = graph(images)
        expected = module.predict(images)
    assert torch.equal(sums, expected.estimate.long())
    torch.testing.assert_close(probs, expected.probs)
    texts = ["".join(str(digit) for digit in row if digit >= 0) for row in digits.tolist()]
    assert texts == expected.sequence.texts()
    assert list(graph.shapes["probs"]) == ["batch", probs.shape[1]]
    assert list(graph.shapes["digits"]) == ["batch", digits.shape[1]]


def test_a_file_says_what_it_is(files):
    model = onnx.load(files / "answer.onnx")
    onnx.checker.check_model(model)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["digitsum_version"] == digitsum.__version__
    assert (about["network"], about["outputs"]) == ("reader", "answer")
    assert json.loads(about["hyper_parameters"])["options"]["num_digits"] == [1, 2]
    assert json.loads(about["input"]) == {"images": {"dtype": "uint8", "shape": ["batch", 40, 50]}}
    assert json.loads(about["output"])["digits"] == ["batch", 2]
    assert json.loads(about["metrics"])["val"]["model"]["mae"] == 1.5
    assert "255" in about["normalisation"]
    session = ort.InferenceSession(files / "log_probs.onnx")
    assert session.get_inputs()[0].shape == ["batch", 40, "width"]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert session.get_outputs()[0].shape == ["batch", "frames", 11]


@pytest.mark.parametrize("name", ["answer", "log_probs", "sum"])
def test_a_file_of_ours_reads_like_its_module(files, reader, two_conv, images, name):
    expected = (two_conv if name == "sum" else reader).read(images)
    model = load_onnx(files / f"{name}.onnx")
    assert model.train_mean == 7.5
    found = model.read(images)
    assert [one.digits for one in found] == [one.digits for one in expected]
    assert [one.sum for one in found] == pytest.approx([one.sum for one in expected], abs=1e-4)
    assert [one.sum for one in model.read(images / 255)] == [one.sum for one in found]
    with torch.inference_mode():
        assert model(images).tolist() == pytest.approx([one.sum for one in expected], abs=1e-4)


def test_frames_are_decoded_as_one_chooses_and_an_answer_is_fixed(files, reader, images):
    frames, answer = load_onnx(files / "log_probs.onnx"), load_onnx(files / "answer.onnx")
    expected = [reading.digits for reading in reader.read(images, num_digits=3)]
    assert [reading.digits for reading in frames.read(images, num_digits=3)] == expected
    with pytest.raises(InputError, match="num_digits: it is fixed in this file; export it anew"):
        answer.read(images, num_digits=3)
    with pytest.raises(InputError, match="tta: an exported file reads one copy"):
        frames.read(images, tta=2)


def test_a_reader_can_be_exported_for_another_width(tmp_path, reader, images):
    export(reader, tmp_path / "wide.onnx", images, width=64)
    model = load_onnx(tmp_path / "wide.onnx")
    assert model.image_size == (40, 64)
    wide = torch.nn.functional.pad(images, (0, 14))
    assert [one.digits for one in model.read(wide)] == [one.digits for one in reader.read(wide)]


def test_torch_loads_its_own_format(tmp_path, reader, images):
    export(reader, tmp_path / "model.pt2", images, format="torch_export", outputs="log_probs")
    extra = {"network.txt": ""}
    program = torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra).module()
    wide = torch.nn.functional.pad(images[:3], (0, 30))
    with torch.inference_mode():
        torch.testing.assert_close(program(wide), reader.net(wide)[:, 0])
    assert extra["network.txt"] == "reader"


def test_weights_are_what_load_model_reads(tmp_path, two_conv, images):
    export(two_conv, tmp_path / "model.safetensors", images, format="safetensors", metrics={"val": 1})
    assert digitsum.load_model(tmp_path / "model.safetensors").read(images) == two_conv.read(images)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["metrics"] == '{"val": 1}'


def shifted(by):
    """Instead of an ONNX export: one whose outputs are off."""

    def made(graph, sample, about):
        return b"content", lambda images: [graph(images) + by]

    return made


@pytest.mark.parametrize("by", [2e-4, 3.0, float("nan")])
def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch, two_conv, images, by):
    monkeypatch.setattr(export_module, "_onnx", shifted(by))
    with pytest.raises(InputError, match=r"model.onnx: not written: expected differences of at most 0.0001, found"):
        export(two_conv, tmp_path / "model.onnx", images)
    assert list(tmp_path.iterdir()) == []


def test_a_rounding_difference_is_let_through_and_reported(tmp_path, monkeypatch, two_conv, images):
    monkeypatch.setattr(export_module, "_onnx", shifted(2e-5))
    parity = export(two_conv, tmp_path / "model.onnx", images)
    assert parity.largest == pytest.approx(2e-5, rel=0.1)
    assert (parity.different_sums, parity.num_images) == (0, 9)


@pytest.mark.parametrize(("options", "words"), [
    ({"format": "tflite"}, "format: expected one of onnx, torch_export, safetensors, got 'tflite'"),
    ({"outputs": "logits"}, "outputs: expected one of answer, log_probs, got 'logits'"),
    ({"outputs": "log_probs"}, "outputs: expected answer, got log_probs; this network has no frames"),
    ({"width": 60}, "width: expected 50, the only one that this file can have, got 60"),
    ({"width": 5}, "width: expected 8 to 4,000 pixels, got 5"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_one_line(tmp_path, two_conv, images, options, words):
    with pytest.raises(InputError) as caught:
        export(two_conv, tmp_path / "model.onnx", images, **options)
    assert str(caught.value) == words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line_with_the_command(tmp_path, monkeypatch, two_conv, images, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"install what is missing with: pip install -e '.\[export\]'"):
        export(two_conv, tmp_path / "model.onnx", images)
    assert list(tmp_path.iterdir()) == []


def others(path):
    """An ONNX file of another program: the identity."""
    image = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 40, 50])
    output = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.UINT8, ["batch", 40, 50])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["sum"])], "g", [image], [output])
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])


@pytest.mark.parametrize("notes", [
    {},
    {"hyper_parameters": "{"},
    {"hyper_parameters": '{"image_size": [40, 50], "train_mean": 0}', "outputs": "answer"},
    {"hyper_parameters": '{"image_size": [1e9, 50], "train_mean": 0}', "outputs": "log_probs"},
])  # fmt: skip
def test_another_programs_file_is_one_line(tmp_path, notes):
    model = others(tmp_path)
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other.onnx: expected an ONNX file .*, found another program's$"):
        load_onnx(tmp_path / "other.onnx")


def test_a_damaged_file_is_one_line(tmp_path, files, capfd):
    whole = (files / "sum.onnx").read_bytes()
    for content in (b"", b"no model", whole[: len(whole) // 2]):
        (tmp_path / "damaged.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"damaged.onnx: expected an ONNX file .* damaged or no ONNX$"):
            load_onnx(tmp_path / "damaged.onnx")
    with pytest.raises(InputError, match=r"absent.onnx: expected a checkpoint, found nothing"):
        load_onnx(tmp_path / "absent.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["answer", "sum"])
def test_the_lines_of_the_docs_run_without_torch(tmp_path, files, reader, two_conv, images, name):
    tokens = MarkdownIt("commonmark").parse((ROOT / "docs" / "export.md").read_text())
    (code,) = [token.content for token in tokens if token.type == "fence" and "InferenceSession" in token.content]
    assert len([line for line in code.splitlines() if line]) <= 15
    (tmp_path / "model.onnx").write_bytes((files / f"{name}.onnx").read_bytes())
    np.save(tmp_path / "images.npy", images[:, :, :47].numpy())
    without = "import sys\nfor name in ('torch', 'digitsum', 'lightning'): sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", without + code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    padded = torch.nn.functional.pad(images[:, :, :47], (0, 3))
    first, *rest = done.stdout.splitlines()
    expected = (two_conv if name == "sum" else reader).read(padded)
    assert json.loads(first) == pytest.approx([reading.sum for reading in expected], abs=1e-4)
    assert rest == [reading.digits for reading in expected if reading.digits is not None]
