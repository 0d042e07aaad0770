"""Which exceptions are a user's mistakes, and their one line."""

import errno
import os
import re

import joblib
import pytest

from digitsum.cli.user_errors import is_user_error, one_line
from digitsum.errors import InputError


def test_a_folder_that_cannot_be_written_is_one_line_and_a_bug_is_none():
    for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOSPC):
        error = OSError(number, os.strerror(number), "/ro/outputs")
        assert is_user_error(error)
        assert one_line(error) == (
            f"cannot write /ro/outputs: {os.strerror(number)}; choose another folder with outputs_dir=FOLDER"
        )
    wrapped = ValueError("Unable to configure handler 'file'")
    wrapped.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/ro/train.log")
    assert is_user_error(wrapped)
    assert "cannot write /ro/train.log" in one_line(wrapped)
    assert is_user_error(InputError("x"))
    for error in (ValueError("x"), OSError("x"), ConnectionResetError(errno.ECONNRESET, "reset")):
        assert not is_user_error(error)


def test_a_process_of_jobs_side_by_side_that_is_killed_is_one_line():
    with pytest.raises(RuntimeError) as caught:
        joblib.Parallel(n_jobs=2)(joblib.delayed(os._exit)(7) for _ in range(2))
    assert is_user_error(caught.value)
    line = one_line(caught.value)
    assert re.match(r"a process in which jobs ran has ended before them \(EXIT\(7\).*\); if memory was short", line)
    assert line.endswith("; the same command with hydra.sweep.dir=FOLDER of this sweep goes on")
    assert "before them; if" in one_line(type(caught.value)("The exit codes of the workers are {}"))
