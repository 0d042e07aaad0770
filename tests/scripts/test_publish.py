"""`scripts/publish.py` as people call it: what it measures, refuses and writes."""

import csv
import json

import numpy as np
import publish
import pytest
import safetensors
from PIL import Image

from digitsum.models import published
from digitsum.models.checkpoints import load_model

LOW = ("min_exact.test=0", "min_exact.four_digits=0", "min_exact.pictures=0", "num_images=30")


@pytest.fixture
def published_as(command, tmp_path, finished_reader):
    """Publish the tiny reader with a command's words."""

    def run(*words):
        outputs = finished_reader.parent.parent
        places = (
            f"ckpt_path={finished_reader}/checkpoints/best.ckpt",
            f"folder={tmp_path}/new",
            f"outputs_dir={outputs}",
        )
        return command(publish.main, *places, *words)

    return run


def test_weights_and_card_are_written_with_what_was_measured(published_as, tmp_path, monkeypatch, finished_reader):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.pad(np.zeros((40, 12), np.uint8), 30, constant_values=220)).save(tmp_path / "photos" / "one.png")
    with (tmp_path / "photos" / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "digits", "sum"], ["one.png", "1", "1"]])
    result = published_as("name=tiny-1", f"pictures={tmp_path}/photos", *LOW)
    assert result.code == 0, result.text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["tiny-1.md", "tiny-1.safetensors"]
    with safetensors.safe_open(tmp_path / "new" / "tiny-1.safetensors", "pt") as file:
        figures = json.loads(file.metadata()["metrics"])
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys() if "tracked" not in name}  # noqa: SIM118
    images = {name: row["images"] for name, row in figures.items()}
    assert (images.pop("test"), images.pop("pictures")) == (10, 1)
    assert list(images.items())[3::4] == [("four_digits", 30), ("eight_digits", 30)]
    differ = any(row["half_precision_differs"] for row in figures.values())
    assert kinds == {"torch.float32" if differ else "torch.float16"}
    recorded = json.loads((finished_reader / "metrics.json").read_text())["test"]
    assert figures["test"]["exact"] == pytest.approx(recorded["model"]["exact"])
    assert figures["test"]["baseline"] == pytest.approx(recorded["baseline"]["exact"])

    card = (tmp_path / "new" / "tiny-1.md").read_text()
    for word in ("# tiny-1\n", "40 canvases", "CC BY 4.0", "seed 0", f"| test | 10 | {figures['test']['exact']:.1%} |"):
        assert word in card
    assert str(tmp_path) not in card
    monkeypatch.setattr(published, "FOLDER", tmp_path / "new")
    assert load_model("tiny").hparams["options"]["width"] == 2

    result = published_as("name=tiny-1", *LOW)
    assert result.code == 1
    assert "tiny-1.safetensors: is published, and never changes" in result.text


def test_a_reader_can_be_published_for_any_number_of_digits(published_as, tmp_path):
    assert published_as("name=tiny-1", "num_digits=null", "width=100", *LOW).code == 0
    model = load_model(tmp_path / "new" / "tiny-1.safetensors")
    assert model.hparams["options"]["num_digits"] is None
    assert model.image_size == (40, 100)
    assert len(model.read(np.zeros((2, 40, 130), np.uint8))) == 2


@pytest.mark.parametrize(("words", "reason"), [
    (["name=tiny-1", *LOW, "num_digits=none"], "num_digits: expected a whole number from 1 or a range"),
    (["name=tiny-1", *LOW, "min_exact.four_digits=0.9"], "tiny-1: not published: expected 90.0% of the sums right on"),
    (["name=tiny", *LOW], "name: expected a name and its version, reader-1 say, got 'tiny'"),
    (["name=tiny-1", *LOW, "pictures=TMP"], "truth.csv: expected columns file and sum, found none"),
])  # fmt: skip
def test_a_refusal_is_one_line_and_nothing_is_written(published_as, tmp_path, words, reason):
    result = published_as(*(word.replace("TMP", str(tmp_path)) for word in words))
    assert result.code == 1
    assert reason in result.text
    assert "Traceback" not in result.text
    assert not (tmp_path / "new").exists()
