"""What a model reads, as plain values: of arrays, files and open pictures the same as the commands say."""

import csv
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import predict
import pytest
import torch
from PIL import Image

import digitsum
from digitsum.data.canvases import Layout, compose
from digitsum.data.glyphs import load_glyph_pools
from digitsum.errors import InputError
from digitsum.models.base import Prediction
from digitsum.models.module import SumModule
from digitsum.models.reading import Reading, distributions_of

SIZE = (40, 168)


@pytest.fixture(scope="module")
def canvases():
    return compose(Layout(), load_glyph_pools("bundled")["test"], seed=0, stream=0, start=0, count=6)[0]


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    return SumModule("reader", SIZE).eval()


@pytest.fixture(scope="module")
def two_conv():
    torch.manual_seed(0)
    return SumModule("two_conv", SIZE).eval()


@pytest.fixture
def pictures(tmp_path, canvases):
    """Two files: dark ink on paper with two rows of digits, and a canvas as it is."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = [np.pad(255 - canvas, 20, constant_values=255) for canvas in canvases[:2]]
    Image.fromarray(np.concatenate(rows)).save(folder / "two rows.png")
    Image.fromarray(canvases[2]).save(folder / "canvas.png")
    return folder


def plain(value):
    if isinstance(value, tuple):
        return all(map(plain, value))
    return value is None or type(value) in (int, float, str)


def test_a_reading_has_what_the_network_predicts_in_plain_values(reader, canvases):
    readings = reader.read(canvases)
    with torch.inference_mode():
        prediction = reader.predict(torch.from_numpy(canvases))
    assert [reading.sum for reading in readings] == prediction.estimate.tolist()
    assert [reading.digits for reading in readings] == prediction.sequence.texts()
    assert [reading.index for reading in readings] == list(range(len(canvases)))
    for row, reading in enumerate(readings):
        assert all(plain(value) for value in vars(reading).values())
        assert sum(map(int, reading.digits)) == reading.sum
        assert len(reading.positions) == len(reading.digits)
        assert reading.probability == pytest.approx(prediction.probs[row].max().item())
        assert reading.low <= reading.sum <= reading.high
        assert reading.warnings == ()
        assert reading.file is reading.line is reading.changes is None
    with pytest.raises(FrozenInstanceError):
        readings[0].sum = 3


def test_a_network_without_a_distribution_answers_with_none(two_conv, canvases):
    (reading,) = two_conv.read(canvases[0])
    assert isinstance(reading.sum, float)
    assert asdict(reading) == asdict(Reading(0, reading.sum))


@pytest.mark.parametrize("form", [
    lambda images: images,
    lambda images: images / 255,
    lambda images: (images / 255).astype(np.float32),
    lambda images: images.astype(np.int64),
    lambda images: torch.from_numpy(images),
    lambda images: torch.from_numpy(images) / 255,
    lambda images: list(images),
    lambda images: np.asfortranarray(images),
])  # fmt: skip
def test_images_may_come_in_any_form(reader, canvases, form):
    expected = [reading.digits for reading in reader.read(canvases)]
    assert [reading.digits for reading in reader.read(form(canvases))] == expected
    assert reader.read(form(canvases)[1])[0].digits == expected[1]


def test_an_array_that_cannot_be_written_is_read_and_left_alone(reader, canvases):
    fixed = canvases.copy()
    fixed.flags.writeable = False
    assert reader.read(fixed) == reader.read(canvases)


def test_batches_do_not_change_the_readings(reader, canvases):
    whole, parts = reader.read(canvases), reader.read(canvases, batch_size=4)
    assert [(one.index, one.digits) for one in parts] == [(one.index, one.digits) for one in whole]
    assert reader.read(canvases[:0]) == reader.read([]) == []


def test_options_hold_for_one_call(reader, canvases):
    before = reader.read(canvases)
    assert {len(reading.digits) for reading in before} == {4}
    assert {len(reading.digits) for reading in reader.read(canvases, num_digits=2)} == {2}
    assert {len(reading.digits) for reading in reader.read(canvases, num_digits=(5, 6))} <= {5, 6}
    assert reader.read(canvases, num_digits=None, tta=6) != before
    assert reader.read(canvases) == before


@pytest.fixture
def table(command, tmp_path, finished_reader):
    """The table of the command for a folder of pictures."""

    def run(pictures, *words):
        out = tmp_path / "out"
        words = (f"run_dir={out}", f"hydra.run.dir={out}", "trainer=cpu", f"input={pictures}", *words)
        result = command(predict.main, f"ckpt_path={finished_reader}/checkpoints/best.ckpt", *words)
        assert result.code == 0, result.text
        with (out / "predictions.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_pictures_are_read_as_the_command_reads_them(table, finished_reader, pictures):
    rows = table(pictures, "num_digits=null", "tta=2")
    model = digitsum.load_model(finished_reader / "checkpoints" / "best.ckpt")
    readings = model.read(pictures, num_digits=None, tta=2)
    assert [row["file"] for row in rows] == ["canvas.png", "two rows.png", "two rows.png"]
    for row, reading in zip(rows, readings, strict=True):
        assert reading.file == str(pictures / row["file"])
        assert [str(reading.line), reading.changes] == [row["line"], row["changes"]]
        assert ", ".join(reading.warnings) == row["warnings"]
        assert [str(reading.sum), reading.digits] == [row["rounded"], row["digits"]]
        assert [str(reading.low), str(reading.high)] == [row["low"], row["high"]]
        assert reading.probability == pytest.approx(float(row["probability"]), abs=1e-4)


def test_of_a_prepared_picture_the_model_is_less_sure():
    probs = torch.tensor([[0.9, 0.06, 0.04]] * 2 + [[0.3, 0.4, 0.3], [0.0, 1.0, 0.0]])
    prediction = Prediction(probs.argmax(1).float(), probs)
    assert distributions_of({}, prediction).equal(probs)  # of images
    found = distributions_of({"num_components": [None, 4, 4, 4]}, prediction)
    assert found[0].equal(probs[0])  # a picture that is like a canvas
    odds = 9 ** (2 / 3)
    assert found[1, 0].item() == pytest.approx(odds / (1 + odds))
    assert found.sum(1).tolist() == pytest.approx([1] * 4)
    assert (found[1, 1] / found[1, 2]).item() == pytest.approx(1.5)
    assert found[2:].equal(probs[2:])


def without_file(readings):
    return [{**asdict(reading), "file": None} for reading in readings]


@pytest.mark.parametrize("prepare", ["auto", "none"])
def test_an_open_picture_is_read_as_its_file(reader, pictures, prepare):
    paths = sorted(pictures.iterdir())
    expected = without_file(reader.read(paths, prepare=prepare))
    assert without_file(reader.read([str(path) for path in paths], prepare=prepare)) == expected
    opened = [Image.open(path) for path in paths]
    found = reader.read(opened, prepare=prepare)
    assert without_file(found) == expected
    assert {reading.file for reading in found} == {None}
    assert opened[0].size == (168, 40)
    (alone,) = without_file(reader.read(opened[0], prepare=prepare))  # fewer at once are added up in another order
    assert alone == {**expected[0], "probability": pytest.approx(expected[0]["probability"], rel=1e-5)}
    for picture in opened:
        picture.close()


def test_a_large_open_jpeg_keeps_its_size(reader, tmp_path, canvases):
    Image.fromarray(255 - canvases[0]).resize((4200, 1000)).save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as picture:
        reader.read(picture)
        assert picture.size == (4200, 1000)
        assert np.asarray(picture).shape == (1000, 4200)


def test_a_picture_without_digits_has_no_sum(reader, two_conv):
    for model in (reader, two_conv):
        (reading,) = model.read(Image.new("L", (300, 100), 255))
        assert reading.sum is reading.digits is reading.probability is None
        assert reading.warnings == ("no digits found",)
        assert reading.line == 1


@pytest.mark.parametrize(("x", "options", "words"), [
    (np.zeros((2, 30, 168), np.uint8), {}, "expected shape (N, 40, W), got (2, 30, 168)"),
    (np.full(SIZE, 3.0), {}, "expected float pixels in [0, 1]"),
    (np.zeros(5), {}, "expected shape"),
    ("absent.png", {}, "absent.png: expected a picture, found nothing"),
    (None, {}, "read: expected a path, a picture, an array (H, W) or (N, H, W), or a list"),
    ([np.zeros(SIZE), np.zeros((40, 80))], {}, "read: expected a path"),
    (["absent.png", np.zeros(SIZE)], {}, "read: expected a path"),
    (Image.new("L", (30_000, 2_000)), {}, "expected at most 50,000,000 pixels, found 30000x2000"),
    (np.zeros(SIZE), {"num_digits": -1}, "num_digits"),
    (np.zeros(SIZE), {"tta": 7}, "tta: expected 1 to 6, got 7"),
    (np.zeros(SIZE), {"batch_size": 0}, "batch_size: expected 1 or more images, got 0"),
    (Image.new("L", (9, 9)), {"prepare": "best"}, "prepare: expected one of auto, none, got 'best'"),
])  # fmt: skip
def test_a_mistake_is_one_line(reader, x, options, words):
    with pytest.raises(InputError) as caught:
        reader.read(x, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_closed_picture_a_choice_that_is_none_and_a_model_in_training_are_refused(two_conv, canvases, pictures):
    with Image.open(pictures / "canvas.png") as picture:
        pass
    with pytest.raises(InputError, match="expected a picture, found one that cannot be read"):
        two_conv.read(picture)
    with pytest.raises(InputError, match="num_digits: this model has no such choice"):
        two_conv.read(canvases, num_digits=3)
    with pytest.raises(InputError, match=r"call model.eval\(\)"):
        SumModule("two_conv", SIZE).read(canvases)


def test_several_threads_may_read_with_options_of_their_own(reader, canvases, pictures):
    ways = [(canvases, {}), (canvases, {"num_digits": 3, "tta": 2}), (pictures, {"num_digits": None})] * 4
    expected = [reader.read(x, **options) for x, options in ways]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda way: reader.read(way[0], **way[1]), ways)) == expected


def test_reading_imports_no_hydra(finished_reader, pictures):
    code = f"""
import sys, digitsum
model = digitsum.load_model({str(finished_reader / "checkpoints" / "best.ckpt")!r})
print(len(model.read({str(pictures)!r})), {{"hydra", "omegaconf"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "3 set()\n", done.stderr
