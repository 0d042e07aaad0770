"""What scripts print, wherever it goes."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

TALKATIVE = """
import logging, sys
from digitsum.cli.console import log, run_script

def main():
    handler = logging.StreamHandler(sys.stdout)
    log.addHandler(handler)
    log.setLevel("INFO")
    print("jos\\xe9 \\xb1 \\u2026 \\udce9")
    for number in range(20_000):
        print(number)
        log.info("logged %d", number)
        print(number, file=sys.stderr)
    open(sys.argv[1], "w").write("done")

run_script(main)
"""


def started(tmp_path, **streams):
    command = [sys.executable, "-c", TALKATIVE, str(tmp_path / "end")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    return subprocess.Popen(command, text=True, env=environment, **streams)


def test_a_reader_that_has_seen_enough_ends_no_program_and_meets_no_traceback(tmp_path):
    with (tmp_path / "err").open("w") as err, started(tmp_path, stdout=subprocess.PIPE, stderr=err) as process:
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "done"
    assert (tmp_path / "err").read_text().split() == list(map(str, range(20_000)))


def test_both_streams_in_one_closed_pipe_are_survived(tmp_path):
    with started(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "done"


def test_a_terminal_without_a_letter_shows_its_escape(tmp_path):
    with started(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == "jos\\xe9 \\xb1 \\u2026 \\udce9\n"
        assert len(process.stdout.readlines()) == 40_000
    assert process.returncode == 0


@pytest.mark.parametrize("script", ["train", "predict", "tune", "make_data", "compare", "export"])
def test_help_goes_into_a_pipe_that_is_closed(script):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_torchs_threads_sleep_sooner_unless_the_user_has_said_how_they_wait(own, expected):
    others = {name: os.environ[name] for name in os.environ.keys() - {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    code = "import digitsum.cli.console, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=others | own, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
