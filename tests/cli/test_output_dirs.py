"""Where commands write, tried before they begin."""

import shutil

import make_data
import predict
import pytest
import train
import tune
from conftest import TINY_RUN

from digitsum.cli.output_dirs import run_folder, writable
from digitsum.errors import InputError


def test_a_folder_is_made_and_tried(tmp_path):
    assert writable(tmp_path / "a" / "b") == str(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_runs_that_start_in_one_second_get_two_folders(tmp_path):
    folders = {run_folder(str(tmp_path), None) for _ in range(3)}
    assert len(folders) == 3
    assert {str(path) for path in (tmp_path / "runs").iterdir()} == folders


@pytest.fixture
def refuse(monkeypatch):
    """Let the system refuse to write, as it refuses a user other than root in someone else's folder."""
    import digitsum.cli.output_dirs

    def denied(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(digitsum.cli.output_dirs.tempfile, "TemporaryFile", denied)


def test_a_folder_that_is_there_but_cannot_be_written_is_one_line(tmp_path, refuse):
    with pytest.raises(InputError) as caught:
        writable(tmp_path)
    assert str(caught.value) == (
        f"cannot write {tmp_path}: Permission denied; choose another folder with outputs_dir=FOLDER"
    )


SINGLE, SWEEP = ("seed=0",), ("-m", "seed=0,1")


@pytest.mark.parametrize(
    ("main", "words"),
    [(train.main, SINGLE), (train.main, SWEEP), (predict.main, ()), (tune.main, ())],
)
def test_a_file_in_the_way_of_the_outputs_is_one_line_that_names_the_key(command, tmp_path, main, words):
    (tmp_path / "file").touch()
    result = command(main, *words, f"outputs_dir={tmp_path}/file")
    assert result.code == 1
    (line,) = result.text.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}/file/")
    assert line.endswith("; choose another folder with outputs_dir=FOLDER")


@pytest.mark.parametrize(
    ("main", "words"), [(train.main, SINGLE), (train.main, SWEEP), (predict.main, ()), (tune.main, ())]
)
def test_outputs_of_someone_else_are_one_line_before_anything_is_computed(command, tmp_path, refuse, main, words):
    result = command(main, *words, f"outputs_dir={tmp_path}")
    assert result.code == 1
    (line,) = result.text.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}/")
    assert line.endswith(": Permission denied; choose another folder with outputs_dir=FOLDER")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("main", "key"), [(train.main, "run"), (train.main, "sweep"), (predict.main, "run")])
def test_a_folder_of_hydra_that_cannot_be_made_is_one_line(command, tmp_path, main, key):
    (tmp_path / "file").touch()
    words = ("-m", "seed=0,1") if key == "sweep" else ()
    result = command(main, *words, f"hydra.{key}.dir={tmp_path}/file/x", f"outputs_dir={tmp_path}")
    assert result.code == 1
    (line,) = result.text.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}/file/x")


def test_a_resumed_run_composes_its_data_where_outputs_dir_says(command, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "copied run")
    words = ("trainer.max_epochs=2", f"outputs_dir={tmp_path}/out")
    result = command(train.main, f"resume='{run}'", *words)
    assert result.code == 0, result.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["datasets"]
    (tmp_path / "file").touch()
    again = shutil.copytree(finished_run, tmp_path / "another")
    result = command(train.main, f"resume='{again}'", words[0], f"outputs_dir={tmp_path}/file")
    assert result.code == 1
    (line,) = [line for line in result.text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: cannot write {tmp_path}/file/datasets")
    assert "outputs_dir=FOLDER" in line


def test_a_data_set_that_cannot_be_written_is_one_line(command, tmp_path):
    (tmp_path / "file").touch()
    sizes = [word for word in TINY_RUN if word.startswith("data.num")]
    result = command(make_data.main, f"out={tmp_path}/file/set", *sizes)
    assert result.code == 1
    (line,) = result.text.splitlines()
    assert "out=FOLDER" in line


def test_a_run_whose_folder_is_given_makes_no_other_one(tmp_path):
    given = tmp_path / "my runs" / "a"
    assert run_folder(str(tmp_path / "outputs"), None, ["model.lr=1e-3", f"run_dir='{given}'"]) == str(given)
    assert given.is_dir()
    assert not (tmp_path / "outputs").exists()
