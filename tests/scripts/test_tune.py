"""The space of a search, the study that processes share, and `scripts/tune.py` as people call it."""

import csv
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import train
import tune
from conftest import ROOT, TINY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import digitsum.cli.train
import digitsum.tuning.search
from digitsum.cli.overrides import flatten
from digitsum.tuning.space import build_space

ONE_KEY = ("~search.model", "~search.data.batch_size", "+search.model.lr={type:categorical,choices:[1e-3,3e-3]}")


@pytest.fixture
def tiny(optuna, command, tmp_path, datasets_dir):
    """Run a tiny search below `tmp_path`."""

    def run(*words):
        return command(tune.main, *words_of_a_tiny_search(tmp_path, datasets_dir), *words)

    return run


def words_of_a_tiny_search(tmp_path, datasets_dir):
    sizes = [word for word in TINY if "hidden_units" not in word and "batch_size" not in word]
    return (*sizes, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}", "logger=none")


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "search").glob("*.yaml")))
def test_every_search_fits_its_networks_training(optuna, tmp_path, datasets_dir, name):
    recipe = [f"experiment={name}"] if (ROOT / "conf" / "experiment" / f"{name}.yaml").exists() else []
    sizes = [word for word in TINY if word.startswith(("data.num", "trainer"))]
    words = [*recipe, *sizes, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("tune", [f"search={name}", *words])
        base = compose("train", [*words, f"run_dir={tmp_path}"])
    wanted = flatten(OmegaConf.to_container(cfg.search), until="type")
    assert build_space(wanted)
    tune.check(base, wanted, flatten(OmegaConf.to_container(base, resolve=True)), words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("num_trials=0",), "num_trials: expected 1 or more, got 0"),
        (("study=a/b",), "study: expected a name of letters"),
        (("study=..",), "study: expected a name of letters"),
        (("resume=latest",), "resume: a study goes on by itself"),
        (("model.lr=1e-3",), "model.lr: expected it searched or given, got both"),
        (("search=reader",), "search.model.dropout: expected a key of a training of two_conv, found none"),
        (("+search.model.conv1_chanels={type:int,low:1,high:2}",), "did you mean model.conv1_channels?"),
        (("+search.outputs_dir={type:categorical,choices:[a]}",), "search.outputs_dir: expected a key of a training"),
        (("search.model.lr.high=1e-5",), "search.model.lr: expected low below high"),
        (("search.model.lr.log=maybe",), "search.model.lr: expected log=true"),
        (("~search.model", "~search.data"), "at least one key to search"),
        (("search.model.conv_dropout.high=1.5",), "conv_dropout: expected"),
        (("search.model.hidden_units.type=float", "search.model.hidden_units.low=1.5"), "hidden_units"),
        (("data.num_trian=3",), "did you mean data.num_train?"),
        (("num_trails=3",), "did you mean num_trials?"),
        (("serach=reader",), "serach"),
        (("search=raeder",), "did you mean search=reader?"),
        (("pruning.warmup_epochs=0",), "pruning.warmup_epochs of 1 or more"),
        (("sampler_seed=-1",), "sampler_seed"),
        (("data=mnist", "data.mnist_root=nowhere"), "data.download=true"),
        (("trainer=ddp", "trainer.devices=2"), "trainer.devices"),
        (("-m", "seed=0,1"), "leave -m out"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(tiny, tmp_path, words, message):
    result = tiny(*words) if words[0] != "-m" else tiny(words[1], "-m")
    assert result.code == 1
    assert message in result.text
    assert "Traceback" not in result.text
    assert not list(tmp_path.rglob("train.log"))


def test_without_optuna_one_line_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setattr(digitsum.tuning.search, "HAS_OPTUNA", False)
    result = command(tune.main, f"outputs_dir={tmp_path}")
    assert result.code == 1
    assert result.text.strip() == (
        "error: a search needs Optuna; install it with: pip install -e '.[tune]' -c constraints.txt"
    )


def test_a_search_prunes_and_its_winner_can_be_trained_again_exactly(tiny, command, tmp_path):
    words = ("num_trials=4", "pruning.startup_trials=1", "pruning.warmup_epochs=1", "trainer.max_epochs=2")
    result = tiny(*words)
    assert result.code == 0, result.text
    folder = tmp_path / "studies" / "two_conv"
    rows = rows_of(folder)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    pruned = sum(row["state"] == "pruned" for row in rows)
    assert f"{4 - pruned} complete, {pruned} pruned, 0 failed" in result.out
    lines = [line for line in result.out.splitlines() if line.startswith("trial ")]
    assert len(lines) == 4
    for row, line in zip(rows, lines, strict=True):
        assert f"model.lr={row['model.lr']} " in line
        assert f"val/mae {float(row['val/mae']):.4f}" in line
        assert ("pruned at epoch 1" in line) == (row["state"] == "pruned")
    assert "3 left, until about 20" in lines[0]
    assert "Epoch" not in result.err
    assert not list(folder.glob("trials/*/test*"))

    (printed,) = re.findall(r"^  python scripts/train.py (.*)$", result.out, re.MULTILINE)
    best = json.loads((folder / "study.json").read_text())["best"]
    assert command(train.main, *shlex.split(printed), f"run_dir={tmp_path}/again").code == 0
    again, first = tmp_path / "again", folder / "trials" / f"{best['trial']:04d}"
    assert (again / "history.csv").read_bytes() == (first / "history.csv").read_bytes()
    maes = [json.loads((run / "metrics.json").read_text())["val"]["model"]["mae"] for run in (again, first)]
    assert maes[0] == maes[1] == pytest.approx(best["val/mae"], rel=1e-5)

    result = tiny(*words)
    assert "4 of 4 trials are finished" in result.out
    assert rows_of(folder) == rows
    assert tiny(*words, "seed=1").code == 1


def test_trials_that_fail_are_recorded_with_their_reason_and_end_a_search_only_all_together(tiny, tmp_path):
    result = tiny(
        *ONE_KEY[:2], "+search.model.lr={type:categorical,choices:[1e30]}", "num_trials=2", "trainer.max_epochs=3"
    )
    assert result.code == 1
    assert "2 trials have failed; trial 1: failed, the loss is" in result.text
    rows = rows_of(tmp_path / "studies" / "two_conv")
    assert [row["state"] for row in rows] == ["failed", "failed"]
    assert "the loss is" in rows[0]["reason"]
    assert "the loss is" in (tmp_path / "studies" / "two_conv" / "trials" / "0000" / "train.log").read_text()


def test_a_trial_of_no_mistake_of_the_users_fails_too_and_debug_shows_it(tiny, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(digitsum.cli.train, "run", broken)
    assert "failed, out of memory" in tiny("num_trials=1").out
    assert "Traceback" in (tmp_path / "studies" / "two_conv" / "trials" / "0000" / "train.log").read_text()
    with pytest.raises(RuntimeError):
        tiny("num_trials=2", "debug=true")


def start(tmp_path, datasets_dir, *words):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "tune.py"),
        *words_of_a_tiny_search(tmp_path, datasets_dir),
        *words,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_search_that_is_stopped_goes_on_where_it_was(optuna, tmp_path, datasets_dir, signum):
    words = ("num_trials=3", "trainer.max_epochs=2", "study=s")
    folder = tmp_path / "studies" / "s"
    first = start(tmp_path, datasets_dir, *words)
    wait_for(folder / "trials" / "0001" / "config.yaml", first)
    first.send_signal(signum)
    out = first.communicate(timeout=120)[0]
    assert first.returncode == (-9 if signum == signal.SIGKILL else 128 + signum), out
    if signum != signal.SIGKILL:
        assert "python scripts/train.py" in out
        assert "go on with the same command" in out
        assert (folder / "history.png").exists()
    second = start(tmp_path, datasets_dir, *words)
    out = second.communicate(timeout=240)[0]
    assert second.returncode == 0, out
    assert "1 of 3 trials are finished" in out
    rows = rows_of(folder)
    assert [row["state"] for row in rows].count("complete") == 3
    (lost,) = [row for row in rows if row["state"] == "interrupted"]
    (again,) = [row for row in rows if row["repeats"]]
    assert again["repeats"] == lost["trial"] == "1"
    assert again["model.lr"] == lost["model.lr"]


@pytest.mark.slow
def test_two_processes_share_a_study(optuna, tmp_path, datasets_dir):
    processes = [start(tmp_path, datasets_dir, "num_trials=6", "study=s") for _ in range(2)]
    outs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    rows = rows_of(tmp_path / "studies" / "s")
    assert sorted(int(row["trial"]) for row in rows) == list(range(6))
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    done = [set(re.findall(r"^trial (\d+):", out, re.MULTILINE)) for out in outs]
    assert done[0] | done[1] == set("012345")
    assert not done[0] & done[1]
    assert len({row["model.lr"] for row in rows}) == 6
