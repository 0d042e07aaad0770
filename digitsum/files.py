"""Files: written whole or not at all, read without trusting them, and locked."""

import csv
import errno
import io
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from digitsum.errors import InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_UNFINISHED = ".digitsum-unfinished"
_SOFT = ".process"
# what a file system answers that has no locks: Lustre and NFS, as many clusters mount them
_NO_FLOCK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` only once it is complete and on the disk.

    A reader sees the old file or the new one, never a half; an exception inside the block leaves the old one.

    Raises:
        InputError: the folder cannot be written (read-only, full, or not a folder).
    """
    # tempfile's would be private to its owner, and some file systems (CIFS) refuse to change that
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it may have a name that no file can have
            temporary.unlink()


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, which is renamed to it once it is complete; an exception removes it.

    What killed processes have left there is removed first: the folder of a process that is alive is locked.

    Raises:
        OSError: `folder` is there and not empty, or cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for lock in folder.parent.glob(f".*{_UNFINISHED}.lock"):
        with suppress(OSError), _unfinished(lock.with_suffix("")):
            pass
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    with _unfinished(temporary, patience=10):  # who looks for what is left may have the lock for a moment
        temporary.mkdir()
        yield temporary
        with suppress(FileNotFoundError):
            folder.rmdir()  # an empty folder made beforehand is no reason to refuse
        temporary.rename(folder)


@contextmanager
def _unfinished(temporary: Path, patience: float = 0) -> Iterator[None]:
    """Lock a temporary folder inside the block, which need not be there, and remove it at the end."""
    path = temporary.with_name(f"{temporary.name}.lock")
    lock = _acquired(path, patience)
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # Windows keeps an open file, and filelock removes it
            path.unlink()
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table to `path`, whole or not at all; a cell that is None stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file; an `InputError` where it is missing, unreadable or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file, but it does not parse ({error})") from error


def read_npy(path: Path) -> np.memmap:
    """Map a `.npy` file into memory, read-only; nothing is read but its header, and pickled objects never.

    Raises:
        InputError: the file is missing, unreadable, no `.npy`, empty, cut short, or holds pickled objects.
    """
    magic = b""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        with warnings.catch_warnings():
            # a damaged header's shape may overflow, and one of Python 2 is read all the same
            warnings.simplefilter("ignore")
            array = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header raises whatever the parser stumbled over
        damaged = "one that is damaged, cut short or holds pickled Python objects, which are never loaded"
        found = damaged if magic == b"\x93NUMPY" else "another format"
        raise InputError(f"{path}: expected a .npy file of numbers, found {found}; save it with numpy.save") from error
    if array.size == 0 or array.offset + array.nbytes != size:
        found = f"{size:,} bytes for shape {array.shape}"
        raise InputError(f"{path}: expected a whole .npy file, found {found}; save it again")
    return array


def allow_open_files(count: int) -> None:
    """Let this process hold `count` more files open, as far as it may: each mapped file stays open."""
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            wanted = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
            with suppress(ValueError, OSError):  # macOS has another limit, below the one that it names
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def exists(path: Path) -> bool:
    """Whether there is something at `path`; not where a name is too long, or a folder cannot be looked into."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises an OSError there


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`, as `exists` has it."""
    return os.path.isdir(path)  # noqa: PTH112


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise an `InputError` unless the disk of an existing `folder` has `num_bytes` left for `what`."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        found = f"{free / 1e6:.0f} MB; free space or choose another folder"
        raise InputError(f"{folder}: expected {num_bytes / 1e6:.0f} MB of free space for {what}, found {found}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder` inside the block; the lock ends with the process, however it ends.

    Raises:
        InputError: another process is at work in the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(folder / ".lock")
    except Timeout as error:
        advice = "wait for it, or choose another"
        if Path(error.lock_file).name != ".lock":
            advice += f"; if it was killed, delete {error.lock_file}"
        raise InputError(f"{folder}: another process is writing into this folder; {advice}") from error
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _acquired(path: Path, patience: float = 0) -> BaseFileLock:
    """Lock the file `path`; without locks in the file system a second file, which names its process, stands for one."""
    try:
        return FileLock(path, fallback_to_soft=False).acquire(timeout=patience).lock
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    soft = Path(f"{path}{_SOFT}")
    if soft.exists():
        _remove_left(soft)
    return SoftFileLock(soft).acquire(timeout=patience).lock


def _remove_left(soft: Path) -> None:
    """Remove a soft lock whose process, of this machine, has died: filelock only does where names can be exchanged."""
    # one process at a time: what stands there the next moment may be another's
    with SoftFileLock(f"{soft}.break").acquire(timeout=0) as own, suppress(OSError, ValueError, OverflowError):
        (pid, host, *_), (_, here, *_) = (Path(path).read_text().splitlines() for path in (soft, own.lock_file))
        if host == here and os.name == "posix":
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                soft.unlink()
