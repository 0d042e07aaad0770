"""Files: written whole or not at all, read with a line for whatever is wrong with them, and locked."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from digitsum.errors import InputError
from digitsum.files import locked, read_json, read_npy, write_json, write_text, written_whole


@contextmanager
def refused(path, words=""):
    """The block is refused with one line that names `path` and has `words`."""
    with pytest.raises(InputError) as caught:
        yield
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def npy(array, **options):
    """The bytes of `array` as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text):
    """The bytes of a `.npy` file with a header of our own and 24 bytes of data."""
    header = text.encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24)


def claiming(shape, descr="'|u1'"):
    return npy_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")


# --- writing


def test_a_file_appears_with_what_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "result.txt"
    write_text(path, "sum = 17 \N{CHECK MARK}\n")
    assert path.read_bytes() == "sum = 17 \N{CHECK MARK}\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["result.txt"]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "a longer old text")
    write_text(path, "new")
    assert path.read_text() == "new"


def test_nothing_is_at_the_path_before_the_block_ends(tmp_path):
    path = tmp_path / "result.bin"
    with written_whole(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path, old, stop):
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)

    def write_half():
        with written_whole(path) as file:
            file.write(b"half of the new")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({"result.txt": old} if old else {})


def test_a_full_disk_is_said_in_a_line_and_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with refused(path):
        write_text(path, "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"result.txt": "old"}


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("I am a file")
    with refused(tmp_path / "runs" / "result.txt"):
        write_text(tmp_path / "runs" / "result.txt", "new")
    assert (tmp_path / "runs").read_text() == "I am a file"


def test_a_path_that_is_a_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "result" / "inside").mkdir(parents=True)
    with refused(tmp_path / "result"):
        write_text(tmp_path / "result", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_as_readable_as_the_users_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "result.txt", "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == mode


def test_a_file_is_written_where_its_mode_cannot_be_changed(tmp_path, monkeypatch):
    def no_chmod(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, no_chmod)
    write_text(tmp_path / "result.txt", "new")
    assert (tmp_path / "result.txt").read_text() == "new"


# --- locks


@pytest.fixture(params=["with flock", "without flock"])
def file_system(request, monkeypatch):
    """Both kinds of file system: some clusters mount Lustre and NFS without file locks."""
    if request.param == "without flock":
        monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_flock)
    return request.param


def no_flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_a_locked_folder_is_refused_until_the_block_ends(tmp_path, file_system):
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            with refused(tmp_path / "new" / "run", "another process is writing into this folder"):
                locked(tmp_path / "new" / "run").__enter__()
            with locked(tmp_path / "other"):
                pass


def test_an_exception_ends_a_lock(tmp_path, file_system):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_lock_leaves_at_most_its_hidden_file(tmp_path, file_system):
    with locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


LOCK_AND_DIE = """
import errno, os, signal, sys
from pathlib import Path
from digitsum.files import locked
if sys.argv[2] == "without flock":
    import fcntl
    def no_flock(*_): raise OSError(errno.ENOSYS, "")
    fcntl.flock = no_flock
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_ends_with_its_process_even_if_that_is_killed(tmp_path, file_system):
    command = [sys.executable, "-c", LOCK_AND_DIE, str(tmp_path), file_system]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with refused(tmp_path, "another process is writing"):
            locked(tmp_path).__enter__()
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
        with locked(tmp_path):
            pass


def test_a_lock_of_another_machine_is_refused_with_the_file_to_delete(tmp_path, monkeypatch):
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_flock)
    left = tmp_path / ".lock.process"
    left.write_text("4194303\nsome-other-node\n")
    for _ in range(2):
        with refused(tmp_path, f"if it was killed, delete {left}"):
            locked(tmp_path).__enter__()
    left.unlink()
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_cannot_be_locked(tmp_path):
    tmp_path.chmod(0o500)
    with refused(tmp_path, "cannot write"):
        locked(tmp_path).__enter__()


def test_a_file_in_the_place_of_a_folder_cannot_be_locked(tmp_path):
    (tmp_path / "run").write_text("I am a file")
    with refused(tmp_path / "run", "cannot write"):
        locked(tmp_path / "run").__enter__()


# --- JSON


def test_json_comes_back_as_it_was_written(tmp_path):
    content = {"lr": 1e-3, "sums": [1, 2], "best": None, "name": "\N{CHECK MARK}"}
    write_json(tmp_path / "record.json", content)
    assert read_json(tmp_path / "record.json") == content
    assert (tmp_path / "record.json").read_text().endswith("}\n")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe\x00", b'{"a": 1}\n{"b": 2}', b"[" * 100_000],
    ids=["empty", "cut short", "Python", "no text", "two lines", "bottomless"],
)
def test_what_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with refused(path):
        read_json(path)


def test_missing_json_and_a_folder_in_its_place_are_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with refused(path):
            read_json(path)


# --- arrays


def test_an_array_is_mapped_read_only(tmp_path):
    path = tmp_path / "data0.npy"
    wanted = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(path, wanted)
    array = read_npy(path)
    assert isinstance(array, np.memmap)
    assert array.dtype == np.uint8
    assert np.array_equal(array, wanted)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


BAD_NPY = {
    "empty file": b"",
    "text": b"1,2,3\n",
    "cut in the magic": npy(np.zeros(9))[:7],
    "cut in the header": npy(np.zeros(9))[:40],
    "cut in the header, brackets open": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (2,"),
    "cut in the data": npy(np.zeros(9))[:-8],
    "no data": npy(np.zeros(9))[:128],
    "version of the future": b"\x93NUMPY\x09\x00" + npy(np.zeros(9))[8:],
    "header is no dict": npy_header("[]"),
    "header is noise": npy_header("'''"),
    "no shape": npy_header("{'descr': '|u1', 'fortran_order': False}"),
    "unknown dtype": claiming("(3,)", descr="'xyz'"),
    "empty dtype": claiming("(3,)", descr="()"),
    "one dimension of a terabyte": claiming("(1099511627776,)"),
    "a shape beyond 64 bits": claiming(f"({10**30},)"),
    "a shape whose product is beyond 64 bits": claiming("(1099511627776, 1099511627776)"),
    "negative shape": claiming("(-3,)"),
    "twice negative shape": claiming("(-3, -4)"),
    "no entries": npy(np.zeros(0)),
    "no entries in a dimension": npy(np.zeros((5, 0, 28), np.uint8)),
    "Python objects": npy(np.array([{"a": 1}, None], object), allow_pickle=True),
    "Python objects in a record": claiming("(1,)", descr="[('a', '|O')]"),
}


@pytest.mark.parametrize("content", BAD_NPY.values(), ids=BAD_NPY)
def test_a_bad_array_file_is_refused(tmp_path, content):
    path = tmp_path / "data0.npy"
    path.write_bytes(content)
    with refused(path):
        read_npy(path)


def test_an_npz_renamed_to_npy_is_refused_as_another_format(tmp_path):
    np.savez(tmp_path / "arrays.npz", data=np.zeros(3))
    path = (tmp_path / "arrays.npz").rename(tmp_path / "data0.npy")
    with refused(path, "another format"):
        read_npy(path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_without_being_run(tmp_path):
    path, sprung = tmp_path / "data0.npy", tmp_path / "sprung"
    path.write_bytes(npy(np.array([Trap(sprung)], object), allow_pickle=True))
    with refused(path):
        read_npy(path)
    assert not sprung.exists()
    np.load(path, allow_pickle=True)  # so that the trap is known to work
    assert sprung.exists()


def test_a_missing_array_and_a_folder_in_its_place_are_refused(tmp_path):
    for path in (tmp_path / "none.npy", tmp_path):
        with refused(path):
            read_npy(path)


def test_a_file_without_the_right_to_read_it_is_refused(tmp_path):
    path = tmp_path / "data0.npy"
    np.save(path, np.zeros(3))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with refused(path):
        read_npy(path)
