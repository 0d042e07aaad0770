"""The space of a search, the study that processes share, and `scripts/tune.py` as people call it."""

import csv
import io
import json
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import train
import tune
from conftest import ROOT, TINY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

import digitsum.tuning.search
from digitsum.cli.overrides import flat, to_overrides
from digitsum.errors import InputError
from digitsum.files import locked
from digitsum.tuning.report import best_of, state_of, write_report
from digitsum.tuning.search import Pruned, Report, Search
from digitsum.tuning.space import build_space

SPACE = {
    "model.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "model.conv_dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.05},
    "model.hidden_units": {"type": "int", "low": 8, "high": 64},
    "model.pooling": {"type": "categorical", "choices": ["max", "average"]},
}
ONE_KEY = ("~search.model", "~search.data", "+search.model.lr={type:categorical,choices:[1e-3,3e-3]}")


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="needs Optuna, which the extra `tune` installs")


@pytest.fixture
def search(optuna, tmp_path):
    """Open a search in one folder: each time as another process would."""

    def open_(settings=None, space=SPACE, **more):
        return Search(tmp_path / "study", build_space(space), settings or {"seed": 0}, **more)

    return open_


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


def states(search):
    return [state_of(trial) for trial in search.study.trials]


# the space


def test_a_space_has_both_ends_of_each_range(optuna):
    space = build_space(SPACE)
    distributions = optuna.distributions
    assert space == {
        "model.lr": distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "model.conv_dropout": distributions.FloatDistribution(0.0, 0.5, step=0.05),
        "model.hidden_units": distributions.IntDistribution(8, 64),
        "model.pooling": distributions.CategoricalDistribution(["max", "average"]),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (3, "type=float, int or categorical"),
        ({}, "type=float, int or categorical"),
        ({"type": "real", "low": 0, "high": 1}, "type=float, int or categorical"),
        ({"type": "float", "low": 0}, "low and high"),
        ({"type": "float", "low": 0, "high": 1, "hihg": 2}, "low and high"),
        ({"type": "float", "low": 0, "high": 1, "choices": [1]}, "low and high"),
        ({"type": "float", "low": "a", "high": 1}, "numbers"),
        ({"type": "float", "low": False, "high": 1}, "numbers"),
        ({"type": "int", "low": 1.5, "high": 3}, "whole numbers"),
        ({"type": "float", "low": 2, "high": 1}, "low below high"),
        ({"type": "float", "low": 1, "high": 1}, "low below high"),
        ({"type": "float", "low": math.nan, "high": 1}, "low below high"),
        ({"type": "float", "low": 0, "high": math.inf}, "low below high"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low above 0 where log=true"),
        ({"type": "int", "low": -1, "high": 1, "log": True}, "low above 0 where log=true"),
        ({"type": "float", "low": 0, "high": 1, "log": "yes"}, "log=true or a step"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.5}, "log=true or a step"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.3}, "a step that leads from low to high"),
        ({"type": "float", "low": 0, "high": 1, "step": 0}, "a step that leads from low to high"),
        ({"type": "categorical"}, "choices"),
        ({"type": "categorical", "choices": []}, "choices"),
        ({"type": "categorical", "choices": "ab"}, "choices"),
        ({"type": "categorical", "choices": [1, 1]}, "choices that differ"),
        ({"type": "categorical", "choices": [[1, 2], 3]}, "numbers, words, true, false or null"),
        ({"type": "categorical", "choices": [1], "low": 1}, "choices"),
    ],
)
def test_a_wrong_range_is_refused_in_one_line(optuna, options, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_space({"model.lr": options})
    assert str(caught.value).startswith("search.model.lr: expected ")
    assert "\n" not in str(caught.value)


def test_an_empty_space_is_refused():
    with pytest.raises(InputError, match="at least one key"):
        build_space({})


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "search").glob("*.yaml")))
def test_every_search_fits_its_networks_training(optuna, tmp_path, datasets_dir, name):
    recipe = [f"experiment={name}"] if (ROOT / "conf" / "experiment" / f"{name}.yaml").exists() else []
    sizes = [word for word in TINY if word.startswith(("data.num", "trainer"))]
    words = [*recipe, *sizes, f"outputs_dir={tmp_path}", f"data.datasets_dir={datasets_dir}"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("tune", [f"search={name}", *words])
        base = compose("train", [*words, f"run_dir={tmp_path}"])
    wanted = flat(OmegaConf.to_container(cfg.search), until="type")
    assert build_space(wanted)
    tune.check(base, wanted, flat(OmegaConf.to_container(base, resolve=True)), words)


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


@pytest.mark.parametrize(
    "value",
    [1e-05, 0.3, 2.5e20, -1, 64, True, False, None, "max", "true", "null", "1e-3", "a b", "it's", "a,b", "", "[1"],
)
def test_a_setting_is_the_same_on_the_command_line(value):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [word.replace("key", "+data.key") for word in to_overrides({"key": value})])
    assert cfg.data.key == value
    assert type(cfg.data.key) is type(value) or value == 2.5e20


def test_numbers_are_rounded_to_what_people_can_type():
    (word,) = to_overrides({"model.lr": 0.0011781448719376517})
    assert word == "model.lr=0.00117814"


# the study


def fake_report(prunes, epochs=3, monitor="val/mae"):
    trial = SimpleNamespace(told=[], should_prune=lambda: prunes)
    trial.report = lambda value, step: trial.told.append((step, value))
    report = Report(trial, monitor)
    value = SimpleNamespace(item=lambda: 2.0)
    trainers = [
        SimpleNamespace(current_epoch=epoch, max_epochs=epochs, callback_metrics={"val/mae": value})
        for epoch in range(epochs)
    ]
    return trial, report, trainers


def test_each_epoch_is_reported():
    trial, report, trainers = fake_report(prunes=False)
    for trainer in trainers:
        report.on_train_epoch_end(trainer, None)
    assert trial.told == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_a_hopeless_trial_is_stopped_unless_it_has_trained_all_its_epochs():
    _, report, trainers = fake_report(prunes=True)
    with pytest.raises(Pruned) as caught:
        report.on_train_epoch_end(trainers[0], None)
    assert (caught.value.epoch, caught.value.best) == (1, 2.0)
    report.on_train_epoch_end(trainers[-1], None)


def proposals(search, count, **more):
    found = []
    opened = search(**more)
    for number in range(count):
        with opened.next_trial(count) as trial:
            found.append(trial.params)
            opened.tell(trial, float(number))
    return found


def test_one_process_proposes_the_same_again_and_another_seed_does_not(search, tmp_path):
    first = proposals(search, 12)
    (tmp_path / "study").rename(tmp_path / "other")
    assert proposals(search, 12) == first
    (tmp_path / "study").rename(tmp_path / "another")
    assert proposals(search, 12, seed=1)[0] != first[0]


def test_processes_that_start_together_propose_different_settings(search):
    with search().next_trial(9) as one, search().next_trial(9) as two:
        assert one.params != two.params


def test_trials_that_failed_are_not_counted_as_finished(search):
    opened = search()
    with opened.next_trial(2) as trial:
        opened.tell(trial, reason="too hot")
    with opened.next_trial(2) as trial:
        opened.tell(trial, 1.0)
    with opened.next_trial(2) as trial:
        trial.report(3.0, 1)
        opened.tell(trial)
    with opened.next_trial(2) as trial:
        assert trial is None
    assert states(opened) == ["failed", "complete", "pruned"]
    assert opened.count("complete", "pruned") == 2


def test_two_processes_do_not_run_more_trials_than_asked_for(search):
    with search().next_trial(1) as one:
        assert one is not None
        with search().next_trial(1) as two:
            assert two is None


def test_the_trial_of_a_dead_process_is_failed_and_repeated_and_that_of_a_live_one_is_not(search):
    dead = search().study.ask(build_space(SPACE))  # nobody holds its folder
    opened = search()
    with opened.next_trial(9) as again, search().next_trial(9) as another:
        assert again.params == dead.params != another.params
        assert states(opened) == ["interrupted", "running", "running"]
        assert again.user_attrs == {"repeats": 0}
        opened.tell(again, 1.0)


def test_a_trial_that_was_finished_when_the_signal_came_is_not_repeated(search):
    opened = search()
    with opened.next_trial(9) as trial:
        opened.tell(trial, 1.0)
        opened.repeat(trial.number)
    assert states(opened) == ["complete"]


def test_a_process_between_two_trials_is_waited_for(search, tmp_path, monkeypatch):
    opened = search()
    with locked(tmp_path / "study"):
        monkeypatch.setattr(time, "sleep", lambda seconds: (_ for _ in ()).throw(TimeoutError))
        with pytest.raises(TimeoutError), opened.next_trial(1):
            pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"seed": 1}}, "seed=0, got 1"),
        ({"settings": {"seed": 0, "model.lr": 1}}, "model.lr=nothing, got 1"),
        ({"space": {key: SPACE[key] for key in list(SPACE)[:3]}}, "search.model.pooling="),
        ({"space": {**SPACE, "model.hidden_units": {"type": "int", "low": 8, "high": 65}}}, "high=65"),
    ],
)
def test_a_study_with_another_space_or_other_settings_is_refused_in_one_line(search, change, message):
    search()
    search()
    with pytest.raises(InputError, match="this study was begun with") as caught:
        search(**change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_survives_a_line_that_was_cut_short(search, tmp_path):
    opened = search()
    with opened.next_trial(9) as trial:
        opened.tell(trial, 1.0)
    with (tmp_path / "study" / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    for _ in range(2):
        opened = search()
        with opened.next_trial(9) as trial:
            opened.tell(trial, 2.0)
    assert states(search()) == ["complete"] * 3


def test_a_damaged_study_is_one_line(search, tmp_path):
    search()
    path = tmp_path / "study" / "journal.log"
    path.write_bytes(b"?" + path.read_bytes())
    with pytest.raises(InputError, match="expected a study's journal"):
        search()


def test_the_best_trial_alone_keeps_its_checkpoints(search):
    opened = search()
    for value in (3.0, 1.0, 2.0):
        with opened.next_trial(3) as trial:
            (opened.folder_of(trial.number) / "checkpoints").mkdir()
            opened.tell(trial, value)
    assert [opened.folder_of(number).joinpath("checkpoints").exists() for number in range(3)] == [False, True, False]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_a_report_has_the_figures_that_there_are_trials_enough_for(search, tmp_path, count):
    opened, folder = search(), tmp_path / "study"
    for number in range(count):
        with opened.next_trial(count) as trial:
            trial.report(9.0, 1)
            trial.report(5.0 - number, 2)
            opened.tell(trial, 5.0 - number)
    with opened.next_trial(count + 1) as trial:
        opened.tell(trial, reason="too hot")
    write_report(opened.study, folder, "val/mae", "python")
    figures = ["history.png", "slices.png", "importances.png"][: 0 if count == 0 else 2 if count == 1 else 3]
    assert {path.name for path in folder.glob("*.png")} == {*figures}
    for name in figures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) >= 500
    rows = rows_of(folder)
    assert [row["state"] for row in rows] == ["complete"] * count + ["failed"]
    assert rows[-1]["reason"] == "too hot"
    content = json.loads((folder / "study.json").read_text())
    assert len(content["trials"]) == count + 1
    if count:
        assert content["best"]["trial"] == best_of(opened.study).number == count - 1
        assert content["best"]["val/mae"] == float(rows[count - 1]["val/mae"]) == 6.0 - count
        assert (content["best"]["epochs"], content["best"]["command"]) == (2, "python")
    else:
        assert content["best"] is None


# searches


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

    monkeypatch.setattr(train, "run", broken)
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
