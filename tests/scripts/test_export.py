"""`scripts/export.py` as people call it, and `scripts/predict.py` on what it wrote."""

import csv
import json

import export
import numpy as np
import predict
import pytest

import digitsum

pytest.importorskip("onnxruntime", reason="needs ONNX, which the extra `export` installs")


def test_the_newest_runs_model_is_compared_on_its_own_images_and_can_be_read(command, tmp_path, finished_run):
    path = tmp_path / "new" / "my model.onnx"
    result = command(export.main, f"outputs_dir={finished_run.parent.parent}", f"out='{path}'")
    assert result.code == 0, result.text
    assert "the newest finished run" in result.out
    assert "on 20 images (the run's validation images): largest difference" in result.out
    assert "no other sums" in result.out
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    images = np.random.default_rng(0).integers(0, 256, (5, 40, 168), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    words = (f"input={tmp_path}/images.npy", f"run_dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/out", "trainer=cpu")
    result = command(predict.main, f"ckpt_path='{path}'", *words)
    assert result.code == 0, result.text
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        found = [float(row["predicted"]) for row in csv.DictReader(file)]
    expected = digitsum.load_model(finished_run / "checkpoints" / "best.ckpt").read(images)
    assert found == pytest.approx([reading.sum for reading in expected], abs=1e-3)

    result = command(predict.main, f"ckpt_path='{path}'", *words[1:])
    assert result.code == 1
    assert "an exported model knows no data; give images with input=PATH" in result.text

    about = digitsum.models.onnx_model.require("onnx")[0].load(path).metadata_props
    metrics = json.loads({entry.key: entry.value for entry in about}["metrics"])
    assert metrics == json.loads((finished_run / "metrics.json").read_text())


def test_a_readers_frames_read_pictures_with_any_number_of_digits(command, tmp_path, finished_reader):
    path = tmp_path / "frames.onnx"
    words = (f"ckpt_path={finished_reader}/checkpoints/best.ckpt", f"out={path}", "outputs=log_probs")
    result = command(export.main, *words, "num_digits=[1,6]")
    assert result.code == 0, result.text
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (3, 40, 200), dtype=np.uint8))
    words = (f"input={tmp_path}/images.npy", f"run_dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/out", "trainer=cpu")
    result = command(predict.main, f"ckpt_path={path}", *words, "num_digits=3")
    assert result.code == 0, result.text
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {len(row["digits"]) for row in csv.DictReader(file)} == {3}
    assert digitsum.models.onnx_model.load_onnx(path).net.counts.max == 6


def test_a_published_model_is_exported_and_read_with_by_its_name(command, tmp_path, published_tiny):
    path = tmp_path / "tiny.onnx"
    result = command(export.main, "ckpt_path=tiny", f"out={path}", "outputs=log_probs")
    assert result.code == 0, result.text
    assert "on 64 images (canvases of bundled digits)" in result.out
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (3, 40, 200), dtype=np.uint8))
    tables = []
    for name in ("tiny", path):
        places = (f"run_dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/out", "trainer=cpu")
        assert command(predict.main, f"ckpt_path={name}", f"input={tmp_path}/images.npy", *places).code == 0
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            tables.append([row["digits"] for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("words", "reason"), [
    (["out=TMP/m.onnx", "format=tflite"], "format: expected one of onnx, torch_export, safetensors, got 'tflite'"),
    (["out=TMP/m.onnx", "num_digits=3"], "num_digits: this model has no such choice"),
    (["out=TMP/m.onnx", "outputs=log_probs"], "this network has no frames"),
    (["out=TMP/file/m.onnx"], "cannot write"),
    (["out=TMP"], "out: expected the name of a file, but"),
    (["out=TMP/m.onnx", "ckpt_path=TMP/absent.ckpt"], "absent.ckpt: expected a checkpoint, found nothing"),
    ([], "out"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_file(command, tmp_path, finished_run, words, reason):
    (tmp_path / "file").touch()
    words = [word.replace("TMP", str(tmp_path)) for word in words]
    if not any(word.startswith("ckpt_path") for word in words):
        words.append(f"ckpt_path={finished_run}/checkpoints/best.ckpt")
    result = command(export.main, *words)
    assert result.code == 1
    assert reason in result.text
    assert "Traceback" not in result.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_file_is_one_line(command, tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"nothing")
    (tmp_path / "picture.png").touch()
    words = (f"ckpt_path={tmp_path}/damaged.onnx", f"input={tmp_path}/picture.png", f"run_dir={tmp_path}/out")
    result = command(predict.main, *words, f"hydra.run.dir={tmp_path}/out", "trainer=cpu")
    assert result.code == 1
    assert (
        "damaged.onnx: expected an ONNX file written by scripts/export.py, but it is damaged or no ONNX" in result.text
    )
    assert "Traceback" not in result.text
