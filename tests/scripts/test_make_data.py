"""`scripts/make_data.py` as people call it."""

import json
import os
import signal

import make_data
import numpy as np
import predict
import pytest
import train
import tune
from conftest import TINY_RUN
from PIL import Image

from digitsum.cli.console import ComposingBar

SMALL = ("data.num_train=30", "data.num_val=10", "data.num_test=10")


def test_a_set_is_written_with_its_description_and_a_picture(command, tmp_path):
    result = command(make_data.main, f"out={tmp_path}/set", *SMALL)
    assert result.code == 0, result.text
    description = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert description["glyphs"] == "bundled"
    assert description["statistics"]["train"]["images"] == 30
    with Image.open(tmp_path / "set" / "canvases.png") as picture:
        assert picture.size[0] > 500
    assert "composing canvases" in result.err
    assert "scripts/train.py data=arrays data.root=" in result.out
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_any_layout_size_and_seed_can_be_asked_for(command, tmp_path):
    layout = ("data.layout.num_digits=[2,5]", "data.layout.width=210", "data.layout.overlap=max", "data.compose_seed=7")
    assert command(make_data.main, f"out={tmp_path}/set", *SMALL, *layout).code == 0
    images = np.load(tmp_path / "set" / "train" / "data0.npy")
    assert (images.shape, images.dtype) == ((30, 40, 210), np.uint8)
    counts = (np.load(tmp_path / "set" / "train" / "truth0.npz")["digits"] >= 0).sum(1)
    assert set(counts) == {2, 3, 4, 5}


def test_own_glyphs_are_used(command, tmp_path):
    np.save(tmp_path / "glyphs.npy", np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.full(50, 7))
    own = ("data.glyphs=arrays", f"data.glyph_images={tmp_path}/glyphs.npy", f"data.glyph_labels={tmp_path}/labels.npy")
    assert command(make_data.main, f"out={tmp_path}/set", *SMALL, *own).code == 0
    assert set(np.load(tmp_path / "set" / "train" / "lab0.npy")) == {28}


def test_a_name_with_spaces_and_marks_is_taken(command, tmp_path):
    assert command(make_data.main, f"out='{tmp_path}/my set, 1=[a] ü'", *SMALL).code == 0
    assert (tmp_path / "my set, 1=[a] ü" / "dataset.json").exists()


@pytest.mark.parametrize(("words", "reason"), [
    ([], "out"),
    (["out=TMP/taken"], "does; choose another"),
    (["out=TMP/set", "data.layout.num_digits=9"], "data.layout.width="),
    (["out=TMP/set", "data.glyphs=arrays"], "data.glyph_images"),
    (["out=TMP/set", "data=arrays", "data.root=x"], "expected a source to compose from"),
    (["out=TMP/set", "data=mnist", "data.mnist_root=TMP/none"], "MNIST not found"),
    (["out=TMP/file/set"], "cannot write"),
    (["out=TMP/set", "data.layout.height=1000000000"], "MB of free space for the data set"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(command, tmp_path, words, reason):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").write_text("")
    (tmp_path / "file").write_text("")
    sizes = [] if "data=arrays" in words else SMALL
    result = command(make_data.main, *(word.replace("TMP", str(tmp_path)) for word in words), *sizes)
    assert result.code == 1
    assert reason in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "file"}


@pytest.fixture
def stopped_composing(monkeypatch):
    """Let a signal come when the first canvases of the validation set are composed."""

    def stop(signum):
        counts = []

        def stop_at_the_second(bar, count):
            counts.append(count)
            if len(counts) == 2:
                os.kill(os.getpid(), signum)

        monkeypatch.setattr(ComposingBar, "__call__", stop_at_the_second)

    return stop


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_composing_leaves_nothing_behind(command, stopped_composing, tmp_path, signum):
    stopped_composing(signum)
    assert command(make_data.main, f"out={tmp_path}/set", *SMALL).code == 128 + signum
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train", "sweep", "tune", "predict"])
def test_a_signal_while_another_command_composes_leaves_no_data_set(
    command, stopped_composing, tmp_path, finished_run, script
):
    stopped_composing(signal.SIGTERM)
    datasets = tmp_path / "outputs" / "datasets"
    words = (*TINY_RUN, f"outputs_dir={tmp_path}/outputs", f"data.datasets_dir={datasets}")
    checkpoint = f"ckpt_path='{finished_run}/checkpoints/best.ckpt'"
    result = {
        "train": lambda: command(train.main, *words, f"hydra.run.dir={tmp_path}/run"),
        "sweep": lambda: command(train.main, "-m", *words, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"),
        "tune": lambda: command(tune.main, *words, "~search.data"),
        "predict": lambda: command(predict.main, checkpoint, *words[-2:-1], f"hydra.run.dir={tmp_path}/run"),
    }[script]()
    assert result.code == 128 + signal.SIGTERM, result.text
    assert list(datasets.iterdir()) == []
