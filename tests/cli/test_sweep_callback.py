"""Sweeps: quiet jobs with a line each, failures that stop nothing, and a sweep that is given again."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import predict
import pytest
import train
from conftest import ROOT, TINY, TINY_READER

from digitsum.cli.user_errors import one_line
from digitsum.files import read_json


@pytest.fixture
def sweep(command, tmp_path, datasets_dir):
    """Run a sweep of tiny runs in `tmp_path / "sweep"`."""

    def run(*words, tiny=TINY):
        places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.sweep.dir={tmp_path}/sweep")
        result = command(train.main, "-m", *tiny, *places, *words)
        logging.getLogger().setLevel(logging.WARNING)
        return result

    return run


def lines_of(result):
    return re.findall(r"^(\d\d_\S+): (val/mae \d+\.\d{4}|FAILED), \d+ s, (.*)$", result.out, re.MULTILINE)


def test_each_job_has_one_line_on_the_console_and_its_own_log(sweep, tmp_path):
    result = sweep("seed=0,1", "model.lr=1e-3,3e-4")
    assert result.code == 0, result.text
    assert [(name, rest[:6]) for name, _, rest in lines_of(result)] == [
        ("00_seed-0_lr-1e-3", "3 left"),
        ("01_seed-0_lr-3e-4", "2 left"),
        ("02_seed-1_lr-1e-3", "1 left"),
        ("03_seed-1_lr-3e-4", "none l"),
    ]
    assert "Best checkpoint" not in result.text
    for folder in (tmp_path / "sweep").glob("0*"):
        assert "Best checkpoint" in (folder / "train.log").read_text()
    scores = {path.parent.name: read_json(path)["score"] for path in (tmp_path / "sweep").glob("*/job.json")}
    best = min(scores, key=scores.get)
    assert f"best of 4: {best} (val/mae {scores[best]:.4f})" in result.out


def test_seeds_alone_can_answer_together(sweep, command, tmp_path):
    assert "predict.py" not in sweep("seed=0,1", "model.lr=1e-3,3e-4").out
    result = sweep("seed=0,1")
    (line,) = re.findall(r"^  python scripts/predict.py (.*)$", result.out, re.MULTILINE)
    folder = tmp_path / "sweep"
    checkpoints = ",".join(str(folder / name / "checkpoints" / "best.ckpt") for name in ("00_seed-0", "01_seed-1"))
    words = shlex.split(line)
    assert words[0] == f"ckpt_path=[{checkpoints}]"
    result = command(predict.main, *words, f"run_dir={tmp_path}/out", f"hydra.run.dir={tmp_path}/out", "trainer=cpu")
    assert result.code == 0, result.text


def test_a_failing_job_is_named_with_its_reason_at_the_end_and_stops_no_other(sweep, tmp_path):
    result = sweep("model.lr=1e-3,1e30,3e-4")
    assert result.code == 1
    assert [outcome[:6] for _, outcome, _ in lines_of(result)] == ["val/ma", "FAILED", "val/ma"]
    assert "01_lr-1e30 failed: the loss is" in result.out.partition("none left")[2]
    assert read_json(tmp_path / "sweep" / "01_lr-1e30" / "job.json")["status"] == "failed"


def test_a_sweep_given_again_skips_resumes_and_runs_what_is_missing(sweep, tmp_path):
    words = ("seed=0,1,2", "trainer.max_epochs=2")
    first = {name: outcome for name, outcome, _ in lines_of(sweep(*words))}
    folder = tmp_path / "sweep"
    before = (folder / "00_seed-0" / "train.log").read_text()
    cut = folder / "01_seed-1"  # as if it had been killed after its last checkpoint
    (cut / "metrics.json").unlink()
    (cut / "job.json").unlink()
    for path in sorted((folder / "02_seed-2").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    result = sweep(*words)
    assert result.code == 0, result.text
    assert {name: outcome for name, outcome, _ in lines_of(result)} == first
    assert (folder / "00_seed-0" / "train.log").read_text() == before
    assert "resuming after step 6" in (cut / "train.log").read_text()
    assert json.loads((cut / "metrics.json").read_text())["val"]["model"]["count"] == 20


def test_a_sweep_given_again_with_other_settings_leaves_its_jobs_alone(sweep, tmp_path):
    sweep("seed=0,1")
    history = (tmp_path / "sweep" / "00_seed-0" / "history.csv").read_text()
    result = sweep("seed=0,1", "model.hidden_units=9")
    assert result.code == 1
    assert "expected a job of this sweep, found one with another model" in result.text
    assert (tmp_path / "sweep" / "00_seed-0" / "history.csv").read_text() == history


def test_a_sweep_from_weights_of_another_size_than_the_settings_can_be_given_again(sweep):
    older = ROOT / "tests" / "models" / "checkpoints_0_4" / "reader.ckpt"
    words = "seed=0,1", f"init_from='{older}'", "model.width=5"
    for _ in range(2):
        result = sweep(*words, tiny=TINY_READER)
        assert result.code == 0, result.text


def test_the_data_are_composed_before_the_jobs(sweep, tmp_path):
    result = sweep("seed=0,1", "data.compose_seed=77")
    assert result.code == 0
    assert result.err.count("composing canvases: 100%") == 1
    for folder in (tmp_path / "sweep").glob("0*"):
        assert "composing" not in (folder / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_jobs_side_by_side_end_with_the_command_that_gave_them(tmp_path, datasets_dir):
    places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.sweep.dir={tmp_path}/sweep")
    words = ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_epochs=100000"]
    train = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *TINY, *places, *words]
    with subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        histories = [tmp_path / "sweep" / f"0{seed}_seed-{seed}" / "history.csv" for seed in (0, 1)]
        while not all(history.exists() for history in histories) and sweep.poll() is None:
            time.sleep(0.2)
        sweep.send_signal(signal.SIGTERM)
        _, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    before = [history.read_text() for history in histories]
    time.sleep(3)
    assert [history.read_text() for history in histories] == before, "a job goes on"
    assert all((history.parent / "checkpoints" / "last.ckpt").exists() for history in histories)


@pytest.mark.slow
def test_jobs_side_by_side_share_the_cores_and_end_as_they_do_one_after_another(tmp_path, datasets_dir):
    def sweep(folder, *words, threads):
        places = (f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", f"hydra.sweep.dir={folder}")
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *TINY, *places, *words]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | threads
        return subprocess.run(
            [*command, "seed=0,1,2", "model.lr=1e-3,1e30"], capture_output=True, text=True, env=environment
        )

    share = max(1, os.cpu_count() // 2)
    one_by_one = sweep(tmp_path / "a", threads={"OMP_NUM_THREADS": str(share)})
    together = sweep(tmp_path / "b", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", threads={})
    for result in (one_by_one, together):
        assert result.returncode == 1, result.stderr
        assert re.findall(r"^(\d\d_\S+) failed: the loss is", result.stdout, re.MULTILINE) == [
            f"{number:02}_seed-{seed}_lr-1e30" for seed, number in enumerate((1, 3, 5))
        ]
        assert result.stdout.count("none left") == result.stdout.count("best of 3: ") == 1
    assert len(re.findall(r"^\d\d_\S+: (?:val/mae \d+\.\d{4}|FAILED), ", together.stdout, re.MULTILINE)) == 6
    finished = sorted(path.parent.name for path in (tmp_path / "a").glob("*/metrics.json"))
    assert len(finished) == 3
    for name in finished:
        for file in ("history.csv", "metrics.json"):
            assert (tmp_path / "b" / name / file).read_text() == (tmp_path / "a" / name / file).read_text()
        assert read_json(tmp_path / "b" / name / "environment.json")["machine"]["torch_threads"] == share


def test_a_job_that_fails_without_a_word_is_no_mistake_of_the_report():
    assert one_line(AssertionError()) == ""
