"""`scripts/predict.py` as people call it, with nothing but a checkpoint."""

import contextlib
import csv
import json
import os
import shutil

import numpy as np
import predict
import pytest
import torch
from PIL import Image

from digitsum.models.checkpoints import load_model


@pytest.fixture
def predicted(command, tmp_path, finished_run, datasets_dir):
    """Predict with the finished run's best checkpoint; returns the command's result with its folder."""

    def run(*words, ckpt_path=finished_run / "checkpoints" / "best.ckpt"):
        given = [] if ckpt_path is None else [f"ckpt_path='{ckpt_path}'"]
        folder = tmp_path / "out"
        result = command(predict.main, *given, f"run_dir={folder}", f"hydra.run.dir={folder}", "trainer=cpu", *words)
        result.folder = folder
        return result

    (finished_run.parent.parent / "datasets").mkdir(exist_ok=True)
    return run


@pytest.fixture
def outputs(finished_run):
    return f"outputs_dir={finished_run.parent.parent}"


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 40, 168), dtype=np.uint8)


def test_the_runs_own_validation_set_gives_the_figures_of_the_runs_table(predicted, finished_run, outputs):
    result = predicted(outputs)
    assert result.code == 0, result.text
    table = json.loads((finished_run / "metrics.json").read_text())["val"]
    ours = json.loads((result.folder / "metrics.json").read_text())["val"]
    for who in ("model", "baseline"):
        assert ours[who] == pytest.approx(table[who], rel=1e-5)
    assert {"predictions.csv", "scatter.png", "worst.png"} <= {path.name for path in result.folder.iterdir()}


def test_all_splits_have_a_row_for_each_image_and_metrics_for_each_split(predicted, outputs):
    result = predicted(outputs, "split=all")
    rows = rows_of(result.folder)
    assert [row["part"] for row in rows] == ["train"] * 40 + ["val"] * 20 + ["test"] * 10
    results = json.loads((result.folder / "metrics.json").read_text())
    assert set(results) == {"train", "val", "test", "all"}
    assert results["all"]["model"]["count"] == 70
    errors = [float(row["error"]) for row in rows]
    assert results["all"]["model"]["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)


def test_rows_hold_prediction_rounding_truth_and_error(predicted, outputs):
    for row in rows_of(predicted(outputs, "split=test").folder):
        assert int(row["rounded"]) == np.floor(float(row["predicted"]) + 0.5)
        assert float(row["error"]) == pytest.approx(float(row["predicted"]) - int(row["actual"]), abs=2e-4)


def test_the_newest_finished_run_is_the_default_and_is_named(predicted, finished_run, outputs):
    result = predicted(outputs, ckpt_path=None)
    assert result.code == 0, result.text
    assert str(finished_run / "checkpoints" / "best.ckpt") in result.out


def test_no_finished_run_is_one_line(predicted, tmp_path):
    result = predicted(f"outputs_dir={tmp_path}/empty", ckpt_path=None)
    assert result.code == 1
    assert "found no finished run" in result.text
    assert "Traceback" not in result.text


def test_a_run_with_a_space_in_its_path_is_read(predicted, finished_run, tmp_path, outputs):
    copy = tmp_path / "a folder, with = and [marks]" / "best.ckpt"
    copy.parent.mkdir()
    copy.write_bytes((finished_run / "checkpoints" / "best.ckpt").read_bytes())
    assert predicted(outputs, ckpt_path=copy).code == 0


def test_an_array_without_sums_gets_predictions_alone(predicted, images, tmp_path, finished_run):
    np.save(tmp_path / "images.npy", images)
    result = predicted(f"input={tmp_path}/images.npy")
    assert result.code == 0, result.text
    assert "no sums are known" in result.out
    assert not (result.folder / "metrics.json").exists()
    rows = rows_of(result.folder)
    assert set(rows[0]) == {"part", "index", "predicted", "rounded"}
    with torch.inference_mode():
        expected = load_model(finished_run / "checkpoints" / "best.ckpt")(torch.from_numpy(images))
    assert [float(row["predicted"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("labels", [True, False])
def test_a_folder_of_shards_is_read_with_or_without_sums(predicted, images, tmp_path, labels):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        np.save(folder / f"data{shard}.npy", images)
        if labels:
            np.save(folder / f"lab{shard}.npy", np.arange(20, dtype=np.uint8))
    result = predicted(f"input={folder}")
    assert result.code == 0, result.text
    assert len(rows_of(result.folder)) == 40
    assert (result.folder / "metrics.json").exists() == labels


def test_pictures_are_read_and_what_was_done_is_reported(predicted, tmp_path, images):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(images[0]).save(folder / "b.png")
    Image.fromarray(255 - images[0] // 2).resize((336, 80)).save(folder / "a.jpg")
    result = predicted(f"input={folder}", "prepare=none")
    assert result.code == 0, result.text
    rows = rows_of(result.folder)
    assert [row["file"] for row in rows] == ["a.jpg", "b.png"]
    assert "inverted" in rows[0]["changes"]
    assert "scaled from 80x336 to 40x168" in rows[0]["changes"]


def photo(path, columns=(40, 120, 200), paper=180, ink=60):
    """Save upright strokes 60 pixels high on grey paper, as a camera sees them."""
    pixels = np.full((160, 280), paper, np.uint8) + np.random.default_rng(0).integers(0, 4, (160, 280), dtype=np.uint8)
    for column in columns:
        pixels[50:110, column : column + 8] = ink
    Image.fromarray(pixels).save(path)


def test_a_photo_is_prepared_read_and_shown_and_a_blank_one_has_no_sum(predicted, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(folder / "a.png")
    photo(folder / "b.png", columns=())
    result = predicted(f"input={folder}")
    assert result.code == 0, result.text
    ones, blank = rows_of(result.folder)
    assert "inverted, paper brought to 0, digits of 60 px" in ones["changes"]
    assert ones["rounded"] != ""
    assert (blank["rounded"], blank["predicted"], blank["warnings"]) == ("", "", "no digits found")
    assert "1 rows may be wrong (no digits found: 1)" in result.text
    assert (result.folder / "overlays.png").stat().st_size > 1_000


def test_of_a_folder_of_pictures_what_can_be_read_is_read_and_the_rest_named(predicted, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", os.fsdecode(b"nam\xe9.png"), "$x_1$.png"):
        photo(folder / name)
    (folder / "bad.png").write_text("not a picture")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(50))
    (folder / "folder.png").mkdir()
    (folder / "photo.heic").write_bytes(bytes(20))
    (folder / "notes.txt").touch()
    result = predicted(f"input={folder}")
    assert result.code == 3, result.text
    assert [row["file"] for row in rows_of(result.folder)] == ["$x_1$.png", "a.png", r"nam\udce9.png"]
    for name, reason in {
        "bad.png": "cannot be read",
        "._a.png": "what macOS notes about a.png",
        "folder.png": "found a folder",
        "photo.heic": "HEIC, which is not read",
    }.items():
        (line,) = (line for line in result.text.splitlines() if f"left out {folder}/{name}: " in line)
        assert reason in line
    assert "left out 1 that are not named like pictures" in result.text
    assert "Traceback" not in result.text


def test_an_unknown_way_to_prepare_is_refused(predicted, tmp_path):
    photo(tmp_path / "a.png")
    result = predicted(f"input={tmp_path}/a.png", "prepare=some")
    assert result.code == 1
    assert "prepare: expected one of auto, none, got 'some'" in result.text


def test_the_batch_size_does_not_change_the_answers(predicted, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    prediction = []
    for size in (3, 64):
        rows = rows_of(predicted(f"input={tmp_path}/images.npy", f"batch_size={size}").folder)
        prediction.append([float(row["predicted"]) for row in rows])
    assert prediction[0] == pytest.approx(prediction[1], abs=1e-3)


@pytest.mark.parametrize(("words", "reason"), [
    (["ckpt_path=/nowhere.ckpt"], "expected a checkpoint, found nothing"),
    (["split=validation"], "split: expected one of train, val, test, all"),
    (["batch_size=0"], "batch_size: expected 1 or more"),
    (["input=/nowhere"], "expected a folder, a .npy file or a picture"),
    (["input=/nowhere.npy"], "cannot read /nowhere.npy"),
    (["input=/nowhere.png"], "found nothing"),
])  # fmt: skip
def test_a_mistake_is_one_line_without_results(predicted, words, reason):
    path = {"ckpt_path": None} if words[0].startswith("ckpt_path") else {}
    result = predicted(*words, **path)
    assert result.code == 1
    assert reason in result.text
    assert len(result.text.strip().splitlines()) == 1, result.text
    assert not (result.folder / "predictions.csv").exists()


def test_images_of_another_size_are_refused_with_both_sizes(predicted, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 28, 28), np.uint8))
    result = predicted(f"input={tmp_path}/images.npy")
    assert result.code == 1
    assert "reads images of 40x168, found 28x28" in result.text


@pytest.fixture
def trained_on_arrays(command, tmp_path):
    """Train on a folder of arrays, named relative to the folder that the command is given in; returns both paths."""
    import train

    root = tmp_path / "before"
    root.mkdir()
    add_shard(root, 0)
    words = ("data=arrays", "data.root=before", f"outputs_dir={tmp_path}", f"run_dir={tmp_path}/run", "trainer=cpu")
    with contextlib.chdir(tmp_path):
        assert command(train.main, *words, "trainer.max_epochs=1", "model.hidden_units=4").code == 0
    return root, tmp_path / "run" / "checkpoints" / "best.ckpt"


def add_shard(root, number):
    images = np.random.default_rng(number).integers(0, 256, (30, 20, 30), dtype=np.uint8)
    np.save(root / f"data{number}.npy", images)
    np.save(root / f"lab{number}.npy", np.arange(30, dtype=np.uint8))


def test_arrays_that_moved_are_found_by_data_root(predicted, tmp_path, trained_on_arrays):
    root, ckpt_path = trained_on_arrays
    assert predicted("split=test", ckpt_path=ckpt_path).code == 0, "the checkpoint names its data from anywhere"
    root.rename(tmp_path / "after")
    result = predicted("split=all", ckpt_path=ckpt_path)
    assert "found no folder; give the place of the run's data with data_root=FOLDER" in result.text
    assert len(result.text.splitlines()) == 1
    assert predicted("split=all", f"data_root={tmp_path}/after", ckpt_path=ckpt_path).code == 0


@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_arrays_that_have_changed_since_the_training_are_not_evaluated(predicted, trained_on_arrays, split):
    root, ckpt_path = trained_on_arrays
    add_shard(root, 1)  # the new split has images in its test set that were trained on
    result = predicted(f"split={split}", ckpt_path=ckpt_path)
    assert result.code == 1
    assert "data have changed since the checkpoint; restore them, or give them as what they are now with" in result.text
    assert not (result.folder / "metrics.json").exists()
    assert predicted(f"input='{root}'", ckpt_path=ckpt_path).code == 0


@pytest.fixture
def shards(images, tmp_path):
    """A folder with one shard and no sums."""
    (tmp_path / "shards").mkdir()
    np.save(tmp_path / "shards" / "data0.npy", images)
    return tmp_path / "shards"


@pytest.mark.parametrize("picture", ["canvases.png", "photo.JPG", "a.jpeg"])
def test_of_a_folder_with_shards_and_pictures_the_shards_are_read_and_the_pictures_named(predicted, shards, picture):
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(shards / picture)
    result = predicted(f"input={shards}")
    assert result.code == 0, result.text
    assert f"read the shards; left out 1 pictures, {picture} first" in result.text
    assert {row["part"] for row in rows_of(result.folder)} == {"input"}
    assert "index" in rows_of(result.folder)[0]


def test_a_folder_that_make_data_has_written_is_read_split_by_split(predicted, shards, tmp_path):
    folder = tmp_path / "made"
    for split in ("train", "val", "test"):
        shutil.copytree(shards, folder / split)
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(folder / "canvases.png")
    result = predicted(f"input={folder}")
    assert result.code == 0, result.text
    assert {row["part"] for row in rows_of(result.folder)} == {"train", "val", "test"}
    assert "left out 1 pictures, canvases.png first" in result.text


@pytest.fixture
def read(predicted, finished_reader):
    """Predict with the finished reader."""

    def run(*words):
        outputs = finished_reader.parent.parent
        (outputs / "datasets").mkdir(exist_ok=True)
        return predicted(f"outputs_dir={outputs}", *words, ckpt_path=finished_reader / "checkpoints" / "best.ckpt")

    return run


def test_a_reader_says_how_sure_it_is_and_which_digits_it_read(read):
    result = read("split=test")
    assert result.code == 0, result.text
    for row in rows_of(result.folder):
        assert 0 <= float(row["probability"]) <= 1
        assert int(row["low"]) <= int(row["high"])
        assert len(row["digits"]) == 4
        assert sum(map(int, row["digits"])) == int(row["rounded"])
    results = json.loads((result.folder / "metrics.json").read_text())["test"]
    assert set(results) == {"model", "baseline", "calibration", "transcription"}
    assert results["calibration"]["exact"] == pytest.approx(results["model"]["exact"])
    assert results["transcription"]["sequences"] <= results["model"]["exact"]
    assert {"overlays.png", "reliability.png"} <= {path.name for path in result.folder.iterdir()}


def test_a_reader_that_is_not_told_the_count_may_read_any_number_of_digits(read):
    result = read("num_digits=null")
    assert result.code == 0, result.text
    assert {len(row["digits"]) for row in rows_of(result.folder)} != {4}
    assert all(sum(map(int, row["digits"])) == int(row["rounded"]) for row in rows_of(result.folder))
    result = read("num_digits=[1,2]")
    assert {len(row["digits"]) for row in rows_of(result.folder)} <= {1, 2}


def test_a_blank_picture_leaves_the_readers_columns_empty(read, tmp_path):
    photo(tmp_path / "blank.png", columns=())
    result = read(f"input={tmp_path / 'blank.png'}")
    assert result.code == 0, result.text
    (row,) = rows_of(result.folder)
    assert row["warnings"] == "no digits found"
    assert [row[key] for key in ("predicted", "rounded", "probability", "low", "high", "digits")] == [""] * 6


def test_several_views_change_the_probabilities_a_little(read):
    one, six = ([float(row["probability"]) for row in rows_of(read(f"tta={n}").folder)] for n in (1, 6))
    assert one != six


def test_a_reader_reads_images_of_other_widths(read, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 75), dtype=np.uint8)
    np.save(tmp_path / "narrow.npy", images)
    result = read(f"input={tmp_path / 'narrow.npy'}")
    assert result.code == 0, result.text
    assert len(rows_of(result.folder)) == 3
    assert (result.folder / "overlays.png").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("num_digits=0", "num_digits: expected a whole number from 1"),
        ("num_digits=[4,2]", "num_digits: expected a whole number from 1"),
        ("num_digits=many", "num_digits: expected a whole number from 1"),
        ("tta=7", "tta: expected 1 to 6, got 7"),
        ("tta=0", "tta: expected 1 to 6, got 0"),
    ],
)
def test_a_way_to_read_that_there_is_not_is_refused_in_one_line(read, word, expected):
    result = read(word)
    assert result.code == 1
    assert expected in result.text
    assert "Traceback" not in result.text


@pytest.mark.parametrize("word", ["num_digits=4", "tta=2"])
def test_a_network_that_does_not_read_digits_refuses_to_be_told_how(predicted, outputs, word):
    result = predicted(outputs, word)
    assert result.code == 1
    assert "has no such choice" in result.text


@pytest.fixture
def composed_test_set(datasets_dir, finished_reader):
    """A folder of ten composed canvases: what the finished reader was tested on, or another test's of that form."""
    folders = {path.parent for path in datasets_dir.glob("bundled-70-*/test/truth0.npz")}
    return min(folder for folder in folders if len(np.load(folder / "lab0.npy")) == 10)


def test_a_missing_truth_file_is_noticed(read, tmp_path, composed_test_set):
    whole = composed_test_set
    shutil.copytree(whole, tmp_path / "part")
    shutil.copy(whole / "data0.npy", tmp_path / "part" / "data1.npy")
    shutil.copy(whole / "lab0.npy", tmp_path / "part" / "lab1.npy")
    result = read(f"input={tmp_path / 'part'}")
    assert result.code == 1
    assert "expected truth files for 20 images, found 10" in result.text


def test_a_composed_folder_of_canvases_is_compared_with_what_was_drawn(read, composed_test_set):
    result = read(f"input={composed_test_set}")
    assert result.code == 0, result.text
    assert set(json.loads((result.folder / "metrics.json").read_text())["input"]) >= {"calibration", "transcription"}


@pytest.fixture
def second_run(tmp_path, finished_run):
    """A checkpoint like the finished run's, with weights of its own."""
    content = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["net.output.bias"] = content["state_dict"]["net.output.bias"] + 3
    torch.save(content, tmp_path / "second.ckpt")
    return tmp_path / "second.ckpt"


def test_several_checkpoints_answer_with_their_mean(predicted, finished_run, second_run, outputs):
    first = finished_run / "checkpoints" / "best.ckpt"
    assert predicted(outputs).code == 0
    alone = [float(row["predicted"]) for row in rows_of(predicted(outputs).folder)]
    result = predicted(outputs, f"ckpt_path=['{first}','{second_run}']", ckpt_path=None)
    assert result.code == 0, result.text
    together = [float(row["predicted"]) for row in rows_of(result.folder)]
    assert together == pytest.approx([number + 1.5 for number in alone], abs=2e-4)


def test_checkpoints_of_other_data_are_not_evaluated_together(predicted, finished_run, second_run, outputs):
    content = torch.load(second_run, weights_only=True)
    content["SumDataModule"]["val"] = "other"
    torch.save(content, second_run)
    words = [outputs, f"ckpt_path=['{finished_run / 'checkpoints' / 'best.ckpt'}','{second_run}']"]
    result = predicted(*words, ckpt_path=None)
    assert result.code == 1
    assert f"{second_run}: expected a model with the same val data as" in result.text
    assert "give images with input=PATH" in result.text
    assert len(result.text.splitlines()) == 1
    assert predicted(*words, "split=test", ckpt_path=None).code == 0, "its test data are the same"


@pytest.mark.parametrize("given", ["[]", "[3]", "[a.ckpt,b/../a.ckpt,./a.ckpt]", "[a.ckpt,[b.ckpt]]", "{a: b}"])
def test_a_list_of_no_checkpoints_is_refused(predicted, given):
    result = predicted(f"ckpt_path={given}", ckpt_path=None)
    assert result.code == 1
    assert "ckpt_path: expected a file, or a list of different ones" in result.text
    assert len(result.text.splitlines()) == 1
