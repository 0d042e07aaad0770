"""Sweeps on a cluster: signals that submitit answers, jobs in other processes, and a Slurm that is played."""

import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import train
from conftest import ROOT, TINY
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from digitsum.files import read_json
from digitsum.models.module import SumModule
from digitsum.training.signals import Interrupted, Signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="needs an operating system with SIGUSR2")
needs_submitit = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra slurm")

STEPS = 500
LONG = (*TINY, f"data.num_train={16 * STEPS}", "trainer.max_epochs=2", "seed=0,1")
"""Jobs that train long enough to be met by a signal in their second epoch."""

# What submitit asks of Slurm, on one machine without a queue: the program does what its name says.
SLURM = f"""#!{sys.executable}
import os, pathlib, re, signal, subprocess, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
match pathlib.Path(__file__).name:
    case "sbatch":
        script = pathlib.Path(words[0]).read_text()
        if "--partition=absent" in script:
            sys.exit("sbatch: error: invalid partition specified: absent")
        (here / "script.sh").write_text(script)
        for task in range(int(re.search(r"--array=0-(\\d+)", script)[1]) + 1):
            subprocess.Popen([here / "node", str(task)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("Submitted batch job 1000")
    case "node":
        task, requeued = words[0], here / f"requeued_1000_{{words[0]}}"
        job = {{"JOB_ID": f"200{{task}}", "ARRAY_JOB_ID": "1000", "ARRAY_TASK_ID": task, "JOB_NAME": "train"}}
        step = {{"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NUM_NODES": "1", "NNODES": "1", "CPUS_PER_TASK": "4"}}
        ranks = dict.fromkeys(["PROCID", "LOCALID", "NODEID"], "0")
        slurm = {{f"SLURM_{{key}}": value for key, value in {{**job, **step, **ranks}}.items()}}
        again = "--partition=short" in (here / "script.sh").read_text()
        while again:
            subprocess.run(["bash", here / "script.sh"], env={{**os.environ, **slurm}})
            again = requeued.exists()
            requeued.unlink(missing_ok=True)
    case "srun":
        task = os.environ["SLURM_ARRAY_TASK_ID"]
        while words[0].startswith("--"):
            option = words.pop(0)
            if option in ("--output", "--error"):
                path = pathlib.Path(words.pop(0).replace("%A", "1000").replace("%a", task).replace("%t", "0"))
                path.parent.mkdir(parents=True, exist_ok=True)
                os.dup2(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1 if option == "--output" else 2)
        (here / f"cores_{{task}}").write_text(os.environ["SRUN_CPUS_PER_TASK"])
        (here / f"pid_{{task}}").write_text(str(os.getpid()))
        os.execvp(words[0], words)
    case "scontrol":  # it ends the job that it requeues
        assert words[0] == "requeue"
        (here / f"requeued_{{words[1]}}").touch()
        os.kill(int((here / f"pid_{{words[1].rpartition('_')[2]}}").read_text()), signal.SIGTERM)
    case "scancel":
        (here / "scancelled").touch()
    case "sacct":
        print("JobID|State|NodeList")
        if "--partition=broken" in (here / "script.sh").read_text():
            print("1000_0|NODE_FAIL|one\\n1000_1|NODE_FAIL|one")
"""


@pytest.fixture
def slurm(tmp_path):
    """A folder with Slurm's programs."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "scancel", "sacct", "node"):
        (folder / name).write_text(SLURM)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def places(tmp_path, datasets_dir):
    """Where a sweep in `tmp_path / name` leaves its files."""
    return lambda name: (
        f"outputs_dir={tmp_path}",
        f"data.datasets_dir={datasets_dir}",
        f"hydra.sweep.dir={tmp_path / name}",
    )


def started(*words, path=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment["PATH"] = os.pathsep.join([str(path), *os.get_exec_path()] if path else os.get_exec_path())
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *words]

    def heed_ctrl_c():  # tests in the background of a shell are deaf to it, and so would be what they start
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c
    )


def lines_of(text):
    return sorted(re.findall(r"^(\d\d_\S+): (val/mae|FAILED)", text, re.MULTILINE))


def same_results(one, other):
    for file in ("history.csv", "metrics.json"):
        assert (one / file).read_text() == (other / file).read_text()


@pytest.fixture
def handled():
    """Handlers as submitit installs them; returns what they were told, and the checkpoint's step at that moment."""
    calls = []

    def told(signum, frame):
        calls.append(signum)
        if signum == signal.SIGUSR2:
            sys.exit(144)

    before = {number: signal.signal(number, told) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_job_that_is_out_of_time_saves_and_goes_on_to_the_same_result(
    command, monkeypatch, handled, places, tmp_path
):
    words = (*TINY, "trainer.max_epochs=2", "seed=3,4")
    assert command(train.main, "-m", *words, *places("whole")).code == 0
    for name in ("JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    job, step = tmp_path / "cut" / "00_seed-3", SumModule.training_step
    saved = []

    def signalled(self, batch, batch_idx):
        if self.global_step == 3:
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL  # Lightning would requeue the job, too
            os.kill(os.getpid(), signal.SIGTERM)  # the first warning of a preemption
        if self.global_step == 4:
            saved.append(torch.load(job / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SumModule, "training_step", signalled)
    assert command(train.main, "-m", *words, *places("cut")).code == 144
    assert saved == [4]
    assert handled == [signal.SIGTERM, signal.SIGUSR2]
    monkeypatch.setattr(SumModule, "training_step", step)
    assert command(train.main, "-m", *words, *places("cut")).code == 0
    assert "resuming after step 5" in (job / "train.log").read_text()
    for name in ("00_seed-3", "01_seed-4"):
        same_results(tmp_path / "cut" / name, tmp_path / "whole" / name)


def test_a_signal_that_resubmits_is_not_lost_behind_others(handled):
    signals = Signals()
    with signals.listening():
        signals.deferred = True
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert signals.pending == signal.SIGUSR2
        assert handled == []
        with pytest.raises(SystemExit):
            signals.act(signals.pending)
        signals.deferred = False
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == [signal.SIGUSR2, signal.SIGTERM]


def test_a_process_without_handlers_stops_at_sigterm_and_takes_no_sigusr2():
    before = signal.getsignal(signal.SIGUSR2)
    with Signals().listening():
        assert signal.getsignal(signal.SIGUSR2) is before
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("launcher", ["slurm", "submitit_local"])
def test_without_the_extra_a_line_says_what_to_install(command, monkeypatch, launcher):
    Plugins.instance()  # they make their configs known
    known = ConfigStore.instance().repo["hydra"]["launcher"]
    for name in ("submitit_slurm.yaml", "submitit_local.yaml"):
        monkeypatch.delitem(known, name, raising=False)
    result = command(train.main, "-m", f"hydra/launcher={launcher}", "seed=0,1")
    assert result.code == 1
    assert result.err == (
        "error: this launcher needs submitit; install it with: pip install -e '.[slurm]' -c constraints.txt\n"
    )


@needs_submitit
@pytest.mark.skipif(shutil.which("srun") is not None, reason="needs a machine without Slurm")
def test_a_machine_without_slurm_is_told_so_before_anything_happens(command, places, tmp_path):
    result = command(train.main, "-m", "hydra/launcher=slurm", "seed=0,1", *places("sweep"))
    assert result.code == 1
    assert result.err == "error: hydra/launcher: expected a machine of a Slurm cluster, found no srun; leave it out\n"
    assert not (tmp_path / "sweep").exists()


@needs_submitit
@pytest.mark.slow
def test_jobs_in_processes_of_their_own_are_spoken_for_by_the_command(places, tmp_path):
    words = (*TINY, "model.lr=1e-3,1e30")
    out, err = started("hydra/launcher=submitit_local", *words, *places("sweep")).communicate(timeout=300)
    assert lines_of(out) == [("00_lr-1e-3", "val/mae"), ("01_lr-1e30", "FAILED")], err
    summary = out.partition("none left")[2]
    assert "01_lr-1e30 failed: the loss is" in summary
    assert "best of 1: 00_lr-1e-3" in summary
    assert f"the jobs' output goes to {tmp_path}/sweep/.submitit" in out
    assert "have not ended" not in out
    assert err.splitlines()[-1].startswith("error: the loss is")
    assert read_json(tmp_path / "sweep" / "00_lr-1e-3" / "metrics.json")["val"]["model"]["count"] == 20


@needs_submitit
@pytest.mark.slow
def test_slurm_gets_what_the_launcher_says_and_a_job_out_of_time_goes_on(command, slurm, places, tmp_path):
    asked = ("hydra/launcher=slurm", "hydra.launcher.partition=short", "hydra.launcher.gpus_per_node=1")
    process = started(*asked, *LONG, *places("sweep"), path=slurm)
    deadline, met = time.monotonic() + 300, set()
    jobs = {"00_seed-0": signal.SIGTERM, "01_seed-1": signal.SIGUSR2}
    while len(met) < 2 and process.poll() is None and time.monotonic() < deadline:
        for number, (name, signum) in enumerate(jobs.items()):
            if number not in met and (tmp_path / "sweep" / name / "checkpoints" / "last.ckpt").is_file():
                time.sleep(0.1)  # on to the second epoch
                os.kill(int((slurm / f"pid_{number}").read_text()), signum)
                met.add(number)
        time.sleep(0.02)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert lines_of(out) == [("00_seed-0", "val/mae"), ("01_seed-1", "val/mae")]
    assert "best of 2: " in out.partition("none left")[2]

    flags = set(re.findall(r"^#SBATCH --(.+)$", (slurm / "script.sh").read_text(), re.MULTILINE))
    assert flags >= {
        "array=0-1%2",
        "cpus-per-task=4",
        "gpus-per-node=1",
        "mem=8GB",
        "nodes=1",
        "ntasks-per-node=1",
        "open-mode=append",
        "partition=short",
        "signal=USR2@120",
        "time=240",
    }
    assert f"output={tmp_path}/sweep/.submitit/%A_%a/%A_%a_0_log.out" in flags
    assert (slurm / "cores_0").read_text() == "4"

    logs = [(tmp_path / "sweep" / name / "train.log").read_text() for name in jobs]
    outputs = [(tmp_path / f"sweep/.submitit/1000_{job}/1000_{job}_0_log.out").read_text() for job in (0, 1)]
    assert "resuming" not in logs[0]
    assert outputs[0].count("Bypassing signal SIGTERM") == 1
    (step,) = re.findall(r"resuming after step (\d+)", logs[1])
    assert STEPS < int(step) < 2 * STEPS
    assert outputs[1].count("Requeued job 1000_1 (20 remaining timeouts)") == 1
    assert not list((tmp_path / "sweep").rglob("hpc_ckpt*"))

    assert command(train.main, "-m", *LONG, *places("whole")).code == 0
    for name in jobs:
        same_results(tmp_path / "sweep" / name, tmp_path / "whole" / name)
        with (tmp_path / "sweep" / name / "history.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == 2
        recorded = [read_json(tmp_path / sweep / name / "environment.json")["command"] for sweep in ("sweep", "whole")]
        assert all(f"data.num_train={16 * STEPS}" in words for words in recorded)


@needs_submitit
@pytest.mark.slow
@pytest.mark.parametrize(
    ("partition", "reason"),
    [
        ("absent", "sbatch: error: invalid partition specified: absent"),
        ("broken", "has not produced any output (state: NODE_FAIL)"),
    ],
)
def test_what_slurm_refuses_or_loses_is_one_line(slurm, places, partition, reason):
    words = ("hydra/launcher=slurm", f"hydra.launcher.partition={partition}", *TINY, "seed=0,1", *places("sweep"))
    process = started(*words, path=slurm)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert reason in line
    assert "Traceback" not in err
    assert ("2 of 2 jobs have not ended here" in out) == (partition == "broken")


@needs_submitit
@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_leaves_the_jobs_to_slurm(slurm, places, tmp_path):
    process = started(
        "hydra/launcher=slurm", "hydra.launcher.partition=full", *TINY, "seed=0,1", *places("sweep"), path=slurm
    )
    deadline = time.monotonic() + 100
    while not list((tmp_path / "sweep").glob(".submitit/1000_1/*_submitted.pkl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "2 of 2 jobs have not ended here; look for them with squeue" in out
    assert not (slurm / "scancelled").exists()
