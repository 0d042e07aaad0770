"""What a run records of the code that it ran."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import digitsum
from digitsum.runs.environment import environment

PACKAGE = Path(digitsum.__file__).resolve().parent
SHOW = "from digitsum.runs.environment import environment as e; c = e()['code']; print(c['folder'], c['commit'])"


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def other(tmp_path):
    """A repository of somebody else's with one commit."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("x")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "theirs")
    return tmp_path


def recorded(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(project))
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, cwd=project)
    folder, commit = done.stdout.strip().rsplit(" ", 1)
    return Path(folder), commit


def test_the_folder_that_was_imported_is_recorded():
    assert environment()["code"]["folder"] == str(PACKAGE)


def test_a_repository_in_git_dir_is_not_taken_for_ours(other, monkeypatch):
    before = environment()["code"]["commit"]
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert environment()["code"]["commit"] == before != git(other, "rev-parse", "HEAD")


def test_an_archive_unpacked_inside_another_repository_records_no_commit(other, monkeypatch):
    shutil.copytree(PACKAGE, other / "digitsum-main" / "digitsum", ignore=shutil.ignore_patterns("__pycache__"))
    folder, commit = recorded(other / "digitsum-main", monkeypatch)
    assert (folder, commit) == (other / "digitsum-main" / "digitsum", "None")


def test_of_two_clones_the_one_that_was_imported_is_recorded(other, monkeypatch):
    shutil.copytree(PACKAGE, other / "digitsum", ignore=shutil.ignore_patterns("__pycache__"))
    git(other, "add", "digitsum")
    git(other, "commit", "-qm", "a clone")
    folder, commit = recorded(other, monkeypatch)
    assert (folder, commit) == (other / "digitsum", git(other, "rev-parse", "HEAD"))
