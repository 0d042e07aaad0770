"""Digit sequences against what was drawn, and that nothing which trains a model can know what was drawn."""

import ast
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import train
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from digitsum.data.canvases import Layout
from digitsum.data.composed import Composition, write_dataset
from digitsum.data.glyphs import SPLITS
from digitsum.errors import InputError
from digitsum.evaluation.transcription import TranscriptionAccuracy, find_truth
from digitsum.models.base import DigitSequence, Prediction


def write_set(folder, **options):
    """A small data set of forty glyphs of our own, because they load at once."""
    folder.mkdir()
    np.save(folder / "ink.npy", np.random.default_rng(0).integers(256, size=(40, 28, 28), dtype=np.uint8))
    np.save(folder / "digits.npy", np.arange(40) % 10)
    paths = {"glyph_images": str(folder / "ink.npy"), "glyph_labels": str(folder / "digits.npy")}
    write_dataset(
        Composition(glyphs="arrays", num_train=40, num_val=10, num_test=10, **paths, **options), folder / "set"
    )
    return folder / "set"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The small set; only to be read."""
    return write_set(tmp_path_factory.mktemp("composed") / "here")


@pytest.fixture
def damaged(tmp_path):
    """Write bytes in the place of a truth file; returns its folder."""

    def damage(content):
        (tmp_path / "truth0.npz").write_bytes(content)
        return tmp_path

    return damage


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


# --- the files


@pytest.mark.parametrize("split", SPLITS)
def test_what_was_drawn_is_read_from_a_composed_set(written, split):
    digits, left = find_truth(written / split)
    with np.load(written / split / "truth0.npz") as file:
        assert np.array_equal(digits, file["digits"])
        assert np.array_equal(left, file["left"])
    assert np.array_equal(digits.sum(1), np.load(written / split / "lab0.npy"))
    assert (digits.dtype, left.dtype) == (np.int8, np.int16)


def test_shards_are_joined_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        content = npz(digits=np.full((2, 3), number % 10, np.int8), left=np.full((2, 3), number, np.int16))
        (tmp_path / f"truth{number}.npz").write_bytes(content)
    (tmp_path / "truth.npz").write_bytes(b"not one of them")
    assert find_truth(tmp_path)[1][:, 0].tolist() == [0, 0, 2, 2, 10, 10]


def test_places_without_a_digit_are_kept(tmp_path):
    digits, left = find_truth(write_set(tmp_path / "here", layout=Layout(num_digits=[2, 4])) / "train")
    assert digits.shape == left.shape == (40, 4)
    assert np.array_equal(digits < 0, left < 0)
    assert set((digits >= 0).sum(1)) == {2, 3, 4}


def test_a_folder_of_other_files_has_no_truth(tmp_path):
    np.save(tmp_path / "data0.npy", np.zeros((3, 8, 8)))
    assert find_truth(tmp_path) is None


def test_a_single_file_has_no_truth(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8)))
    assert find_truth(tmp_path / "images.npy") is None


def test_a_folder_that_is_not_there_has_no_truth(tmp_path):
    assert find_truth(tmp_path / "val") is None


GRID = np.zeros((3, 4), np.int8)
DAMAGED = {
    "empty": b"",
    "text": b"no zip file at all",
    "zip_cut_short": npz(digits=GRID, left=GRID)[:200],
    "npy_instead": npy(GRID),
    "pickle": b"\x80\x04]\x94.",
    "no_left": npz(digits=GRID),
    "no_digits": npz(left=GRID),
    "shapes_apart": npz(digits=GRID, left=GRID[:2]),
    "one_axis": npz(digits=GRID[0], left=GRID[0]),
    "objects": npz(digits=GRID.astype(object), left=GRID),
    "words": npz(digits=np.full((3, 4), "seven"), left=GRID),
    "fractions": npz(digits=GRID + 0.5, left=GRID),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_with_one_line_that_names_it(damaged, content):
    folder = damaged(content)
    with pytest.raises(InputError, match=r"truth0\.npz: expected the digits of a composed data set") as caught:
        find_truth(folder)
    assert "\n" not in str(caught.value)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_byte_gone_wrong_changes_nothing_or_is_refused_with_one_line(place, value, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    content = bytearray(npz(digits=rng.integers(0, 10, (20, 4), np.int8), left=rng.integers(0, 99, (20, 4), np.int16)))
    content[place % len(content)] = value
    (folder / "truth0.npz").write_bytes(content)
    try:
        digits, left = find_truth(folder)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert digits.shape == left.shape


def test_shards_of_several_widths_are_refused_with_one_line(tmp_path):
    for number, width in enumerate((3, 4)):
        grid = np.zeros((2, width), np.int8)
        (tmp_path / f"truth{number}.npz").write_bytes(npz(digits=grid, left=grid))
    with pytest.raises(InputError, match="expected truth files of one width") as caught:
        find_truth(tmp_path)
    assert "\n" not in str(caught.value)


# --- the figures


TRUTH = np.array([[1, 2, 3, -1], [4, 4, -1, -1], [5, 6, 7, 8], [9, -1, -1, -1]], np.int8)
LEFT = np.array([[0, 30, 60, -1], [10, 40, -1, -1], [0, 30, 60, 90], [50, -1, -1, -1]], np.int16)
READ = torch.tensor([[1, 2, 3], [4, -1, -1], [5, 7, 8], [3, 9, -1]])
POSITIONS = torch.tensor(
    [
        [14.0, 44.0, 82.1],  # middles of tiles are 14 pixels from their left edges; the last is 8.1 off
        [24.0, np.nan, np.nan],  # the second 4 is missing
        [10.0, 74.0, 104.0],  # the 6 is missing
        [20.0, 65.0, np.nan],  # a 3 too many
    ]
)


def accuracy_of(*rows):
    accuracy = TranscriptionAccuracy(TRUTH, LEFT)
    for index in rows:
        reading = DigitSequence(READ[list(index)], POSITIONS[list(index)])
        prediction = Prediction(torch.zeros(len(index)), torch.ones(len(index), 1), lambda reading=reading: reading)
        accuracy.update({"index": torch.tensor(index)}, prediction)
    return accuracy.report()


def test_sequences_made_by_hand_have_the_figures_worked_out_by_hand():
    assert accuracy_of((0, 1, 2, 3)) == {
        "sequences": 1 / 4,
        "sequences_but_zeros": 1 / 4,
        "char_error_rate": pytest.approx(3 / 10),
        "positions": 2 / 3,
        "position_offset": pytest.approx(8.1 / 3, rel=1e-5),
    }


@pytest.mark.parametrize(("row", "sequences", "errors"), [(0, 1, 0), (1, 0, 0.5), (2, 0, 0.25), (3, 0, 1)])
def test_a_sequence_is_right_when_no_digit_is_missing_wrong_or_too_many(row, sequences, errors):
    report = accuracy_of((row,))
    assert (report["sequences"], report["char_error_rate"]) == (sequences, errors)


def test_a_missing_zero_is_forgiven_where_zeros_do_not_count():
    accuracy = TranscriptionAccuracy(np.array([[0, 7, 0, 3]], np.int8), np.array([[0, 30, 60, 90]], np.int16))
    reading = DigitSequence(torch.tensor([[7, 0, 3, -1]]), torch.tensor([[44.0, 74.0, 104.0, np.nan]]))
    accuracy.update({"index": torch.tensor([0])}, Prediction(torch.zeros(1), torch.ones(1, 1), lambda: reading))
    report = accuracy.report()
    assert (report["sequences"], report["sequences_but_zeros"]) == (0, 1)


def test_batches_in_any_order_give_the_same_figures():
    assert accuracy_of((3, 0), (2,), (1,)) == pytest.approx(accuracy_of((0, 1, 2, 3)))


def test_nothing_predicted_is_nothing_right():
    accuracy = TranscriptionAccuracy(TRUTH, LEFT)
    empty = DigitSequence(torch.empty((2, 0), dtype=torch.int64), torch.empty(2, 0))
    accuracy.update({"index": torch.tensor([0, 1])}, Prediction(torch.zeros(2), torch.ones(2, 1), lambda: empty))
    names = ("sequences", "sequences_but_zeros", "char_error_rate", "positions", "position_offset")
    assert accuracy.report() == dict.fromkeys(names, 0) | {"char_error_rate": 1}


# --- nothing that trains can know what was drawn


def imported_by(path):
    """Names of all modules that a file imports, at its top or anywhere else; `from a import b` counts as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: no relative imports here"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def ours():
    """All our modules by the names that imports have for them."""
    library = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.glob("digitsum/**/*.py")}
    library = {name.removesuffix(".__init__"): path for name, path in library.items()}
    return library | {path.stem: path for path in ROOT.glob("scripts/*.py")}


def reached_from(name):
    """All our modules that are imported, directly or not, where `name` is."""
    modules, reached, waiting = ours(), set(), [name]
    while waiting:
        name = waiting.pop()
        if name in modules and name not in reached:
            reached.add(name)
            waiting += imported_by(modules[name])
    return reached


def test_predictions_alone_import_the_truth():
    users = {name for name, path in ours().items() if "digitsum.evaluation.transcription" in imported_by(path)}
    assert users == {"digitsum.evaluation.predict", "digitsum.cli.predict"}


def test_no_import_leads_from_training_to_the_truth():
    reached = reached_from("train")
    assert {
        "digitsum.training.run",
        "digitsum.models.module",
        "digitsum.models.reader",
        "digitsum.data.datamodule",
        "digitsum.cli.build",
    } <= reached
    assert not reached & {"digitsum.evaluation.transcription", "digitsum.evaluation.predict", "predict"}
    assert "digitsum.evaluation.transcription" in reached_from("predict")


def test_no_config_names_the_truth():
    for path in ROOT.glob("conf/**/*.yaml"):
        assert not re.search(r"evaluation\.(transcription|predict)", path.read_text()), path


def test_no_module_but_their_writer_and_their_reader_speaks_of_truth_files():
    # evaluation/predict.py is handed what was read from them, by part, as `truths`; cli/publish.py measures on pictures
    speakers = {
        f"{path.parent.name}/{path.name}"
        for path in ROOT.glob("digitsum/**/*.py")
        if re.search(r"truth(?!s\b)", path.read_text(), re.IGNORECASE)
    }
    assert speakers == {"data/composed.py", "evaluation/transcription.py", "cli/predict.py", "cli/publish.py"}
    assert not re.search("truth", (ROOT / "scripts" / "train.py").read_text(), re.IGNORECASE)


def test_training_gives_the_same_weights_with_the_truth_files_there_gone_and_replaced(command, tmp_path, written):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(written, spoilt)
    (spoilt / "train" / "truth0.npz").unlink()
    (spoilt / "val" / "truth0.npz").write_bytes(b"garbage")
    shutil.copy(spoilt / "train" / "lab0.npy", spoilt / "test" / "truth0.npz")
    weights = []
    for root in (written, spoilt):
        folder = tmp_path / f"run_{Path(root).name}"
        result = command(
            train.main, "data=arrays", f"data.root='{root}'", f"run_dir={folder}", f"hydra.run.dir={folder}",
            "data.batch_size=16", "model=reader", "model.width=2", "trainer=cpu", "trainer.max_epochs=1",
            f"outputs_dir={tmp_path}", "logger=none", "~callbacks.prediction_logger",
        )  # fmt: skip
        assert result.code == 0, result.text
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 3
        weights.append(checkpoint["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
