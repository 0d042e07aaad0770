"""Real training processes are killed at random moments, resumed, and compared with one that was left alone."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs an operating system with fork"),
]

NUM_RUNS = 5

# Importing torch and Lightning takes longer than the training here. A process that has imported them forks one child
# for each command, which runs the real script as `python scripts/train.py` would.
SERVER = """
import json, os, runpy, sys
sys.path.insert(0, SCRIPTS)
import train
for line in sys.stdin:
    words, log = json.loads(line)
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(output, number)
        sys.argv = [SCRIPTS + "/train.py", *words]
        code = 0
        try:
            runpy.run_path(SCRIPTS + "/train.py", run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except KeyboardInterrupt:  # while it imports: the interpreter's own exit code
            code = 130
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start the training script with some words: returns its process's number, its log, and a way to wait for it."""
    code = f"SCRIPTS = {str(ROOT / 'scripts')!r}\n{SERVER}"
    logs = tmp_path_factory.mktemp("logs")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def start_(*words):
            log = logs / f"{time.monotonic_ns()}.log"
            server.stdin.write(json.dumps([[str(word) for word in words], str(log)]) + "\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            return SimpleNamespace(child=child, log=log, wait=lambda: int(server.stdout.readline()))

        yield start_
        server.stdin.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    return folder, (
        "data.num_train=190", "data.num_val=20", "data.num_test=20", "data.batch_size=16", "trainer.max_epochs=8",
        "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=3",
        "model.hidden_units=8", "model.conv1_channels=4", "model.conv2_channels=4", "save_every_n_steps=2",
        f"outputs_dir={folder}",
    )  # fmt: skip


def digest(folder):
    """A hash of all that must be equal: weights, optimiser, history, metrics, TensorBoard's scalars."""
    result = hashlib.sha256()
    for name in ("best", "last"):
        content = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for key, value in sorted(content["state_dict"].items()):
            result.update(key.encode() + value.numpy().tobytes())
        for state in content["optimizer_states"][0]["state"].values():
            for value in state.values():
                result.update(value.numpy().tobytes())
    for name in ("history.csv", "metrics.json"):
        result.update((folder / name).read_bytes())
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for tag in sorted(board.Tags()["scalars"]):
        result.update(repr([(tag, event.step, event.value) for event in board.Scalars(tag)]).encode())
    return result.hexdigest()


def everything_reads(folder):
    """Every file that is there at all is whole."""
    for path in folder.glob("checkpoints/*.ckpt"):
        torch.load(path, weights_only=True)
    for name in ("metrics.json", "environment.json", "timing.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())


def wait_for_writes(path, count, child):
    """Return when the file has been written `count` times more, or the process has ended."""
    before = path.stat().st_ino if path.exists() else None
    while count:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        with contextlib.suppress(FileNotFoundError):
            now = path.stat().st_ino
            if now != before:
                before, count = now, count - 1
        time.sleep(0.002)


def test_runs_killed_at_random_moments_equal_one_that_was_left_alone(start, settings, pytestconfig, capsys):
    folder, words = settings
    process = start(*words, f"hydra.run.dir={folder}/whole")
    assert process.wait() == 0, process.log.read_text()
    expected = digest(folder / "whole")
    found = {"never killed": expected}

    rng = random.Random(0)
    wanted, kills, codes = pytestconfig.getoption("--faults"), 0, []
    number, kills_a_run = 0, max(4, -(-wanted // NUM_RUNS))
    while kills < wanted or number < NUM_RUNS:
        run, number = folder / f"run{number}", number + 1
        kills_here = 0
        for attempt in range(200):
            assert attempt < 199, "no progress"
            recorded = (run / "config.yaml").exists()
            again = (f"resume={run}", f"outputs_dir={folder}") if recorded else (*words, f"hydra.run.dir={run}")
            process = start(*again)
            if kills_here < kills_a_run:
                # counted in checkpoints, not seconds: the machine may be busy, and several kills shall fit into a run
                wait_for_writes(
                    run / "checkpoints" / "last.ckpt", rng.randrange(max(2, 40 // kills_a_run)), process.child
                )
                time.sleep(rng.uniform(0, 0.1))
                signum = rng.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [6, 2, 2])[0]
                with contextlib.suppress(ProcessLookupError):  # it may have been faster
                    os.kill(process.child, signum)
                code = process.wait()
                assert code in (0, -signum, 128 + signum), (code, process.log.read_text())
                everything_reads(run)
                if code != 0:
                    kills += 1
                    kills_here += 1
                    codes.append(code)
                    continue
            else:
                assert process.wait() == 0, process.log.read_text()
            break
        found[f"{run.name}, killed {kills_here} times"] = digest(run)
        assert found[f"{run.name}, killed {kills_here} times"] == expected
    with capsys.disabled():
        print(f"\n{kills} kills over {number} runs, exit codes {sorted(set(codes))}; digests:")
        for name, value in found.items():
            print(f"  {value[:32]}  {name}")


def test_of_two_processes_in_one_folder_the_second_is_refused(start, settings):
    folder, words = settings
    first = start(*words, f"hydra.run.dir={folder}/busy")
    code = (
        f"import sys; sys.argv = {['train.py', *words, f'hydra.run.dir={folder}/busy']!r}\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "import train\nfrom digitsum.cli import console\nconsole.run_script(train.main, 'train')"
    )
    while not (folder / "busy" / ".lock").exists():
        time.sleep(0.01)
    os.kill(first.child, signal.SIGSTOP)  # it holds the folder for as long as the second one needs
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    os.kill(first.child, signal.SIGCONT)
    assert second.returncode == 1
    assert "another process is writing into this folder" in second.stdout + second.stderr
    assert first.wait() == 0
